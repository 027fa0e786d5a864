"""The request reader against a slow reference written from the RFCs, for any cut; and its limits, each by itself."""

from __future__ import annotations

from typing import Any

import pytest
from counting import counted
from http_messages import (
    BAD_FIELDS,
    BAD_FRAMINGS,
    BAD_HOSTS,
    BAD_METHODS,
    BAD_TARGETS,
    BAD_VERSIONS,
    FIELDS,
    HOSTS,
    METHODS,
    TARGETS,
    VERSIONS,
    requests,
    spoiled,
)
from hypothesis import example, given
from hypothesis import strategies as st
from reader_runs import check, pump, run
from slow_reader import CUTS, SMALL, Reference

from cfchat.errors import BodyTooLarge, HeadTooLarge, ProtocolError, TargetTooLong, UnknownCoding, UnsupportedVersion
from cfchat.wire.messages import CLOSED, NEED_DATA, Data, EndOfMessage, ReadLimits, RequestHead
from cfchat.wire.reader import RequestReader


@given(spoiled(st.lists(requests(), min_size=1, max_size=3).map(b"".join)), CUTS, st.booleans())
@example(b"\r\n\r\n\r\n", [], True)
@example(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", [], True)
def test_requests_agree_with_the_reference_for_any_cut(data: bytes, cuts: list[int], eof: bool) -> None:
    reference = Reference(data, eof)
    check(lambda: RequestReader(SMALL), data, cuts, eof, reference.outcome(reference.requests))


@given(spoiled(st.lists(requests(), min_size=1, max_size=2).map(b"".join)), CUTS, st.integers(2, 4))
def test_a_head_that_repeats_is_read_as_the_first_was(data: bytes, cuts: list[int], times: int) -> None:
    """The bytes of the last head are known again: with the same limits, body and errors as in a reader for each."""
    repeated = data * times
    reference = Reference(repeated, True)
    check(lambda: RequestReader(SMALL), repeated, cuts, True, reference.outcome(reference.requests))


def test_a_head_is_known_by_all_of_its_bytes() -> None:
    reader, head = RequestReader(), b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"
    for size in (1, 1, 2, 1):
        reader.receive_data(head % size + b"x" * size)
        first = reader.next_event()
        assert isinstance(first, RequestHead) and first.fields.get("content-length") == str(size)
        assert reader.next_event() == Data(b"x" * size)
        assert reader.next_event() == EndOfMessage()
    assert reader.next_event() is NEED_DATA


def message(**parts: str) -> bytes:
    """Return a plain request with some of its parts replaced."""
    plain = {
        "method": "POST",
        "target": "/",
        "version": "HTTP/1.1",
        "host": "Host: h",
        "field": "A: b",
        "framing": "B:",
    }
    p = plain | parts
    lines = [f"{p['method']} {p['target']} {p['version']}", p["host"], p["field"], p["framing"], "", "0\r\n\r\n"]
    return "\r\n".join(lines).encode("latin-1")


ONE_BY_ONE = {
    "method": METHODS + BAD_METHODS,
    "target": TARGETS + BAD_TARGETS,
    "version": VERSIONS + BAD_VERSIONS,
    "field": FIELDS + BAD_FIELDS,
    "host": HOSTS + BAD_HOSTS,
    "framing": BAD_FRAMINGS,
}


@pytest.mark.parametrize("part", ONE_BY_ONE)
def test_each_rule_by_itself(part: str) -> None:
    """Try every value that the generators draw from."""
    for word in ONE_BY_ONE[part]:
        for method in ({}, {"method": "OPTIONS"}, {"method": "CONNECT"}, {"version": "HTTP/1.0"}):
            data = message(**{**method, part: word})
            reference = Reference(data, eof=True)
            check(lambda: RequestReader(SMALL), data, [], True, reference.outcome(reference.requests))


@pytest.mark.parametrize("room", range(18))
def test_every_byte_of_a_head_counts(room: int) -> None:
    """Read fields and trailers of 17 bytes, with line ends, under every limit up to that."""
    section = b"A: bcd\r\nHost:\r\n\r\n"
    data = b"POST / HTTP/1.1\r\n" + section
    reader = RequestReader(ReadLimits(head=room))
    reader.receive_data(data)
    assert pump(reader, []) == ("more" if room >= len(section) else HeadTooLarge)
    reader = RequestReader(ReadLimits(trailers=room))
    reader.receive_data(message(framing="Transfer-Encoding: chunked")[:-2] + section)
    assert pump(reader, []) == ("more" if room >= len(section) else HeadTooLarge)


@given(requests())
def test_the_verdict_is_given_at_the_same_byte(data: bytes) -> None:
    """Compare events and verdict with the reference after every byte."""
    events: list[Any] = []
    reader = RequestReader(SMALL)
    for at in range(len(data)):
        reader.receive_data(data[at : at + 1])
        reference = Reference(data[: at + 1], eof=False)
        assert (events, pump(reader, events)) == reference.outcome(reference.requests)


@pytest.mark.parametrize("size", [1, 13, 10**6])
def test_the_work_is_linear(size: int) -> None:
    fields = b"".join(b"x-%d: %b\r\n" % (number, b"v" * 200) for number in range(90))
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n" + fields + b"\r\n"
    data = (head + b"3\r\nabc\r\n" * 1000 + b"0\r\n" + fields[:8000].rpartition(b"x-")[0] + b"\r\n") * 3
    reader, events = RequestReader(), list[Any]()
    counter = counted(reader._buffer)
    for at in range(0, len(data), size):
        reader.receive_data(data[at : at + size])
        assert pump(reader, events) == "more"
    assert [event[0] for event in events] == ["head", "data", "end"] * 3
    assert counter.looked_at <= 3 * len(data)


HEAD = "Host: h\r\n"

REFUSED: list[tuple[str, type[ProtocolError]]] = [
    ("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", ProtocolError),
    ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", ProtocolError),
    (f"GET / HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked, chunked\r\n\r\n", ProtocolError),
    (f"GET / HTTP/1.1\r\n{HEAD}Transfer-Encoding: gzip\r\n\r\n", UnknownCoding),
    (f"GET / HTTP/1.1\r\n{HEAD}Transfer-Encoding: br\r\n\r\n", UnknownCoding),
    (f"GET / HTTP/1.1\r\n{HEAD}Transfer-Encoding: br, chunked\r\n\r\n", UnknownCoding),
    (f"GET / HTTP/1.1\r\n{HEAD}Content-Length: 5, 5\r\n\r\n", ProtocolError),
    (f"GET / HTTP/1.1\r\n{HEAD}A: b\r\n c\r\n\r\n", ProtocolError),
    (f"GET / HTTP/1.1\n{HEAD}\r\n", ProtocolError),
    ("GET / HTTP/1.1\r\n\r\n", ProtocolError),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", ProtocolError),
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", ProtocolError),
    ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", ProtocolError),
    ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", ProtocolError),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", UnsupportedVersion),
    ("\r\n" * 5, ProtocolError),
    ("GET /" + "a" * 8192, TargetTooLong),
    ("GET / HTTP/1.1\r\n" + "a: b\r\n" * 101, HeadTooLarge),
    ("GET / HTTP/1.1\r\nHost: h\r\na: " + "b" * 32768, HeadTooLarge),
    ("GET / HTTP/1.1\r\n" + f"a: {'b' * 1000}\r\n" * 33, HeadTooLarge),
]


@pytest.mark.parametrize(("sent", "error"), REFUSED)
def test_a_malformed_request_is_refused_for_good(sent: str, error: type[ProtocolError]) -> None:
    reader = RequestReader()
    reader.receive_data(sent.encode())
    for _ in range(2):
        with pytest.raises(error) as raised:
            reader.next_event()
        assert type(raised.value) is error
        reader.receive_data(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert reader.buffered == 0


@pytest.mark.parametrize("length", ["1048577", "9" * 5000])
def test_a_length_over_the_limit_is_refused_after_its_head(length: str) -> None:
    reader = RequestReader()
    reader.receive_data(f"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n".encode())
    head = reader.next_event()
    assert isinstance(head, RequestHead) and head.path == "/a" and reader.body_pending
    with pytest.raises(BodyTooLarge):
        reader.next_event()


def test_a_length_of_twenty_digits_is_over_any_limit() -> None:
    reader = RequestReader(ReadLimits(body=8 << 20))
    reader.receive_data(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1" + b"0" * 19 + b"\r\n\r\n")
    assert isinstance(reader.next_event(), RequestHead)
    with pytest.raises(BodyTooLarge):
        reader.next_event()


def test_chunks_over_the_limit_are_refused_by_their_line() -> None:
    reader = RequestReader(ReadLimits(body=4))
    reader.receive_data(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\n")
    assert isinstance(reader.next_event(), RequestHead)
    assert reader.next_event() == Data(b"abc")
    with pytest.raises(BodyTooLarge):
        reader.next_event()


def test_trailers_have_limits_of_their_own() -> None:
    for limits, verdict in (
        (ReadLimits(fields=3), "closed"),
        (ReadLimits(fields=2), HeadTooLarge),
        (ReadLimits(trailers=17), "closed"),
        (ReadLimits(trailers=16), HeadTooLarge),
    ):
        data = b"POST / HTTP/1.1\r\nHost:\r\nTransfer-Encoding:chunked\r\n\r\n0\r\na:b\r\nc:d\r\ne:f\r\n\r\n"
        assert run(RequestReader(limits), [data], eof=True)[1] == verdict


def test_begun() -> None:
    reader = RequestReader()
    states = []
    for byte in b"\r\n\r\nGET / HTTP/1.1\r\nHost:\r\nContent-Length:1\r\n\r\nx":
        reader.receive_data(bytes([byte]))
        while reader.next_event() is not NEED_DATA:
            pass
        states.append(reader.begun)
    # A lone CR could still become anything; the last byte ends the request.
    assert states == [True, False, True, False] + [True] * (len(states) - 5) + [False]


def test_a_message_at_its_limits_passes() -> None:
    data = b"PUT / HTTP/1.1\r\nHost:h\r\na:b\r\nContent-Length:3\r\n\r\nabc"
    limits = ReadLimits(line=14, head=33, fields=3, body=3)
    assert run(RequestReader(limits), [data], eof=True)[1] == "closed"
    for smaller in (ReadLimits(line=13), ReadLimits(head=32), ReadLimits(fields=2), ReadLimits(body=2)):
        assert run(RequestReader(smaller), [data], eof=True)[1] in (TargetTooLong, HeadTooLarge, BodyTooLarge)


def test_pipelined_requests_come_one_after_the_other() -> None:
    reader = RequestReader()
    reader.receive_data(
        b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na\r\nGET /2 HTTP/1.0\r\n\r\n"
    )
    pending = []
    events: list[Any] = []
    while (event := reader.next_event()) is not NEED_DATA:
        events.append(event)
        pending.append(reader.body_pending)
    assert [type(event) for event in events] == [RequestHead, Data, EndOfMessage, RequestHead, EndOfMessage]
    assert pending == [True, True, False, True, False]
    reader.receive_eof()
    assert reader.next_event() is CLOSED is reader.next_event()
