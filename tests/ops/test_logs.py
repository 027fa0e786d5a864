"""Log lines, as text and as JSON, and traces."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from client import send
from house import house
from hypothesis import given
from hypothesis import strategies as st
from serving import WORDS, post, served
from standin import StandIn, partial

from cfchat import CfchatError, Hooks, Request
from cfchat.ops.logs import JSONLines, TextLines, _Lines, log_request, one_line, quote, read_trace
from cfchat.server.record import Record

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
    assert TextLines().format(record).splitlines()[0].endswith("ERROR it\\nfailed")
    assert "\n" not in text
    assert json.loads(text)["message"] == "it\nfailed" and "ZeroDivisionError" in json.loads(text)["traceback"]


# --- values of strangers --------------------------------------------------------------------------

ODD = 'a"b\\c\nINFO forged\x1b[2J\x9b\u202e\u2028 d'
RAW = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
TEXTS = st.text(st.characters(codec=None), max_size=250) | st.text('ab" =\\\n', max_size=6)


@contextmanager
def lines_of_access() -> Iterator[list[tuple[str, str]]]:
    """Each line of the access log, as text and as JSON."""
    lines: list[tuple[str, str]] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append((TextLines().format(record), JSONLines().format(record)))  # type: ignore[method-assign]
    logger = logging.getLogger("cfchat.access")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def logged(record: Record) -> tuple[str, str]:
    with lines_of_access() as lines:
        log_request(record)
    return lines[0]


@given(TEXTS)
def test_a_quoted_value_is_one_word_of_one_line(value: str) -> None:
    text = quote(value)
    assert text.isprintable() and len(shlex.split(text)) == 1 and len(text) < 2500
    if len(value) <= 200 and value.isprintable():
        assert shlex.split(text) == [value]
    assert not RAW.search(one_line(value))


@given(TEXTS, TEXTS, TEXTS, st.dictionaries(TEXTS | st.just("model"), TEXTS | st.integers() | st.floats(), max_size=3))
def test_no_value_leaves_its_place(client: str, method: str, path: str, notes: dict[str, object]) -> None:
    record = Record("id", client, method, path, notes, 200, fault="because" if notes else "")
    text, as_json = logged(record)
    assert not RAW.search(text) and not RAW.search(as_json) and len(text) < 10_000
    _, _, level, *words = shlex.split(text)
    names = [word.partition("=")[0] for word in words[5:]]
    assert level == "INFO" and words[4] == "200"
    cleaned = [re.sub("[^A-Za-z0-9_.-]", "?", name if len(name) <= 200 else name[:200] + "...") for name in notes]
    assert names == ["first_ms", "ms", "bytes", *cleaned, *(["fault"] if notes else [])]
    fields = json.loads(as_json)
    assert fields["status"] == 200 and fields["level"] == "info" and fields["logger"] == "cfchat.access"


BARE = [chr(code) for code in range(0x21, 0x7F) if chr(code) not in "\"'\\"]


@given(st.lists(st.text(st.sampled_from(BARE), min_size=1, max_size=20), min_size=3, max_size=6))
def test_plain_words_are_logged_as_they_are(words: list[str]) -> None:
    """A line that needs no quotes is the same by the fast case and by the slow one."""
    client, method, path, *values = words
    notes: dict[str, object] = {f"n{number}": value for number, value in enumerate(values)}
    fast, _ = logged(Record("id", client, method, path, notes, 200))
    slow, _ = logged(Record("id", client, method, path, {**notes, "last": ""}, 200))
    assert [quote(word) for word in words] == words
    assert re.sub(r"m?s=[0-9]+", "", fast)[24:] + ' last=""' == re.sub(r"m?s=[0-9]+", "", slow)[24:]


async def test_a_method_and_a_path_without_end_are_cut() -> None:
    with lines_of_access() as lines:
        async with served(WORDS) as serving:
            for asked in (b"%b /%b" % (b"M" * 4000, b"p" * 4000), b'GET /"a"'):
                await send(serving.port, asked + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    (text, as_json), (quoted, _) = lines
    assert len(text) < 1000 and len(as_json) < 1000 and f' {"M" * 200}... /{"p" * 199}... 501 ' in text
    assert r' GET "/\"a\"" 404 ' in quoted


class Unwritable:
    def __str__(self) -> str:
        raise ZeroDivisionError


async def test_notes_of_a_hook_cannot_forge_a_line() -> None:
    async def authenticate(request: Request) -> str:
        request.notes |= {"agent": ODD, "b ad=x": 1, "status": 200, "level": "none", "odd": Unwritable()}
        request.notes |= {"long": "x" * 10_000, "nan": float("nan"), "huge": 10**5000, "yes": True}
        return ""

    with lines_of_access() as lines:
        async with StandIn([WORDS]) as standin, house(standin, hooks=Hooks(authenticate=authenticate)) as cfchat:
            assert (await cfchat.post(b"[]")).status == 400
    text, as_json = lines[0]
    assert r' agent="a\"b\\c\nINFO forged\x1b[2J\x9b\u202e\u2028 d" b?ad?x=1 ' in text
    assert " odd=Unwritable " in text and " nan=nan " in text and len(text) < 1500
    fields = json.loads(as_json, parse_constant=str)
    assert not RAW.search(text + as_json) and fields["agent"] == ODD
    assert (fields["status"], fields["level"], fields["nan"], fields["yes"]) == (400, "info", "nan", True)


async def test_why_a_reply_broke_off_is_quoted() -> None:
    with lines_of_access() as lines:
        async with (
            StandIn([partial(b'data: {"response":"Hel"}\n\nevent: error\ndata: a"b\n\n', then="close")]) as standin,
            house(standin) as cfchat,
        ):
            await cfchat.post()
        record = Record("id", "127.0.0.1", "POST", "/", {}, 200, fault=f"interrupted: {CfchatError(ODD)}")
        log_request(record)
    assert lines[0][0].endswith(
        'fault="interrupted: The assistant had a fault, please try again. (status 200, code none, inside a reply)"'
    )
    assert lines[1][0].endswith(r'fault="interrupted: a\"b\\c\nINFO forged\x1b[2J\x9b\u202e\u2028 d"')


# --- what no line may hold ------------------------------------------------------------------------


def test_a_traceback_says_where_and_not_what() -> None:
    def fail() -> None:
        try:
            raise KeyError("what the user wrote\nINFO forged")
        except KeyError as error:
            raise ValueError("what the user wrote") from error

    try:
        fail()
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("cfchat", logging.ERROR, "x.py", 1, "failed", (), info)
    for text in (TextLines().format(record), json.loads(JSONLines().format(record))["traceback"]):
        assert "test_logs.py" in text and ", in fail\n" in text and "ValueError\nafter:\n" in text
        assert text.endswith("KeyError") and "forged\n" not in text and ": what" not in text


def test_messages_of_other_libraries_are_cut_before_their_values() -> None:
    """asyncio words what a callback was called with, and what a task has raised."""
    text = "Task exception was never retrieved\nfuture: <Task exception=ValueError('secret')>"
    for message in (text, "Exception in callback take(b'secret')\nhandle: <Handle take(b'secret')>"):
        line = TextLines().format(logging.LogRecord("asyncio", logging.ERROR, "", 0, message, (), None))
        assert "ERROR asyncio: " in line and "secret" not in line and len(line.splitlines()) == 1


def test_a_secret_that_got_into_a_line_is_replaced() -> None:
    secrets = ["token\\with-a-backslash", "0123456789abcdef0123456789abcdef", "t"]
    for formatter in (TextLines(), JSONLines()):
        lines = _Lines(formatter, secrets)
        record = logging.LogRecord("cfchat", logging.INFO, "", 0, "it is %s", (" ".join(secrets),), None)
        assert b"it is *** *** t" in lines._encode(record)
        broken = logging.LogRecord("cfchat", logging.INFO, "", 0, "%d", ("secret",), None)
        assert b"a log line could not be made: TypeError" in lines._encode(broken)
        lines.close()


def test_what_asyncio_reports_goes_the_same_way() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_exception_handler({"message": "it(secret)", "exception": ValueError("secret")})

    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(TextLines().format(record))  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        asyncio.run(main())
    finally:
        logging.getLogger().removeHandler(handler)
    assert "asyncio: it\n" in records[0] and records[0].endswith("ValueError") and "secret" not in records[0]
