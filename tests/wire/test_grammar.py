"""Each pattern against examples from the RFCs, and against slow checkers without regular expressions."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slow_reader import TCHARS, is_ipv6

from cfchat.wire import grammar

WORDS = {
    "TOKEN": (
        [b"GET", b"x-a!#$%&'*+-.^_`|~9"],
        [b"", b"a b", b"a:", b"a\n", b"\xe9", b'"', b"a\x00", b"a/b"],
    ),
    "FIELD_VALUE": (
        [b"", b"a", b"a b\tc", b"\xff", b"a" + b" " * 999 + b"b"],
        [b" a", b"a ", b"\t", b"a\rb", b"a\n", b"\x00", b"\x7f", b"\x0b", b"a\x0c"],
    ),
    "FIELD_LINE": (
        [b"a:", b"a: b", b"a:\t b \t", b"a::", b"a:b\xff"],
        [
            b":",
            b": a",
            b"a :b",
            b" a:b",
            b"\ta:b",
            b"a",
            b"",
            b"a\t:b",
            b"a:\x00",
            b"a:\r",
            b"a:\n",
            b"\xe9:b",
        ],
    ),
    "REQUEST_LINE": (
        [b"GET / HTTP/1.1", b"! * HTTP/9.0", b'GET /|{}^"\\ HTTP/1.0'],
        [
            b"GET  / HTTP/1.1",
            b" GET / HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b"GET\t/ HTTP/1.1",
            b"GET / HTTP/1.1\n",
            b"GET / http/1.1",
            b"GET / HTTP/1.10",
            b"GET / HTTP/+1.1",
            b"GET / HTTP/1,1",
            b"GET / HTTP/1",
            b"GET /",
            b"GET /a b HTTP/1.1",
            b"GET /#a HTTP/1.1",
            b"GET /\xe9 HTTP/1.1",
            b"GET /\x7f HTTP/1.1",
            b"G@T / HTTP/1.1",
            b"GET  HTTP/1.1",
            b"",
        ],
    ),
    "STATUS_LINE": (
        [b"HTTP/1.1 200 OK", b"HTTP/1.0 599 ", b"HTTP/1.1 200", b"HTTP/1.1 200 a\tb\xff", b"HTTP/1.1 200  x"],
        [
            b"HTTP/1.1 20 OK",
            b"HTTP/1.1 2000 OK",
            b"HTTP/1.1 099 x",
            b"HTTP/1.1 600 x",
            b"HTTP/1.1  200 OK",
            b"HTTP/1.1 +20 x",
            b"HTTP/1.1 200OK",
            b"HTTP/1.1 200 \x00",
            b"HTTP/1.1 200 a\rb",
            b"ICY 200 OK",
            b"",
        ],
    ),
    "CONTENT_LENGTH": (
        [b"0", b"007", b"9" * 5000],
        [b"", b"+1", b"-1", b" 1", b"1 ", b"1_0", b"0x1", b"1,1", b"1\n", b"\xb2", b"1\x00", b"1."],
    ),
    "TOKEN_LIST": (
        [b"chunked", b"gzip,chunked", b"gzip \t, \tchunked"],
        [
            b"",
            b",",
            b"a,",
            b",a",
            b"a,,b",
            b"a b",
            b"a;q=1",
            b"\x0bchunked",
            b"chunked\xa0",
            b'"chunked"',
            b"a\n",
        ],
    ),
    "CHUNK_LINE": (
        [b"0", b"fF", b"1" * 16, b"5;a", b"5 ; a = b", b'5;a="x;\\""', b"5;a;b=c;d"],
        [
            b"",
            b"1" * 17,
            b"0x5",
            b"+5",
            b"-5",
            b" 5",
            b"5 ",
            b"5\t",
            b"5;",
            b"5;a=",
            b"5;a=b ",
            b'5;a="b',
            b"5 a",
            b'5;a="\\',
            b'5;a="b"c',
            b"5;=b",
            b"5_0",
            b"g",
            b"5\n",
            b"5\r",
            b"5;a\r",
            b'5;a="\n"',
            b"5;;a",
        ],
    ),
    "HOST": (
        [
            b"",
            b"a",
            b"a.b:80",
            b"a:",
            b":80",
            b"127.0.0.1",
            b"[::1]",
            b"[::1]:3000",
            b"[v1.a:b]",
            b"[vcE.a]",
            b"%41",
            b"a_b",
        ],
        [
            b"a b",
            b"a/b",
            b"a@b",
            b"[::1",
            b"::1",
            b"[::1]x",
            b"[]",
            b"[v.a]",
            b"a:b",
            b"a:80:80",
            b"%4",
            b"\xe9",
            b"a\n",
            b"a,b c",
            b"a#",
            b"a?b",
            b"[::1%25eth0]",
            b"[1.2.3.4]",
            b"a:8\xb2",
            b" a",
            b"a\x00",
        ],
    ),
    "AUTHORITY": ([b"a:443", b"[::1]:443"], [b"a", b"a:", b":443", b"", b"/", b"a@b:443", b"http://a:443"]),
    "ABSOLUTE_FORM": (
        [b"http://a", b"HTTPS://a/b?c?d", b"http://a?b"],
        [b"ftp://a", b"http:///a", b"http:/a", b"http//a", b"http://", b"/http://a", b"//a"],
    ),
}


def matcher(name: str) -> Callable[[bytes], re.Match[bytes] | None]:
    pattern: bytes | re.Pattern[bytes] | grammar.HostPattern = getattr(grammar, name)
    return re.compile(pattern).fullmatch if isinstance(pattern, bytes) else pattern.fullmatch


@pytest.mark.parametrize("name", WORDS)
def test_each_pattern_agrees_with_the_rfc(name: str) -> None:
    matches = matcher(name)
    allowed, forbidden = WORDS[name]
    assert [word for word in allowed if not matches(word)] == []
    assert [word for word in forbidden if matches(word)] == []


@given(st.binary(max_size=6) | st.text(alphabet="aZ9!-\t :\x00\x7fé", max_size=6).map(str.encode))
def test_tokens_and_values_agree_with_their_definitions(word: bytes) -> None:
    assert bool(grammar.TOKEN.fullmatch(word)) == (word != b"" and set(word) <= TCHARS)
    clean = all(byte == 9 or (32 <= byte != 127) for byte in word)
    assert bool(grammar.FIELD_VALUE.fullmatch(word)) == (clean and word.strip(b" \t") == word)
    assert bool(re.fullmatch(grammar.FIELD_LINE, b"a:" + word)) == clean


GROUPS = st.sampled_from(["", "", "0", "1", "ab", "FFFF", "12345", "g", "1.2.3.4", "1.2.3.256", "01.2.3.4"])


@given(st.lists(GROUPS, max_size=10).map(":".join) | st.text(alphabet=":1f.", max_size=12))
def test_ipv6_agrees_with_the_standard_library(text: str) -> None:
    assert bool(grammar.HOST.fullmatch(f"[{text}]".encode())) == is_ipv6(text)


@pytest.mark.parametrize(
    "tail",
    ["1.2.3.4", "0.10.99.100", "199.200.249.250", "255.255.255.255", "256.1.1.1", "1.260.1.1", "1.2.300.1"]
    + ["1.2.3.01", "1.2.3", "1.2.3.4.5", "1.2.3.", "1.2{3"],
)
def test_ipv4_at_the_end_of_ipv6(tail: str) -> None:
    for before in ("::", "::1:", "1::", "1:2:3:4:5:6:", "1:2:3:4:5:6:7:"):
        text = before + tail
        assert bool(grammar.HOST.fullmatch(f"[{text}]".encode())) == is_ipv6(text)


@pytest.mark.parametrize("value", range(2**4))
def test_every_place_of_the_double_colon(value: int) -> None:
    """Put a gap of any size at any place among eight or fewer groups."""
    for before in range(9):
        text = ":".join(["1"] * before) + "::" + ":".join(["2"] * value)
        assert bool(grammar.HOST.fullmatch(f"[{text}]".encode())) == is_ipv6(text)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("TOKEN", b"a"),
        ("FIELD_VALUE", b"a "),
        ("FIELD_VALUE", b" "),
        ("FIELD_LINE", b" "),
        ("REQUEST_LINE", b"a"),
        ("TOKEN_LIST", b"a, "),
        ("TOKEN_LIST", b" "),
        ("CHUNK_LINE", b";a=b"),
        ("CHUNK_LINE", b'"\\"'),
        ("CHUNK_LINE", b" "),
        ("HOST", b"%41"),
        ("ABSOLUTE_FORM", b"?"),
    ],
)
def test_no_pattern_backtracks_quadratically(name: str, unit: bytes) -> None:
    """Fail at the last of a million bytes: a quadratic pattern would take hours."""
    matches = matcher(name)
    prefix = {"FIELD_LINE": b"a:", "CHUNK_LINE": b'5;a="', "TOKEN_LIST": b"a", "ABSOLUTE_FORM": b"http://a"}
    for start in (b"", b"a", b"5;a", prefix.get(name, b"")):
        assert not matches(start + unit * (1_000_000 // len(unit)) + b"\n")
