"""The decoders: any cut, a slow reference for chunks, work and limits."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import pytest
from counting import counted
from hypothesis import given
from hypothesis import strategies as st
from slow_reader import (
    CHUNKS,
    CUTS,
    EXTENSIONS,
    LIMIT,
    LINE,
    Starved,
    chunked_bodies,
    pieces_of,
    reference_chunks,
)

from cfchat.errors import BodyTooLarge, Incomplete, ProtocolError
from cfchat.wire.bodies import LAST_CHUNK, ChunkedDecoder, Decoder, LengthDecoder, UntilCloseDecoder, encode_chunk
from cfchat.wire.buffer import ReceiveBuffer

# --- what is under test, run over any cut --------------------------------------------------------

Outcome = tuple[bytes, bool, type[Exception] | None]


def drain(decoder: Decoder, buffer: ReceiveBuffer) -> bytes:
    out = b""
    while piece := decoder.read(buffer):
        out += piece
    return out


def decode(decoder: Decoder, pieces: Iterable[bytes]) -> tuple[Outcome, ReceiveBuffer]:
    """All data, whether it ended, which error."""
    buffer, out = ReceiveBuffer(), b""
    for piece in pieces:
        buffer.append(piece)
        try:
            while read := decoder.read(buffer):
                out += read
        except ProtocolError as error:
            return (out, decoder.ended, type(error)), buffer
    return (out, decoder.ended, None), buffer


def reference(data: bytes, limit: int | None = LIMIT, chunks: int | None = CHUNKS) -> Outcome:
    out: list[bytes] = []
    try:
        reference_chunks(data, 0, out, limit=limit, chunks=chunks)
    except Starved:
        return b"".join(out), False, None
    except ProtocolError as error:
        return b"".join(out), False, type(error)
    return b"".join(out), True, None


@given(chunked_bodies() | st.binary(max_size=40), CUTS)
def test_chunks_agree_with_the_reference_for_any_cut(body: bytes, cuts: list[int]) -> None:
    expected = reference(body)
    for pieces in ([body], pieces_of(body, cuts), [body[at : at + 1] for at in range(len(body))]):
        outcome, buffer = decode(ChunkedDecoder(LINE, EXTENSIONS, LIMIT, chunks=CHUNKS), pieces)
        assert outcome == expected
        assert outcome[2] or outcome[1] or buffer.size < LINE + 2


RUNS = st.lists(st.binary(max_size=9) | st.sampled_from([b"\r\n", b"a\r\n1\r\nb", b"0", b"x" * 300]), max_size=6)


@given(RUNS.map(lambda datas: b"".join(map(encode_chunk, datas))), chunked_bodies() | st.binary(max_size=40), CUTS)
def test_many_chunks_at_once_are_what_they_are_one_by_one(run: bytes, body: bytes, cuts: list[int]) -> None:
    body = run + body
    expected = reference(body, limit=None, chunks=None)
    for pieces in ([body], pieces_of(body, cuts), [body[at : at + 1] for at in range(len(body))]):
        outcome, buffer = decode(ChunkedDecoder(LINE, EXTENSIONS, alone=True), pieces)
        assert outcome == expected
        one_by_one = decode(ChunkedDecoder(LINE, EXTENSIONS), pieces)[1]
        assert outcome[2] or buffer.take(999) == one_by_one.take(999)


class Appends(ReceiveBuffer):
    """A buffer that counts how often bytes are appended: the fast case appends none."""

    __slots__ = ("times",)

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def append(self, data: bytes) -> None:
        self.times += 1
        super().append(data)


@given(RUNS, chunked_bodies() | st.binary(max_size=40), CUTS)
def test_whole_chunks_pass_by_the_buffer_and_change_nothing(run: list[bytes], body: bytes, cuts: list[int]) -> None:
    chunks = [chunk for data in run if (chunk := encode_chunk(data))]
    for pieces in ([*chunks, *pieces_of(body, cuts)], pieces_of(b"".join(chunks) + body, cuts)):
        decoder, buffer, out, error = ChunkedDecoder(LINE, EXTENSIONS, alone=True), Appends(), b"", None
        try:
            for piece in pieces:
                out += decoder.read(buffer, piece)
                out += drain(decoder, buffer)
        except ProtocolError as caught:
            error = type(caught)
        assert (out, decoder.ended, error) == reference(b"".join(pieces), limit=None, chunks=None)
        assert buffer.times <= len(pieces) - len(chunks) or pieces[: len(chunks)] != chunks


@pytest.mark.parametrize(
    ("before", "data"), [(b"5\r\n", b"1\r\na\r"), (b"5\r\nab", b"1\r\n"), (b"0\r\n", b""), (b"5\r\nabcde", None)]
)
def test_no_chunk_begins_inside_a_chunk_or_behind_the_last(before: bytes, data: bytes | None) -> None:
    decoder, buffer = ChunkedDecoder(alone=True), Appends()
    buffer.append(before)
    drain(decoder, buffer)
    if data is None:
        with pytest.raises(ProtocolError, match="longer than it says"):
            decoder.read(buffer, encode_chunk(b"a"))
    else:
        assert decoder.read(buffer, encode_chunk(b"a")) == data
    assert buffer.times == 2


def test_a_whole_chunk_passes_by_the_buffer_only_without_a_limit() -> None:
    for decoder, times in ((ChunkedDecoder(alone=True), 0), (ChunkedDecoder(alone=True, limit=9), 1)):
        buffer = Appends()
        assert decoder.read(buffer, encode_chunk(b"a")) == b"a"
        assert buffer.times == times


@pytest.mark.parametrize("data", [b"", LAST_CHUNK, b"1\r\naXX", b"1\r\na", b"2\r\na\r\n", b"1;x\r\na\r\n"])
def test_only_a_whole_plain_chunk_passes_by_the_buffer(data: bytes) -> None:
    buffer = Appends()
    with suppress(ProtocolError):
        ChunkedDecoder(alone=True).read(buffer, data)
    assert buffer.times == (1 if data else 0)


@given(st.lists(st.binary(max_size=30)), CUTS)
def test_what_is_encoded_is_decoded(datas: list[bytes], cuts: list[int]) -> None:
    body = b"".join(map(encode_chunk, datas)) + LAST_CHUNK
    outcome, buffer = decode(ChunkedDecoder(), pieces_of(body, cuts))
    assert outcome == (b"".join(datas), True, None)
    assert buffer.take(99) == b"\r\n"


def test_no_data_is_no_chunk() -> None:
    """An empty chunk would be the last."""
    assert encode_chunk(b"") == b""


@given(st.binary(max_size=12), st.integers(0, 12), st.none() | st.integers(0, 12), CUTS)
def test_a_length_takes_so_much_and_no_more(
    data: bytes, length: int, limit: int | None, cuts: list[int]
) -> None:
    outcome, buffer = decode(LengthDecoder(length, limit), pieces_of(data, cuts) or [b""])
    if limit is not None and length > limit:
        assert outcome == (b"", False, BodyTooLarge)
    else:
        assert outcome == (data[:length], len(data) >= length, None)
        assert buffer.take(99) == data[length:]


@given(st.binary(max_size=12), st.none() | st.integers(0, 6), CUTS)
def test_until_close_takes_all_up_to_its_limit(data: bytes, limit: int | None, cuts: list[int]) -> None:
    outcome, _ = decode(UntilCloseDecoder(limit), pieces_of(data, cuts))
    over = limit is not None and len(data) > limit
    assert outcome == (data[:limit], False, BodyTooLarge if over else None)


def test_the_end_of_the_connection_ends_only_what_has_no_end_of_its_own() -> None:
    until_close = UntilCloseDecoder()
    until_close.finish()
    assert until_close.ended
    for decoder in (LengthDecoder(1), ChunkedDecoder()):
        with pytest.raises(Incomplete):
            decoder.finish()
        assert not decoder.ended


def test_an_error_is_raised_again() -> None:
    decoder, buffer = ChunkedDecoder(), ReceiveBuffer()
    buffer.append(b"1\r\naXX")
    assert decoder.read(buffer) == b"a"
    for _ in range(2):
        with pytest.raises(ProtocolError):
            decoder.read(buffer)


def test_limits_are_what_still_passes() -> None:
    body = b"0000001;ab=c\r\na\r\n" + LAST_CHUNK
    for line, extensions, limit in ((12, 5, 1), (11, 5, 1), (12, 4, 1), (12, 5, 0)):
        (_, ended, error), _ = decode(ChunkedDecoder(line, extensions, limit), [body])
        assert ended is (error is None) is ((line, extensions, limit) == (12, 5, 1))


def test_so_many_chunks_still_pass() -> None:
    body = b"1\r\na\r\n" * 3 + LAST_CHUNK
    assert decode(ChunkedDecoder(chunks=3), [body])[0] == (b"aaa", True, None)
    assert decode(ChunkedDecoder(chunks=2), [body])[0] == (b"aa", False, BodyTooLarge)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\n\r", b"\0\0", b"\r\0", b"  ", b"ab", b"\xff\xff", b"\x0b\n"])
def test_what_ends_the_data_of_a_chunk_is_looked_at(end: bytes) -> None:
    """Two bytes that are skipped unseen let the next chunk begin where no other reader sees one (CVE-2025-43859)."""
    (out, ended, error), _ = decode(ChunkedDecoder(), [b"1\r\na" + end + LAST_CHUNK])
    assert (out, ended, error) == (b"a", False, ProtocolError)


def test_the_limits_where_none_are_named() -> None:
    def chunk(extension: int) -> bytes:
        return b"1;" + b"x" * (extension - 1) + b"\r\na\r\n"

    def passes(*extensions: int) -> bool:
        return decode(ChunkedDecoder(), [b"".join(map(chunk, extensions)) + LAST_CHUNK])[0][1]

    assert passes(4095) and not passes(4096)  # with its size, a line of 4,096 bytes
    assert passes(*[4095] * 4, 4) and not passes(*[4095] * 4, 5)  # 16,384 in all


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_the_work_is_linear(size: int, alone: bool) -> None:
    body = encode_chunk(b"x" * 9) * 2000 + encode_chunk(b"y" * 20_000) + LAST_CHUNK
    decoder, buffer = ChunkedDecoder(alone=alone), ReceiveBuffer()
    counter, out = counted(buffer), b""
    for at in range(0, len(body), size):
        buffer.append(body[at : at + size])
        out += drain(decoder, buffer)
    assert decoder.ended and len(out) == 38_000
    assert counter.looked_at <= 2 * len(body)
