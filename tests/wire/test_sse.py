"""The event-stream parser, against a slow reference written from the WHATWG text and at every cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Self, SupportsIndex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cfchat.errors import EventTooLarge
from cfchat.wire.sse import Event, SSEParser, encode_event

DATA = (
    *(b"data: x", b'data: {"a":1}', b"data:y", b"data:  z", b"data", b"data:", b"data: a:b", b"data: \0"),
    *(
        "data: é\u2028世\x85🤖\x0b\x0c\x1c".encode(),
        b"data: \xff\xc3",
        b"data: \xed\xa0\xbd",
        b"data: " + b"w" * 40,
    ),
)
FIELDS = (
    *(b"event: e", b"event", b"event:", b"event: \xe4\xb8", b"id: 1", b"id", b"id: \xff", b"id: a\0b"),
    *(b"retry: 12", b"abc: 3", b"zzz: 4", b"retry", b"retry:+5", b"retry: 1_0", b"retry: \xc2\xb2", b"retry:  7"),
)
OTHERS = (
    *(b": comment", b":", b"DATA: no", b"data : no", b" data: no", b"other: x", b"[DONE]"),
    *(b"\xef\xbb\xbfdata: bom", b"\xef\xbb\xbf", b"\xef\xbb"),
)
LINES = st.one_of(*map(st.sampled_from, (DATA, FIELDS, OTHERS, (b"",))))
ENDS = st.sampled_from((b"\n", b"\n", b"\r\n", b"\r"))
STARTS = st.sampled_from((b"", b"\xef\xbb\xbf"))
LAST = st.sampled_from((b"", b"data: unfinished", b"\r", b"\xf0\x9f"))


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Build lines of every kind with every end, perhaps behind a BOM, perhaps with an unfinished last line."""
    lines = draw(st.lists(st.tuples(LINES, ENDS), max_size=20))
    return draw(STARTS) + b"".join(line + end for line, end in lines) + draw(LAST)


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    points = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(points)] or [b""]


def parse(pieces: Iterable[bytes], parser: SSEParser) -> tuple[list[Event], str | None]:
    """Return the events, and the message of the error behind them if there was one."""
    events: list[Event] = []
    try:
        for piece in pieces:
            events += parser.feed(piece)
        events += parser.feed(b"")  # raises an error that came behind events
    except EventTooLarge as error:
        return events, error.message
    return events, None


def pending(parser: SSEParser) -> Event | str | None:
    try:
        return parser.pending
    except EventTooLarge as error:
        return error.message


def reference(raw: bytes) -> tuple[list[Event], int | None]:
    """Follow "Parsing an event stream" and "Interpreting an event stream" word by word."""
    data, event_type, last_id, retry, events = "", "", "", None, []
    for line in reference_lines(raw.decode("utf-8", "replace")):
        if line == "":
            if data != "":
                events.append(Event(data.removesuffix("\n"), event_type or "message", last_id))
            data, event_type = "", ""
        elif not line.startswith(":"):
            field, value = line.split(":", 1) if ":" in line else (line, "")
            value = value.removeprefix(" ")
            if field == "event":
                event_type = value
            elif field == "data":
                data += value + "\n"
            elif field == "id" and "\0" not in value:
                last_id = value
            elif field == "retry" and value and all(char in "0123456789" for char in value):
                retry = int(value)
    return events, retry


def reference_lines(text: str) -> Iterator[str]:
    """Yield each whole line, character by character. One leading BOM is not part of the stream."""
    text = text.removeprefix("\ufeff")
    line, index = "", 0
    while index < len(text):
        if text[index] in "\r\n":
            index += text[index : index + 2] == "\r\n"
            yield line
            line = ""
        else:
            line += text[index]
        index += 1


@given(streams())
@example(b"\xef\xbb\xbf\xef\xbb\xbfdata: two\n\n")
@example(b"data\n\ndata\ndata\n\ndata:")
@example(b"id: 1\nid: a\0b\ndata: x\n\nevent: e\n\ndata: y\n\n")
def test_agrees_with_the_reference(data: bytes) -> None:
    parser = SSEParser()
    events, error = parse([data], parser)
    assert (events, parser.retry) == reference(data)
    assert error is None


@given(st.binary(max_size=200))
def test_agrees_with_the_reference_on_any_bytes(data: bytes) -> None:
    assert parse([data], SSEParser())[0] == reference(data)[0]


BLOCKS = st.sampled_from((b"data: a", b"data: ", b"data:", b"data: b\n", b"\ndata: c", b"data: d\nevent: e", b": f"))


@given(st.lists(BLOCKS | st.just(b"data: \xff\xc3\xa9"), min_size=1), st.sampled_from((b"", b"id: 7\n", b"data: x\n")))
def test_whole_events_are_what_their_lines_are(blocks: list[bytes], before: bytes) -> None:
    """The fast case takes whole events of one data line each, and leaves all else to the lines."""
    data = before + b"".join(block + b"\n\n" for block in blocks)
    at_once, by_line = SSEParser(), SSEParser()
    lines = [data[: len(before)], *(line + b"\n" for line in data[len(before) :].split(b"\n")[:-1])]
    events = parse([data[: len(before)], data[len(before) :]], at_once)[0]
    assert events == parse(lines, by_line)[0] == reference(data)[0]
    assert at_once.between is by_line.between


@given(streams(), st.lists(st.integers(0, 1 << 20)), st.integers(5, 60), st.integers(1, 60))
@example(b"data: x\r\n\r\n", [8], 9, 9)
@example(b"data: x\n\xef\xbb\xbfdata: y\n\n", [9], 60, 60)
def test_any_split_gives_the_same(data: bytes, cuts: list[int], max_line: int, max_event: int) -> None:
    whole = SSEParser(max_line, max_event)
    result = parse([data], whole)
    for pieces in (split(data, cuts), split(data, range(len(data)))):
        parser = SSEParser(max_line, max_event)
        assert parse(pieces, parser) == result
        assert parser.retry == whole.retry
        assert pending(parser) == pending(whole)


@given(streams(), st.lists(st.integers(0, 1 << 20)))
def test_pending_is_what_an_end_of_line_and_an_empty_line_would_dispatch(data: bytes, cuts: list[int]) -> None:
    parser = SSEParser()
    events, _ = parse(split(data, cuts), parser)
    more = [parser.pending] if parser.pending is not None else []
    assert events + more == reference(data + b"\r\r")[0]
    assert more == ([parser.pending] if more else [])  # looking changes nothing


@given(streams(), st.lists(st.integers(0, 1 << 20)), st.integers(1, 50), st.integers(1, 50))
def test_memory_stays_under_the_limits(data: bytes, cuts: list[int], max_line: int, max_event: int) -> None:
    parser = SSEParser(max_line, max_event)
    for piece in split(data, cuts):
        parse([piece], parser)
        assert len(parser._line) <= max_line
        assert len(parser._data) <= max_event


@pytest.mark.parametrize("line", [b"data: 45678", b"data: 45678\n", b": 345678901"[:11], b"x" * 11])
def test_a_line_over_its_limit(line: bytes) -> None:
    assert SSEParser(max_line=11).feed(line) == []
    with pytest.raises(EventTooLarge):
        SSEParser(max_line=10).feed(line)


def test_an_event_over_its_limit() -> None:
    two = b"data: 123\ndata: 456\n"
    assert SSEParser(max_event=8).feed(two + b"\n") == [Event("123\n456")]
    with pytest.raises(EventTooLarge):
        SSEParser(max_event=7).feed(two)


def test_events_before_a_fault_are_not_lost_and_the_fault_stays() -> None:
    parser = SSEParser(max_line=10)
    assert parser.feed(b"data: a\n\ndata: 1234567890\n\ndata: b\n\n") == [Event("a")]
    for _ in range(2):
        with pytest.raises(EventTooLarge):
            parser.feed(b"data: c\n\n")
    with pytest.raises(EventTooLarge):
        parser.pending  # noqa: B018


def test_an_unfinished_event_is_dropped() -> None:
    parser = SSEParser()
    assert parser.feed(b"id: 7\ndata: a\n") == []
    assert parser.pending == Event("a", id="7")


def test_a_retry_of_thousands_of_digits_is_ignored() -> None:
    parser = SSEParser()
    parser.feed(b"retry: 5\nretry: " + b"9" * 5000 + b"\n")
    assert parser.retry == 5


class Counting(bytearray):
    """A buffer that counts the bytes that are put in, copied out or sliced."""

    looked = 0

    def __iadd__(self, other: bytes) -> Self:  # type: ignore[misc, override]
        self.looked += len(other)
        self.extend(other)
        return self

    def __bytes__(self) -> bytes:
        self.looked += len(self)
        return b"".join([memoryview(self)])

    def __getitem__(self, key: SupportsIndex | slice) -> bytearray:  # type: ignore[override]
        self.looked += len(self)
        return bytearray(memoryview(self)[key])


@pytest.mark.parametrize(
    "data", [b"data: " + b"x" * 20_000 + b"\n\n", b"data: x\n" * 2_000 + b"\n", b": \r\n" * 5_000]
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_the_work_is_linear(data: bytes, size: int) -> None:
    parser = SSEParser()
    line, kept = Counting(), Counting()
    parser._line, parser._data = line, kept
    parse(split(data, range(0, len(data), size)), parser)
    assert parser._line is line
    assert parser._data is kept
    assert line.looked + kept.looked <= 4 * len(data)


TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n: \0\ufeff\u2028"))


@given(TEXT, st.none() | TEXT.map(lambda name: name.replace("\n", "").replace("\r", "")))
def test_encoded_events_come_back(data: str, event: str | None) -> None:
    expected = data.replace("\r\n", "\n").replace("\r", "\n")
    assert SSEParser().feed(encode_event(data, event)) == [Event(expected, event or "message")]


@pytest.mark.parametrize("event", ["a\n", "\r", "a\r\nb"])
def test_an_event_name_is_one_line(event: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        encode_event("", event)


def test_encoding_to_the_byte() -> None:
    assert encode_event("Hi") == b"data: Hi\n\n"
    assert encode_event("a\nb", "error") == b"event: error\ndata: a\ndata: b\n\n"


def test_the_bom_counts_as_part_of_its_line() -> None:
    whole = b"\xef\xbb\xbfdata: x\n\n"
    assert [event.data for event in SSEParser(max_line=len(whole) - 2).feed(whole)] == ["x"]
    with pytest.raises(EventTooLarge):
        SSEParser(max_line=len(whole) - 3).feed(whole)


def test_default_limits() -> None:
    (event,) = SSEParser().feed(b"data: " + b"x" * ((1 << 20) - 6) + b"\n\n")
    assert len(event.data) == (1 << 20) - 6
    with pytest.raises(EventTooLarge):
        SSEParser().feed(b"data: " + b"x" * ((1 << 20) - 5) + b"\n\n")
    lines = b"data: " + b"x" * 1023 + b"\n"
    assert len(SSEParser().feed(lines * 1024 + b"\n")) == 1
    with pytest.raises(EventTooLarge):
        SSEParser().feed(lines * 1025 + b"\n")


@pytest.mark.parametrize("newline", ["\n", "\r", "\r\n"])
def test_a_newline_of_any_kind_arrives(newline: str) -> None:
    assert encode_event(f"a{newline}b") == b"data: a\ndata: b\n\n"
