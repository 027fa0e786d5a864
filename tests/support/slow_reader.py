"""Slow, obvious readers written from the RFCs: what the real ones are held against."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from itertools import pairwise

from hypothesis import strategies as st

from cfchat.errors import BodyTooLarge, ProtocolError

TCHARS = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def is_ipv6(text: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


LINE, EXTENSIONS, LIMIT, CHUNKS = 16, 9, 24, 4


class Starved(Exception):
    """There are too few bytes to say more."""


def reference_line(data: bytes, at: int, limit: int, too_long: type[ProtocolError]) -> tuple[bytes, int]:
    """The line at a place, and where the next begins; `limit` counts the CRLF."""
    window = data[at : at + limit]
    if b"\n" not in window:
        raise too_long("line") if len(window) == limit else Starved
    end = window.index(b"\n")
    if window[end - 1 : end] != b"\r":
        raise ProtocolError("LF")
    return window[: end - 1], at + end + 1


def _token(text: bytes) -> bytes:
    """The text behind a token that it must begin with."""
    rest = text.lstrip(bytes(TCHARS))
    if rest == text:
        raise ProtocolError("no token")
    return rest


def _quoted(text: bytes) -> bytes:
    at = 1
    while text[at : at + 1] not in (b'"', b""):
        step = 2 if text[at : at + 1] == b"\\" else 1
        if any(byte != 9 and (byte < 32 or byte == 127) for byte in text[at : at + step]):
            raise ProtocolError("control")
        at += step
    if text[at : at + 1] != b'"':
        raise ProtocolError("no end")
    return text[at + 1 :]


def reference_size(line: bytes) -> tuple[int, int]:
    """RFC 9112 §7.1: the size, and the length of the extensions."""
    rest = line.lstrip(b"0123456789abcdefABCDEF")
    digits, extensions = line[: len(line) - len(rest)], len(rest)
    if not 1 <= len(digits) <= 16:
        raise ProtocolError("size")
    while rest:
        rest = rest.lstrip(b" \t")
        if rest[:1] != b";":
            raise ProtocolError("extension")
        rest = _token(rest[1:].lstrip(b" \t"))
        if rest.lstrip(b" \t")[:1] == b"=":
            value = rest.lstrip(b" \t")[1:].lstrip(b" \t")
            rest = _quoted(value) if value[:1] == b'"' else _token(value)
    return int(digits, 16), extensions


def reference_chunks(
    data: bytes,
    at: int,
    out: list[bytes],
    line: int = LINE,
    extensions: int = EXTENSIONS,
    limit: int | None = LIMIT,
    chunks: int | None = CHUNKS,
) -> int:
    """Put the data into `out` as far as it goes; give where the trailers begin."""
    total = spent = 0
    while True:
        text, at = reference_line(data, at, line + 2, ProtocolError)
        size, extra = reference_size(text)
        total, spent = total + size, spent + extra
        if spent > extensions:
            raise ProtocolError("extensions")
        if limit is not None and total > limit:
            raise BodyTooLarge("body")
        if size == 0:
            return at
        if chunks is not None and len(out) == chunks:
            raise BodyTooLarge("chunks")
        out.append(data[at : at + size])
        at += size
        if len(data) < at + 2:
            raise Starved
        if data[at : at + 2] != b"\r\n":
            raise ProtocolError("CRLF")
        at += 2


def pieces_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


CUTS = st.lists(st.integers(0, 200), max_size=8)


SIZES = st.sampled_from(
    ["", "0x5", "+5", "5 ", " 5", "5_0", "g", "0" * 17, "0" * 15 + "5", "f" * 16, "19", "٥"]
)


EXTRAS = st.sampled_from(
    [";a", ";a=b", ' ;a="b;\\""', ";", ";a=", ' ;a="b', ";a\x00", ";aaaaaaaaaaaaaaaa", " "]
)


ENDS = st.sampled_from([b"\n", b"\r", b"", b"\r\r\n", b"\n\r", b"XX", b"\r\n\r\n"])


@st.composite
def chunked_bodies(draw: st.DrawFn) -> bytes:
    """A chunked body, with at most one rule broken."""
    datas = [*draw(st.lists(st.binary(min_size=1, max_size=7), max_size=5)), b""]
    broken, how = draw(st.integers(0, len(datas) - 1)), draw(st.integers(0, 4))
    body = b""
    for number, data in enumerate(datas):
        size, extra = b"%x" % len(data), draw(st.sampled_from([b"", b"", b";a", b";a=bcd"]))
        line_end, data_end = b"\r\n", b"\r\n" if data else b""
        if number == broken:
            size = draw(SIZES).encode() if how == 1 else size
            extra = draw(EXTRAS).encode() if how == 2 else extra
            line_end = draw(ENDS) if how == 3 else line_end
            data_end = draw(ENDS) if how == 4 else data_end
        body += size + extra + line_end + data + data_end
    return body + draw(st.sampled_from([b"", b"\r\n", b"next"]))
