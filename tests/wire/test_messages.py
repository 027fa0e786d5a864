"""The questions that a head answers, and the default limits."""

from __future__ import annotations

import pytest

from cfchat.wire.fields import Fields
from cfchat.wire.messages import ReadLimits, RequestHead, ResponseHead


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a%41?b?c", "/aA"),
        ("/%7e%2Da%2f%2e%2E?%41", "/~-a%2f.."),
        ("/%zz%4", "/%zz%4"),
        ("/", "/"),
        ("/x://y", "/x://y"),
        ("http://a:80", "/"),
        ("HTTPS://a?q", "/"),
        ("http://a/b/../c?d", "/b/../c"),
        ("*", "*"),
    ],
)
def test_a_target_has_a_path(target: str, path: str) -> None:
    assert RequestHead("GET", target, 1, Fields([("Host", "h")])).path == path


@pytest.mark.parametrize(
    ("minor", "connection", "kept"),
    [
        (1, [], True),
        (1, ["close"], False),
        (1, ["x", "y,\tCLOSE"], False),
        (1, ["closed"], True),
        (0, [], False),
        (0, ["Keep-Alive"], True),
        (0, ["keep-alive, close"], False),
    ],
)
def test_keep_alive(minor: int, connection: list[str], kept: bool) -> None:
    fields = Fields([("Connection", value) for value in connection])
    assert RequestHead("GET", "/", minor, fields).keep_alive is kept
    assert ResponseHead(200, "OK", minor, fields).keep_alive is kept


@pytest.mark.parametrize(
    ("fields", "follows"),
    [
        ([], False),
        ([("content-length", "0")], False),
        ([("content-length", "000")], False),
        ([("content-length", "10")], True),
        ([("content-length", "01")], True),
        ([("transfer-encoding", "chunked")], True),
    ],
)
def test_has_body(fields: list[tuple[str, str]], follows: bool) -> None:
    assert RequestHead("POST", "/", 1, Fields(fields)).has_body is follows


@pytest.mark.parametrize(
    ("minor", "expect", "something_else", "to_continue"),
    [
        (1, None, False, False),
        (1, "", False, False),
        (1, "100-continue", False, True),
        (1, "100-Continue", False, True),
        (1, "100-CONTINUE", False, True),
        (1, "magic", True, False),
        (1, "x", True, False),
        (1, "100-continue, magic", True, True),
        (0, "100-continue", False, False),
        (0, "magic", False, False),
    ],
)
def test_expectations(minor: int, expect: str | None, something_else: bool, to_continue: bool) -> None:
    head = RequestHead("POST", "/", minor, Fields([] if expect is None else [("Expect", expect)]))
    assert (head.expects_something_else, head.expects_continue) == (something_else, to_continue)


def test_default_limits() -> None:
    assert ReadLimits() == ReadLimits(
        line=8192,
        head=32768,
        fields=100,
        body=1048576,
        chunk_line=4096,
        chunk_extensions_total=16384,
        chunks=65536,
        trailers=8192,
        skipped_lines=4,
        informational=8,
    )
