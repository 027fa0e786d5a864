"""Log lines, as text and as JSON, and traces."""

from __future__ import annotations

import json
import logging
import re

import pytest
from serving import WORDS, post, served

from cfchat.ops.logs import JSONLines, read_trace

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("field", "notes"),
    [
        (f"00-{TRACE}-{SPAN}-01", {"trace": TRACE, "parent": SPAN}),
        (f"cc-{TRACE}-{SPAN}-01-what-will-be", {"trace": TRACE, "parent": SPAN}),
        (f"00-{TRACE}-{SPAN}-01-more", {}),
        (f"ff-{TRACE}-{SPAN}-01", {}),
        (f"00-{'0' * 32}-{SPAN}-01", {}),
        (f"00-{TRACE}-{'0' * 16}-01", {}),
        (f"00-{TRACE.upper()}-{SPAN}-01", {}),
        (f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01", {}),
        ("", {}),
        (None, {}),
    ],
)
def test_only_a_well_formed_field_names_a_trace(field: str | None, notes: dict[str, str]) -> None:
    assert read_trace(field) == notes


@pytest.mark.parametrize(("field", "seen"), [(f"00-{TRACE}-{SPAN}-01", True), ("00-evil-evil-01", False)])
async def test_a_trace_is_in_the_log(field: str, seen: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cfchat")
    async with served(WORDS) as serving:
        await post(serving.port, fields=f"traceparent: {field}\r\n")
    line = next(line for line in caplog.messages if "POST /api/chatbot" in line)
    assert (f" trace={TRACE} parent={SPAN} " in line) == seen
    assert "evil" not in caplog.text


async def test_json_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cfchat")
    async with served(WORDS) as serving:
        await post(serving.port, fields=f"traceparent: 00-{TRACE}-{SPAN}-01\r\n")
        answer = await post(serving.port, b"[]")
    lines = [json.loads(JSONLines().format(record)) for record in caplog.records]
    requests = [line for line in lines if line.get("method") == "POST"]
    assert [line["status"] for line in requests] == [200, 400]
    assert requests[0].items() >= {
        "level": "info", "logger": "cfchat.access", "path": "/api/chatbot", "client": "127.0.0.1",
        "trace": TRACE, "parent": SPAN, "tries": 1, "bytes": 5,
    }.items()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", requests[0]["time"])
    assert requests[1]["id"] == answer.fields["x-request-id"]
    assert any("list of models" in line.get("message", "") for line in lines)


def test_a_traceback_is_part_of_its_line() -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError as error:
        info = (ZeroDivisionError, error, error.__traceback__)
    record = logging.LogRecord("cfchat", logging.ERROR, "x.py", 1, "it\nfailed", (), info)
    text = JSONLines().format(record)
    assert "\n" not in text
    assert json.loads(text)["message"] == "it\nfailed" and "ZeroDivisionError" in json.loads(text)["traceback"]
