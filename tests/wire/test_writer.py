"""The writer against the readers: every head is read as it was written, and nothing can be injected."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from http_messages import METHODS
from hypothesis import given
from hypothesis import strategies as st
from reader_runs import run

from cfchat.errors import ProtocolError
from cfchat.wire.fields import Fields
from cfchat.wire.messages import RequestHead, ResponseHead
from cfchat.wire.reader import RequestReader, ResponseReader
from cfchat.wire.writer import encode_request_head, encode_response_head

NAMES = st.text(alphabet="abcXYZ-!_09", min_size=1, max_size=8).map("x-".__add__)
VALUES = st.text(alphabet=st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=12).map(
    lambda text: text.strip(" \t")
)

ITEMS = st.lists(st.tuples(NAMES, VALUES), max_size=6)


def lowered(items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in items]


@given(st.sampled_from(METHODS[:3]), st.sampled_from(["/", "/a?b", "http://h/"]), ITEMS)
def test_a_request_head_is_read_as_it_was_written(method: str, target: str, items: list[tuple[str, str]]) -> None:
    reader = RequestReader()
    reader.receive_data(encode_request_head(method, target, [("Host", "h"), *items]))
    assert reader.next_event() == RequestHead(method, target, 1, Fields([("host", "h"), *items]))


@given(st.integers(200, 599), ITEMS)
def test_a_response_head_is_read_as_it_was_written(status: int, items: list[tuple[str, str]]) -> None:
    reader = ResponseReader()
    reader.receive_data(encode_response_head(status, items))
    head = reader.next_event()
    assert isinstance(head, ResponseHead)
    assert (head.status, list(head.fields)) == (status, lowered(items))


@given(
    st.text(max_size=6), st.text(max_size=6) | st.sampled_from(["a\r\nb: c", "a\nb", "\x00", "\u0100", "a "])
)
def test_nothing_can_be_injected(name: str, value: str) -> None:
    """A name and a value are read as that one field, or refused before they are written."""
    try:
        encoded = encode_response_head(200, [(name, value), ("content-length", "0")])
    except ValueError as error:
        assert "malformed" in str(error) or "Latin-1" in str(error)
        return
    reader = ResponseReader()
    reader.receive_data(encoded)
    head = reader.next_event()
    assert isinstance(head, ResponseHead)
    assert list(head.fields) == [(name.lower(), value), ("content-length", "0")]


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET ", "/"),
        ("", "/"),
        ("G\r\n", "/"),
        ("GET", ""),
        ("GET", "/ x"),
        ("GET", "/\r\n"),
        ("GET", "/é"),
        ("G", "/#"),
    ],
)
def test_no_request_line_can_be_injected(method: str, target: str) -> None:
    with pytest.raises(ValueError):
        encode_request_head(method, target, [])


@pytest.mark.parametrize("code", range(256))
def test_a_target_is_visible_ascii_without_a_fragment(code: int) -> None:
    target = "/" + chr(code)
    data = f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode("latin-1")
    if 0x21 <= code <= 0x7E and target != "/#":
        assert encode_request_head("GET", target, [("Host", "h")]) == data
        assert run(RequestReader(), [data], eof=True)[1] == "closed"
    else:
        with pytest.raises(ValueError):
            encode_request_head("GET", target, [])
        assert run(RequestReader(), [data], eof=True)[1] is ProtocolError


@pytest.mark.parametrize("status", [-1, 0, 99, 600, 1000])
def test_a_status_has_three_digits(status: int) -> None:
    with pytest.raises(ValueError, match=r"^the status is not between 100 and 599$"):
        encode_response_head(status, [])


def test_an_error_names_the_part_and_does_not_show_it() -> None:
    for method, target, fields, message in (
        ("se cret", "/", [], "a method is malformed"),
        ("GET", "/se cret", [], "a target is malformed"),
        ("GET", "/", [("se cret", "a")], "a field name is malformed"),
        ("GET", "/", [("a", "sec\nret")], "a field value is malformed"),
        ("GET", "/", [("a", "secr\u20act")], "a field value is not Latin-1"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            encode_request_head(method, target, fields)


def test_a_status_without_a_name_has_no_reason() -> None:
    assert encode_response_head(100, []) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert encode_response_head(599, []) == b"HTTP/1.1 599 \r\n\r\n"
    assert encode_response_head(200, [("A", "b")]) == b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
