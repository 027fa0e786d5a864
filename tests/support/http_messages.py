"""Generators of HTTP messages: built from the grammar, with at most one rule broken."""

from __future__ import annotations

from hypothesis import strategies as st
from slow_reader import chunked_bodies

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
    """Draw a good value, or a bad one if the rule is to be broken."""
    return draw(st.sampled_from(bad if broken else good))


@st.composite
def framed_bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """Build a framing field and a body that mostly fits it."""
    if draw(st.booleans()):
        trailers = draw(st.sampled_from([b"", b"\r\n", b"a: b\r\n\r\n", b"a : b\r\n\r\n", b"a: " + b"b" * 30]))
        framing = draw(st.sampled_from(["Transfer-Encoding: chunked", "TE: x\r\nTransfer-encoding:\tCHUNKED "]))
        return framing, draw(chunked_bodies()) + trailers
    body = draw(st.binary(max_size=20))
    return (f"Content-Length: {len(body)}" if body or draw(st.booleans()) else "A: b"), body


def finish(draw: st.DrawFn, start: list[str], breaks: int, host: str | None) -> bytes:
    """Build a message from its start line; `breaks` is the number of the broken rule."""
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
    """Build a request with at most one rule broken."""
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
    """Build a response with at most one rule broken."""
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
    """Return each message as it is, cut off, or with one byte put in."""
    places, noise = st.integers(0, 200), st.sampled_from([b"", b"\r", b"\n", b"\x00", b" ", b":", b"0"])
    cut = st.builds(lambda data, at: data[:at], messages, places)
    inserted = st.builds(lambda data, at, byte: data[:at] + byte + data[at:], messages, places, noise)
    return messages | messages | cut | inserted | st.binary(max_size=60)
