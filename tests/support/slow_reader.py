"""Slow, obvious readers written from the RFCs: the tests compare the real readers with them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from cfchat.errors import (
    BodyTooLarge,
    HeadTooLarge,
    Incomplete,
    ProtocolError,
    TargetTooLong,
    UnknownCoding,
    UnsupportedVersion,
)
from cfchat.wire.messages import ReadLimits

TCHARS = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def is_ipv6(text: str) -> bool:
    """Return whether the standard library reads a text as an IPv6 address."""
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


LINE, EXTENSIONS, LIMIT, CHUNKS = 16, 9, 24, 4


class Starved(Exception):
    """The bytes end before the next event."""


def reference_line(data: bytes, at: int, limit: int, too_long: type[ProtocolError]) -> tuple[bytes, int]:
    """Return the line at an index and the index behind it; `limit` counts the CRLF."""
    window = data[at : at + limit]
    if b"\n" not in window:
        raise too_long("line") if len(window) == limit else Starved
    end = window.index(b"\n")
    if window[end - 1 : end] != b"\r":
        raise ProtocolError("LF")
    return window[: end - 1], at + end + 1


def _skip_token(text: bytes) -> bytes:
    """Return the text behind its leading token."""
    rest = text.lstrip(bytes(TCHARS))
    if rest == text:
        raise ProtocolError("no token")
    return rest


def _skip_quoted(text: bytes) -> bytes:
    """Return the text behind its leading quoted string."""
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
    """Return the size of a chunk and the length of its extensions (RFC 9112 §7.1)."""
    rest = line.lstrip(b"0123456789abcdefABCDEF")
    digits, extensions = line[: len(line) - len(rest)], len(rest)
    if not 1 <= len(digits) <= 16:
        raise ProtocolError("size")
    while rest:
        rest = rest.lstrip(b" \t")
        if rest[:1] != b";":
            raise ProtocolError("extension")
        rest = _skip_token(rest[1:].lstrip(b" \t"))
        if rest.lstrip(b" \t")[:1] == b"=":
            value = rest.lstrip(b" \t")[1:].lstrip(b" \t")
            rest = _skip_quoted(value) if value[:1] == b'"' else _skip_token(value)
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
    """Put the data of all chunks into `out`; return the index where the trailers begin."""
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
    """Cut data at these places."""
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
    """Build a chunked body with at most one rule broken."""
    datas = [*draw(st.lists(st.binary(min_size=1, max_size=7), max_size=5)), b""]
    broken, rule = draw(st.integers(0, len(datas) - 1)), draw(st.integers(0, 4))
    body = b""
    for number, data in enumerate(datas):
        size, extra = b"%x" % len(data), draw(st.sampled_from([b"", b"", b";a", b";a=bcd"]))
        line_end, data_end = b"\r\n", b"\r\n" if data else b""
        if number == broken:
            size = draw(SIZES).encode() if rule == 1 else size
            extra = draw(EXTRAS).encode() if rule == 2 else extra
            line_end = draw(ENDS) if rule == 3 else line_end
            data_end = draw(ENDS) if rule == 4 else data_end
        body += size + extra + line_end + data + data_end
    return body + draw(st.sampled_from([b"", b"\r\n", b"next"]))


# Small, so that generated messages reach every limit.
SMALL = ReadLimits(
    line=48,
    head=110,
    fields=4,
    body=24,
    chunk_line=16,
    chunk_extensions_total=9,
    chunks=3,
    trailers=24,
    skipped_lines=2,
    informational=2,
)


Verdict = type[ProtocolError] | str


Outcome = tuple[list[Any], Verdict]


class Reference:
    """Reads all bytes that a peer sent; `eof` says that it sends no more."""

    def __init__(self, data: bytes, eof: bool, limits: ReadLimits = SMALL) -> None:
        self.data, self.eof, self.limits = data, eof, limits
        self.at = 0
        self.begun = False
        self.events: list[Any] = []

    def outcome(self, read: Callable[[], None]) -> Outcome:
        try:
            read()
        except Starved:
            if not self.eof:
                return self.events, "more"
            inside = self.begun or self.at < len(self.data)
            return self.events, Incomplete if inside else "closed"
        except ProtocolError as error:
            return self.events, type(error)
        return self.events, "ended"

    def requests(self) -> None:
        while True:
            self.begun = False
            self.request()

    def request(self) -> None:
        for _ in range(self.limits.skipped_lines + 1):
            if line := self.line(self.limits.line + 2, TargetTooLong):
                break
        else:
            raise ProtocolError("empty lines")
        self.begun = True
        words = line.split(b" ")
        if len(words) != 3 or not set(words[0]) <= TCHARS or not words[0] or not words[1]:
            raise ProtocolError("request line")
        if any(byte <= 32 or byte >= 127 or byte == 0x23 for byte in words[1]):
            raise ProtocolError("target")
        minor = self.minor(words[2])
        method, target = words[0].decode(), words[1].decode()
        if not self.target_is_valid(method, target):
            raise ProtocolError("target")
        fields = self.fields(self.limits.head)
        hosts = [value for name, value in fields if name == "host"]
        if len(hosts) > 1 or (minor and not hosts) or not all(map(host_is_valid, hosts)):
            raise ProtocolError("host")
        length = self.framing(fields, minor, 0)
        self.events.append(("head", method, target, minor, fields))
        self.body(length)

    def response(self, method: str) -> None:
        for _ in range(self.limits.informational + 1):
            minor, status, reason = self.status_line()
            self.begun = True
            fields = self.fields(self.limits.head)
            if status >= 200:
                break
            if status == 101:
                raise ProtocolError("101")
        else:
            raise ProtocolError("1xx")
        length = self.framing(fields, minor, -1)
        self.events.append(("head", status, reason, minor, fields))
        self.body(0 if method == "HEAD" or status in (204, 304) else length)

    def status_line(self) -> tuple[int, int, str]:
        line = self.line(self.limits.line + 2, TargetTooLong)
        version, _, rest = line.partition(b" ")
        code, space, reason = rest[:3], rest[3:4], rest[4:]
        if len(code) < 3 or not set(code) <= set(b"0123456789") or not b"100" <= code <= b"599":
            raise ProtocolError("status")
        if space not in (b"", b" ") or any(byte != 9 and (byte < 32 or byte == 127) for byte in reason):
            raise ProtocolError("reason")
        return self.minor(version), int(code), reason.decode("latin-1")

    def line(self, limit: int, too_long: type[ProtocolError]) -> bytes:
        line, self.at = reference_line(self.data, self.at, limit, too_long)
        return line

    def minor(self, version: bytes) -> int:
        digits = b"0123456789"
        if len(version) != 8 or version[:5] != b"HTTP/" or version[6:7] != b".":
            raise ProtocolError("version")
        if version[5] not in digits or version[7] not in digits:
            raise ProtocolError("version")
        if version[5:6] != b"1":
            raise UnsupportedVersion("major")
        return 0 if version[7:] == b"0" else 1

    def target_is_valid(self, method: str, target: str) -> bool:
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            return host != "" and is_digits(port) and host_is_valid(host + ":1")
        if target == "*":
            return method == "OPTIONS"
        scheme, separator, rest = target.partition("://")
        if target.startswith("/") or not separator or scheme.lower() not in ("http", "https"):
            return target.startswith("/")
        authority = rest.partition("?")[0].partition("/")[0]
        return authority[:1] not in ("", ":") and host_is_valid(authority)

    def fields(self, room: int) -> list[tuple[str, str]]:
        fields: list[tuple[str, str]] = []
        while line := self.line(room, HeadTooLarge):
            room -= len(line) + 2
            if len(fields) == self.limits.fields:
                raise HeadTooLarge("number")
            name, colon, value = line.partition(b":")
            if not name or not colon or not set(name) <= TCHARS:
                raise ProtocolError("name")
            if any(byte != 9 and (byte < 32 or byte == 127) for byte in value):
                raise ProtocolError("value")
            fields.append((name.decode().lower(), value.strip(b" \t").decode("latin-1")))
        return fields

    def framing(self, fields: list[tuple[str, str]], minor: int, otherwise: int) -> int | str:
        """Return the length, -1 for a body until close, or "chunked"."""
        codings = [value for name, value in fields if name == "transfer-encoding"]
        lengths = [value for name, value in fields if name == "content-length"]
        if codings:
            words = [word.strip(" \t").lower() for value in codings for word in value.split(",")]
            if (
                lengths
                or not minor
                or not all(word and set(word.encode("latin-1")) <= TCHARS for word in words)
            ):
                raise ProtocolError("transfer-encoding")
            if "chunked" in words[:-1]:
                raise ProtocolError("chunked twice or not last")
            if words != ["chunked"]:
                raise UnknownCoding("other")
            return "chunked"
        if len(lengths) > 1 or not all(map(is_digits, lengths)):
            raise ProtocolError("content-length")
        return int(lengths[0]) if lengths else otherwise

    def body(self, length: int | str) -> None:
        trailers: list[tuple[str, str]] = []
        if length == "chunked":
            self.chunked()
            trailers = self.fields(self.limits.trailers)
        elif isinstance(length, int):
            self.sized(length)
        self.events.append(("end", trailers))

    def chunked(self) -> None:
        out: list[bytes] = []
        limits = self.limits
        try:
            self.at = reference_chunks(
                self.data, self.at, out, limits.chunk_line, limits.chunk_extensions_total, limits.body, limits.chunks
            )
        finally:
            self.data_event(b"".join(out))

    def sized(self, length: int) -> None:
        room = self.limits.body
        if room is not None and length > room:
            raise BodyTooLarge("declared")
        rest = self.data[self.at :]
        body = rest[:room] if length < 0 else rest[:length]
        self.data_event(body)
        self.at += len(body)
        if length < 0 and len(body) < len(rest):
            raise BodyTooLarge("until close")
        if len(body) < length or (length < 0 and not self.eof):
            raise Starved

    def data_event(self, data: bytes) -> None:
        if data:
            self.events.append(("data", data))


def is_digits(text: str) -> bool:
    return text != "" and set(text) <= set("0123456789")


def host_is_valid(text: str) -> bool:
    if text.startswith("["):
        literal, bracket, rest = text[1:].partition("]")
        version, dot, address = literal.partition(".")
        future = version[:1] == "v" and version[1:].isalnum() and dot and address
        return (
            bool(bracket)
            and bool(is_ipv6(literal) or future)
            and (rest[:1] + "1").strip(":") == "1"
            and (rest in ("", ":") or is_digits(rest[1:]))
        )
    name, _, port = text.partition(":")
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=")
    for part in name.split("%")[1:]:
        if len(part) < 2 or not set(part[:2]) <= set("0123456789abcdefABCDEF"):
            return False
    return set(name.replace("%", "")) <= allowed and (port == "" or is_digits(port))
