"""The readers against a slow reference written from the RFCs, for any cut; and the writers against the readers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from counting import counted
from hypothesis import example, given
from hypothesis import strategies as st
from slow_reader import CUTS, TCHARS, Starved, chunked_bodies, is_ipv6, pieces_of, reference_chunks, reference_line

from cfchat.errors import (
    BodyTooLarge,
    HeadTooLarge,
    Incomplete,
    ProtocolError,
    TargetTooLong,
    UnknownCoding,
    UnsupportedVersion,
)
from cfchat.wire.fields import Fields
from cfchat.wire.messages import CLOSED, NEED_DATA, Data, EndOfMessage, ReadLimits, RequestHead, ResponseHead
from cfchat.wire.reader import RequestReader, ResponseReader
from cfchat.wire.writer import encode_request_head, encode_response_head

# Small, so that what is generated meets every one of them.
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

# --- the slow reference: whole input in, everything out ------------------------------------------


class Reference:
    """Reads a prefix of what a peer sends; `eof` says that it sent no more."""

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
        scheme, found, rest = target.partition("://")
        if target.startswith("/") or not found or scheme.lower() not in ("http", "https"):
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
        """A length, -1 for until close, or "chunked"."""
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
        literal, found, rest = text[1:].partition("]")
        version, dot, address = literal.partition(".")
        future = version[:1] == "v" and version[1:].isalnum() and dot and address
        return (
            bool(found)
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


# --- what is under test, run over any cut --------------------------------------------------------

Reader = RequestReader | ResponseReader


def plain(event: RequestHead | ResponseHead | Data | EndOfMessage) -> tuple[Any, ...]:
    match event:
        case RequestHead(method, target, minor, fields):
            return ("head", method, target, minor, list(fields))
        case ResponseHead(status, reason, minor, fields):
            return ("head", status, reason, minor, list(fields))
        case Data(data):
            assert data
            return ("data", data)
        case EndOfMessage(trailers):
            return ("end", list(trailers))


# What a client is told.
SENTENCE = re.compile(r"[A-Z].*[a-z]\.")


def pump(reader: Reader, events: list[Any]) -> Verdict:
    """Read all events there are; data that follows data is joined to it."""
    while True:
        try:
            event = reader.next_event()
        except ProtocolError as error:
            assert reader.buffered == 0
            assert SENTENCE.fullmatch(error.message)
            return type(error)
        if event is NEED_DATA or event is CLOSED:
            return "more" if event is NEED_DATA else "closed"
        assert not isinstance(event, type(NEED_DATA))
        new = plain(event)
        if new[0] == "data" and events and events[-1][0] == "data":
            new = ("data", events.pop()[1] + new[1])
        events.append(new)
        if new[0] == "end" and isinstance(reader, ResponseReader):
            return "ended"


def run(reader: Reader, pieces: Iterable[bytes], eof: bool) -> Outcome:
    events: list[Any] = []
    verdict: Verdict = "more"
    for piece in pieces:
        reader.receive_data(piece)
        verdict = pump(reader, events)
        if verdict != "more":
            return events, verdict
        # No state waits with more than the longest thing it waits for.
        assert reader.buffered < SMALL.head
    if eof:
        reader.receive_eof()
        verdict = pump(reader, events)
    return events, verdict


def check(make: Callable[[], Reader], data: bytes, cuts: list[int], eof: bool, expected: Outcome) -> None:
    for pieces in ([data], pieces_of(data, cuts), [data[at : at + 1] for at in range(len(data))]):
        assert run(make(), pieces, eof) == expected


# --- generators: from the grammar, one rule broken -----------------------------------------------

METHODS = ["GET", "POST", "OPTIONS", "CONNECT", "BREW"]
BAD_METHODS = ["", "G@T", " GET", "GET\t", "\r", "PRI"]
TARGETS = ["/", "/api?x=1", "*", "http://a.b/c?d", "HTTP://[::1]:80", "a:443", "/|"]
BAD_TARGETS = [
    "",
    "a",
    "/ b",
    "/#",
    "/\xe9",
    "/\x00",
    "http://",
    "http://:80/",
    "http://u@a/",
    "ftp://a/",
    "/" * 60,
]
VERSIONS = ["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.9"]
BAD_VERSIONS = [
    "HTTP/2.0",
    "HTTP/1.1 ",
    "http/1.1",
    "HTTP/1.10",
    "HTTP/1",
    "",
    "HTTP/11",
    "HTTP/0.9",
    "HTTP/1.\xb2",
]
ENDS = ["\n", "\r", "", "\r\r\n", "\n\r\n", "\r\n "]
FIELDS = ["A: b", "a:\t\xff ", "Connection: close, x", "connection:keep-alive", "Expect: 100-continue", "B:"]
BAD_FIELDS = [
    "A : b",
    ": b",
    " a: b",
    "\ta: b",
    "a",
    "a: \x00",
    "a: b\rc",
    "a\xe9: b",
    "a:" + "b" * 110,
    "a: \x7f",
]
HOSTS = ["Host: a", "HOST:", "host: [::1]:80", "host:a.b:80"]
BAD_HOSTS = [
    "Host: a b",
    "Host: a@b",
    "Host: [::1",
    "Host: a\r\nHost: a",
    "X: y",
    "Host: \xe9",
    "Host: a:b",
    "Host:%4",
]
BAD_FRAMINGS = [
    "Content-Length: 1\r\nContent-Length: 1",
    "Content-Length: 1, 1",
    "Content-Length: +1",
    "Content-Length: 1_0",
    "Content-Length: \xb2",
    "Content-Length: -0",
    "Content-Length: ",
    "Content-Length: 25",
    "Content-Length: 00000000000000000000001",
    "Content-Length: " + "9" * 40,
    "Content-Length: 0\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, gzip",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding: chunked\xa0",
    'Transfer-Encoding: "chunked"',
    "Transfer-Encoding: chunked;a=b",
    "Transfer-Encoding: ,chunked",
    "Transfer-Encoding:",
]


def pick(draw: st.DrawFn, broken: bool, good: list[str], bad: list[str]) -> str:
    return draw(st.sampled_from(bad if broken else good))


@st.composite
def framed_bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """The framing field, and a body that mostly fits it."""
    if draw(st.booleans()):
        trailers = draw(
            st.sampled_from([b"", b"\r\n", b"a: b\r\n\r\n", b"a : b\r\n\r\n", b"a: " + b"b" * 30])
        )
        return draw(
            st.sampled_from(["Transfer-Encoding: chunked", "TE: x\r\nTransfer-encoding:\tCHUNKED "])
        ), (draw(chunked_bodies()) + trailers)
    body = draw(st.binary(max_size=20))
    return (f"Content-Length: {len(body)}" if body or draw(st.booleans()) else "A: b"), body


def finish(draw: st.DrawFn, start: list[str], breaks: int, host: str | None) -> bytes:
    """A message: its start line, fields and body; which rule is broken is a number."""
    framing, body = draw(framed_bodies())
    if breaks == 4:
        framing = draw(st.sampled_from(BAD_FRAMINGS))
    count = draw(st.integers(0, 6 if breaks == 5 else 1))
    fields = [pick(draw, breaks == 6, FIELDS, BAD_FIELDS) for _ in range(count)]
    fields = draw(st.permutations([*fields, framing, *([host] if host is not None else [])]))
    lines = [" ".join(start), *fields, ""]
    ends = ["\r\n"] * len(lines)
    if breaks == 7:
        ends[draw(st.integers(0, len(ends) - 1))] = draw(st.sampled_from(ENDS))
    return "".join(map(str.__add__, lines, ends)).encode("latin-1") + body


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    breaks = draw(st.integers(0, 12))
    start = [
        pick(draw, breaks == 1, METHODS, BAD_METHODS),
        pick(draw, breaks == 2, TARGETS, BAD_TARGETS),
        pick(draw, breaks == 3, VERSIONS, BAD_VERSIONS),
    ]
    if start[0] in METHODS and start[1] in TARGETS and breaks != 9:
        start[0] = {"*": "OPTIONS", "a:443": "CONNECT"}.get(start[1], "POST")
    skipped = b"\r\n" * draw(st.integers(0, 4 if breaks == 10 else 1))
    return skipped + finish(draw, start, breaks, pick(draw, breaks == 8, HOSTS, BAD_HOSTS))


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    breaks = draw(st.integers(0, 10))
    start = [
        pick(draw, breaks == 1, VERSIONS, BAD_VERSIONS),
        pick(
            draw,
            breaks == 2,
            ["200", "404", "204", "304", "500"],
            ["99", "600", "20", "2000", "+20", "2\xb20", ""],
        ),
        pick(draw, breaks == 3, ["OK", "", "a\tb \xff"], ["\x00", "a\rb", "x" * 60]),
    ]
    informational = st.sampled_from([b"HTTP/1.1 100 \r\n\r\n", b"HTTP/1.1 103\r\nLink: x\r\n\r\n"])
    ahead = b"".join(draw(st.lists(informational, max_size=4 if breaks == 8 else 1)))
    if breaks == 9:
        ahead += b"HTTP/1.1 101 Switching\r\n\r\n"
    return ahead + finish(draw, start, breaks, None)


def spoiled(messages: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """As it is, cut off, or with one byte put in."""
    places, noise = st.integers(0, 200), st.sampled_from([b"", b"\r", b"\n", b"\x00", b" ", b":", b"0"])
    cut = st.builds(lambda data, at: data[:at], messages, places)
    inserted = st.builds(lambda data, at, byte: data[:at] + byte + data[at:], messages, places, noise)
    return messages | messages | cut | inserted | st.binary(max_size=60)


# --- the properties --------------------------------------------------------------------------------


@given(spoiled(st.lists(requests(), min_size=1, max_size=3).map(b"".join)), CUTS, st.booleans())
@example(b"\r\n\r\n\r\n", [], True)
@example(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", [], True)
def test_requests_agree_with_the_reference_for_any_cut(data: bytes, cuts: list[int], eof: bool) -> None:
    reference = Reference(data, eof)
    check(lambda: RequestReader(SMALL), data, cuts, eof, reference.outcome(reference.requests))


@given(spoiled(responses()), CUTS, st.booleans(), st.sampled_from(["POST", "HEAD"]))
def test_responses_agree_with_the_reference_for_any_cut(
    data: bytes, cuts: list[int], eof: bool, method: str
) -> None:
    reference = Reference(data, eof)
    expected = reference.outcome(lambda: reference.response(method))
    check(lambda: ResponseReader(SMALL, method), data, cuts, eof, expected)


def message(**parts: str) -> bytes:
    """A plain request with some of its parts replaced."""
    whole = {
        "method": "POST",
        "target": "/",
        "version": "HTTP/1.1",
        "host": "Host: h",
        "field": "A: b",
        "framing": "B:",
    }
    words = whole | parts
    start = " ".join([words["method"], words["target"], words["version"]])
    return "\r\n".join([start, words["host"], words["field"], words["framing"], "", "0\r\n\r\n"]).encode(
        "latin-1"
    )


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
    """What the generators draw from, every one of it once."""
    for word in ONE_BY_ONE[part]:
        for method in ({}, {"method": "OPTIONS"}, {"method": "CONNECT"}, {"version": "HTTP/1.0"}):
            data = message(**{**method, part: word})
            reference = Reference(data, eof=True)
            check(lambda: RequestReader(SMALL), data, [], True, reference.outcome(reference.requests))


@pytest.mark.parametrize("room", range(18))
def test_every_byte_of_a_head_counts(room: int) -> None:
    """Fields and trailers of 17 bytes, line ends counted, under all limits up to there."""
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
    """After every prefix, whole or byte by byte, the same is known."""
    events: list[Any] = []
    reader = RequestReader(SMALL)
    for at in range(len(data)):
        reader.receive_data(data[at : at + 1])
        reference = Reference(data[: at + 1], eof=False)
        assert (events, pump(reader, events)) == reference.outcome(reference.requests)


NAMES = st.text(alphabet="abcXYZ-!_09", min_size=1, max_size=8).map("x-".__add__)
VALUES = st.text(alphabet=st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=12).map(
    lambda text: text.strip(" \t")
)
ITEMS = st.lists(st.tuples(NAMES, VALUES), max_size=6)


def lowered(items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in items]


@given(st.sampled_from(METHODS[:3]), st.sampled_from(["/", "/a?b", "http://h/"]), ITEMS)
def test_a_request_head_is_read_as_it_was_written(
    method: str, target: str, items: list[tuple[str, str]]
) -> None:
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
    """Whatever is written is read as one field with that name and value, or was not written."""
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


def test_what_is_wrong_is_named_and_not_shown() -> None:
    for method, target, fields, told in (
        ("se cret", "/", [], "a method is malformed"),
        ("GET", "/se cret", [], "a target is malformed"),
        ("GET", "/", [("se cret", "a")], "a field name is malformed"),
        ("GET", "/", [("a", "sec\nret")], "a field value is malformed"),
        ("GET", "/", [("a", "secr\u20act")], "a field value is not Latin-1"),
    ):
        with pytest.raises(ValueError, match=f"^{told}$"):
            encode_request_head(method, target, fields)


def test_a_status_without_a_name_has_no_reason() -> None:
    assert encode_response_head(100, []) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert encode_response_head(599, []) == b"HTTP/1.1 599 \r\n\r\n"
    assert encode_response_head(200, [("A", "b")]) == b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"


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


# --- limits and refusals, each by name -----------------------------------------------------------

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
def test_it_is_refused_and_stays_refused(sent: str, error: type[ProtocolError]) -> None:
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


def test_the_limits_where_none_are_named() -> None:
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


@pytest.mark.parametrize(
    ("minor", "expect", "something_else", "to_continue"),
    [
        (1, None, False, False),
        (1, "", False, False),
        (1, "100-continue", False, True),
        (1, "100-CONTINUE", False, True),
        (1, "magic", True, False),
        (1, "100-continue, magic", True, True),
        (0, "100-continue", False, False),
        (0, "magic", False, False),
    ],
)
def test_what_a_client_expects(minor: int, expect: str | None, something_else: bool, to_continue: bool) -> None:
    head = RequestHead("POST", "/", minor, Fields([] if expect is None else [("Expect", expect)]))
    assert (head.expects_something_else, head.expects_continue) == (something_else, to_continue)


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
def test_whether_a_body_follows(fields: list[tuple[str, str]], follows: bool) -> None:
    assert RequestHead("POST", "/", 1, Fields(fields)).has_body is follows


def test_when_a_request_has_begun() -> None:
    reader = RequestReader()
    seen = []
    for byte in b"\r\n\r\nGET / HTTP/1.1\r\nHost:\r\nContent-Length:1\r\n\r\nx":
        reader.receive_data(bytes([byte]))
        while reader.next_event() is not NEED_DATA:
            pass
        seen.append(reader.begun)
    # Half an empty line could still be anything; the last byte ends the request.
    assert seen == [True, False, True, False] + [True] * (len(seen) - 5) + [False]


def test_limits_are_what_still_passes() -> None:
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


# --- what a head says ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        ("/a%41?b?c", "/aA", "b?c", "h"),
        ("/%7e%2Da%2f%2e%2E?%41", "/~-a%2f..", "%41", "h"),
        ("/%zz%4", "/%zz%4", "", "h"),
        ("/", "/", "", "h"),
        ("/x://y", "/x://y", "", "h"),
        ("http://a:80", "/", "", "a:80"),
        ("HTTPS://a?q", "/", "q", "a"),
        ("http://a/b/../c?d", "/b/../c", "d", "a"),
        ("*", "*", "", "h"),
    ],
)
def test_a_target_has_a_path_and_a_query(target: str, path: str, query: str, host: str) -> None:
    head = RequestHead("GET", target, 1, Fields([("Host", "h")]))
    assert (head.path, head.query, head.host) == (path, query, host)


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
def test_who_keeps_the_connection(minor: int, connection: list[str], kept: bool) -> None:
    fields = Fields([("Connection", value) for value in connection])
    assert RequestHead("GET", "/", minor, fields).keep_alive is kept
    assert ResponseHead(200, "OK", minor, fields).keep_alive is kept


@pytest.mark.parametrize(
    ("minor", "value", "expects"), [(1, "100-Continue", True), (0, "100-continue", False), (1, "x", False)]
)
def test_who_expects_to_go_on(minor: int, value: str, expects: bool) -> None:
    assert RequestHead("POST", "/", minor, Fields([("expect", value)])).expects_continue is expects


def test_fields() -> None:
    fields = Fields([("A", "1"), ("b", "secret"), ("a", "2")])
    assert list(fields) == [("a", "1"), ("b", "secret"), ("a", "2")]
    assert fields.get("A") == "1, 2" and fields.get_all("a") == ["1", "2"]
    assert fields.get("c") is None and fields.get("c", "d") == "d" and fields.get_all("c") == []
    assert "B" in fields and "c" not in fields and 1 not in fields and len(fields) == 3
    assert fields != list(fields) and repr(Fields([("A", "x"), ("b", "y")])) == "Fields(a, b)"
    assert fields == Fields(fields) and hash(fields) == hash(Fields(fields)) and fields != Fields()
    assert "secret" not in repr(RequestHead("GET", "/", 1, fields))


# --- whether a connection may be used again --------------------------------------------------------

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
    """RFC 9112 §6.3, second rule; what is refused has a body as ever."""
    reader = ResponseReader(request_method="CONNECT")
    reader.receive_data(b"HTTP/1.1 200 Connection established\r\n" + fields + b"\r\ntunnel")
    assert [type(event) for event in (reader.next_event(), reader.next_event())] == [ResponseHead, EndOfMessage]
    assert reader.unread == len(b"tunnel")
    refused = ResponseReader(request_method="CONNECT")
    refused.receive_data(b"HTTP/1.1 407 No\r\nContent-Length: 3\r\n\r\nno!")
    refused.next_event()
    assert refused.next_event() == Data(b"no!")
    assert refused.unread == 0


@pytest.mark.parametrize(("status", "tunnel"), [(200, True), (204, True), (299, True), (300, False), (407, False)])
def test_what_opens_a_tunnel(status: int, tunnel: bool) -> None:
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


# --- a shorter way for chunks that come alone ------------------------------------------------------


def test_a_chunk_is_peeled_only_where_all_before_it_was_read() -> None:
    chunk = b"1\r\na\r\n"
    reader = ResponseReader(ReadLimits(body=None))
    assert reader.peel(chunk) == b""  # where a head should be
    reader.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert isinstance(reader.next_event(), ResponseHead)
    assert reader.peel(chunk) == b"a" and reader.next_event() is NEED_DATA
    reader.receive_data(b"5")
    assert reader.next_event() is NEED_DATA
    assert reader.peel(chunk) == b""
    reader.receive_data(b"\r\nhello\r\n")
    assert reader.next_event() == Data(b"hello") and reader.next_event() is NEED_DATA
    assert reader.peel(chunk) == b"a"
    reader.receive_data(b"x\r\n")
    with pytest.raises(ProtocolError):
        reader.next_event()
    assert reader.peel(chunk) == b""


@pytest.mark.parametrize("fields", [b"Content-Length: 99\r\n", b""])
def test_what_is_not_chunked_is_not_peeled(fields: bytes) -> None:
    reader = ResponseReader(ReadLimits(body=None))
    reader.receive_data(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n")
    assert isinstance(reader.next_event(), ResponseHead)
    assert reader.peel(b"1\r\na\r\n") == b""


class Compared(str):
    """A name that counts how often it is compared."""

    times = 0

    def lower(self) -> Compared:
        return self

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_repeated_fields_are_linear() -> None:
    """Under ASGI nobody limits their number."""
    Compared.times = 0
    fields = Fields([*((Compared(f"x-{number}"), "a") for number in range(1000)), (Compared("x-1"), "b")])
    assert fields.get("x-1") == "a, b" and fields.get("x-2") == "a"
    assert Compared.times < 10_000
