"""The response reader against a slow reference, for any cut; and when its connection can be used again."""

from __future__ import annotations

from typing import Any

import pytest
from http_messages import responses, spoiled
from hypothesis import given
from hypothesis import strategies as st
from reader_runs import check, pump, run
from slow_reader import CUTS, SMALL, Reference, Verdict, chunked_bodies, pieces_of

from cfchat.errors import BodyTooLarge, HeadTooLarge, Incomplete, ProtocolError, UnknownCoding, UnsupportedVersion
from cfchat.wire.messages import CLOSED, NEED_DATA, Data, EndOfMessage, ReadLimits, ResponseHead
from cfchat.wire.reader import ResponseReader


@given(spoiled(responses()), CUTS, st.booleans(), st.sampled_from(["POST", "HEAD"]))
def test_responses_agree_with_the_reference_for_any_cut(data: bytes, cuts: list[int], eof: bool, method: str) -> None:
    reference = Reference(data, eof)
    expected = reference.outcome(lambda: reference.response(method))
    check(lambda: ResponseReader(SMALL, method), data, cuts, eof, expected)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("sent", "method", "reusable"),
    [
        (OK + b"Content-Length: 1\r\n\r\na", "POST", True),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", "POST", True),
        (OK + b"Content-Length: 9\r\n\r\n", "HEAD", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "POST", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "GET", True),
        (b"HTTP/1.1 103\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n", "POST", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", "POST", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "POST", False),
        (OK + b"Content-Length: 0\r\nConnection: close\r\n\r\n", "POST", False),
        (OK + b"Content-Length: 1\r\n\r\nab", "POST", False),
        (OK + b"Content-Length: 0\r\n\r\n" + OK, "POST", False),
    ],
)
def test_reuse(sent: bytes, method: str, reusable: bool) -> None:
    reader = ResponseReader(request_method=method)
    reader.receive_data(sent)
    assert pump(reader, []) == "ended"
    assert reader.reusable is reusable


@pytest.mark.parametrize("fields", [b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_tunnel_begins_behind_the_head(fields: bytes) -> None:
    """A tunnel has no body (RFC 9112 §6.3, second rule); a refused CONNECT has one."""
    reader = ResponseReader(request_method="CONNECT")
    reader.receive_data(b"HTTP/1.1 200 Connection established\r\n" + fields + b"\r\ntunnel")
    assert [type(event) for event in (reader.next_event(), reader.next_event())] == [ResponseHead, EndOfMessage]
    assert reader.buffered == len(b"tunnel")
    refused = ResponseReader(request_method="CONNECT")
    refused.receive_data(b"HTTP/1.1 407 No\r\nContent-Length: 3\r\n\r\nno!")
    refused.next_event()
    assert refused.next_event() == Data(b"no!")
    assert refused.buffered == 0


@pytest.mark.parametrize(("status", "tunnel"), [(200, True), (204, True), (299, True), (300, False), (407, False)])
def test_which_statuses_open_a_tunnel(status: int, tunnel: bool) -> None:
    reader = ResponseReader(request_method="CONNECT")
    reader.receive_data(f"HTTP/1.1 {status} X\r\nContent-Length: 3\r\n\r\nabc".encode())
    assert isinstance(reader.next_event(), ResponseHead)
    assert type(reader.next_event()) is (EndOfMessage if tunnel else Data)


def test_every_status_below_200_is_passed_over() -> None:
    reader = ResponseReader()
    reader.receive_data(b"HTTP/1.1 199 X\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    head = reader.next_event()
    assert isinstance(head, ResponseHead) and head.status == 200


def test_a_response_is_reusable_at_its_end_and_not_before() -> None:
    reader = ResponseReader()
    reader.receive_data(OK + b"Content-Length: 1\r\n\r\n")
    assert isinstance(head := reader.next_event(), ResponseHead) and head.reason == "OK"
    assert not reader.reusable
    reader.receive_data(b"a")
    assert pump(reader, []) == "ended" and reader.reusable
    reader.start_next("HEAD")
    reader.receive_data(b"HTTP/1.1 599\r\nContent-Length: 1\r\n\r\n")
    assert isinstance(head := reader.next_event(), ResponseHead) and head.reason == ""
    assert type(reader.next_event()) is EndOfMessage and reader.reusable


@pytest.mark.parametrize("fields", [b"", b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_every_framing_of_a_response_has_a_limit(fields: bytes) -> None:
    body = b"4\r\nabcd\r\n0\r\n\r\n" if b"chunked" in fields else b"abcd"
    for limit, verdict in ((3, BodyTooLarge), (4, "ended")):
        reader = ResponseReader(ReadLimits(body=limit))
        assert run(reader, [OK + fields + b"\r\n" + body], eof=True)[1] == verdict


def test_one_response_after_the_other() -> None:
    reader = ResponseReader(request_method="HEAD")
    reader.receive_data(OK + b"Content-Length: 5\r\n\r\n")
    assert not reader.reusable
    assert pump(reader, []) == "ended"
    assert reader.next_event() is NEED_DATA
    reader.start_next("POST")
    assert not reader.reusable
    reader.receive_data(OK + b"Content-Length: 5\r\n\r\nhello")
    events: list[Any] = []
    assert pump(reader, events) == "ended" and events[1] == ("data", b"hello")
    reader.receive_eof()
    assert not reader.reusable and reader.next_event() is CLOSED
    with pytest.raises(AssertionError):
        reader.start_next("POST")


@pytest.mark.parametrize(
    ("sent", "verdict"),
    [
        (b"", "closed"),
        (b"\r\n", ProtocolError),
        (b"H", Incomplete),
        (b"HTTP/1.1 100\r\n\r\n", Incomplete),
        (b"HTTP/1.1 100\r\n\r\n" * 8 + OK + b"\r\n", "ended"),
        (b"HTTP/1.1 100\r\n\r\n" * 9 + OK + b"\r\n", ProtocolError),
        (b"HTTP/1.1 101\r\n\r\n", ProtocolError),
        (OK + b"Content-Length: 2\r\n\r\na", Incomplete),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", Incomplete),
        (OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n", ProtocolError),
        (OK + b"Transfer-Encoding: gzip\r\n\r\n", UnknownCoding),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ProtocolError),
        (OK + b"a: b\r\n" * 101, HeadTooLarge),
        (b"HTTP/3.1 200 OK\r\n\r\n", UnsupportedVersion),
    ],
)
def test_how_a_response_can_end(sent: bytes, verdict: Verdict) -> None:
    assert run(ResponseReader(), [sent] if sent else [], eof=True)[1] == verdict


def test_a_response_until_close_has_no_limit_where_none_is_set() -> None:
    reader = ResponseReader(ReadLimits(body=None))
    reader.receive_data(OK + b"\r\n" + b"x" * 2_000_000)
    reader.receive_eof()
    events: list[Any] = []
    assert pump(reader, events) == "ended"
    assert len(events[1][1]) == 2_000_000 and not reader.reusable


def test_read_body_agrees_with_events_wherever_a_chunk_is_cut() -> None:
    chunk = b"1\r\na\r\n"
    reader = ResponseReader(ReadLimits(body=None))
    reader.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert isinstance(reader.next_event(), ResponseHead)
    assert reader.read_body(chunk) == b"a" and reader.next_event() is NEED_DATA
    assert reader.read_body(b"5") == b"" and reader.next_event() is NEED_DATA
    assert reader.read_body(b"\r\nhello\r\n") == b"hello" and reader.next_event() is NEED_DATA
    assert reader.read_body(chunk) == b"a" and not reader.complete
    for data in (b"x\r\n", chunk):
        with pytest.raises(ProtocolError):
            reader.read_body(data)
    with pytest.raises(ProtocolError):
        reader.next_event()


@pytest.mark.parametrize("fields", [b"Content-Length: 99\r\n", b""])
def test_read_body_reads_a_chunk_only_where_the_body_is_chunked(fields: bytes) -> None:
    reader = ResponseReader(ReadLimits(body=None))
    reader.receive_data(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n")
    assert isinstance(reader.next_event(), ResponseHead)
    assert reader.read_body(b"1\r\na\r\n") == b"1\r\na\r\n"


def test_read_body_goes_to_the_end_of_the_response() -> None:
    reader = ResponseReader(ReadLimits(body=None))
    reader.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert isinstance(reader.next_event(), ResponseHead)
    assert reader.read_body(b"1\r\na\r\n0\r\n\r\n") == b"a"
    assert reader.complete and reader.reusable


def test_read_end_gives_the_rest_or_says_that_it_is_cut() -> None:
    for fields, verdict in ((b"", None), (b"Content-Length: 9\r\n", Incomplete)):
        reader = ResponseReader(ReadLimits(body=None))
        reader.receive_data(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\nabc")
        assert isinstance(reader.next_event(), ResponseHead)
        reader.receive_eof()
        if verdict is None:
            assert reader.read_end() == b"abc" and reader.complete
        else:
            with pytest.raises(verdict):
                reader.read_end()


BODIES = [OK + b"Content-Length: 9\r\n\r\n", OK + b"\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\n"]


@given(st.sampled_from(BODIES), chunked_bodies() | st.binary(max_size=40), CUTS, st.integers(0, 9))
def test_read_body_is_what_the_events_say_for_any_cut(head: bytes, body: bytes, cuts: list[int], pulled: int) -> None:
    """So many reads are pulled before; the body, the end of the message and the verdict are the same."""

    def pull(reader: ResponseReader, data: bytearray) -> None:
        while type(event := reader.next_event()) is Data:
            data += event.data

    outcomes = []
    for pushed in (False, True):
        reader, data, error = ResponseReader(ReadLimits(body=None)), bytearray(), None
        reader.receive_data(head)
        assert isinstance(reader.next_event(), ResponseHead)
        try:
            for number, piece in enumerate(pieces_of(body, cuts)):
                if pushed and number >= pulled:
                    data += reader.read_body(piece)
                else:
                    reader.receive_data(piece)
                    pull(reader, data)
            reader.receive_eof()
            if pushed:
                data += reader.read_end()
            else:
                pull(reader, data)
        except ProtocolError as caught:
            error = type(caught)
        outcomes.append((data, reader.complete, error))
    assert outcomes[0] == outcomes[1]


def test_data_before_a_broken_trailer_is_handed_on_before_the_error() -> None:
    """All of it in one read: the words first, the error at the next call."""
    reader = ResponseReader(ReadLimits(body=None))
    reader.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert isinstance(reader.next_event(), ResponseHead)
    assert reader.read_body(b"1\r\na\r\n" * 4 + b"0\r\n\n") == b"aaaa"
    with pytest.raises(ProtocolError):
        reader.read_body(b"")
