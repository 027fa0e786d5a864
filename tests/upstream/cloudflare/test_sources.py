"""What AI Search has found: the same pages for any cut of the stream, and no chunk that breaks a reply."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from itertools import count
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import VALUES
from streams import CUTS, cut

from cfchat.conversation.model import Delta, Source
from cfchat.errors import EventTooLarge
from cfchat.upstream.cloudflare.reply import ReplyReader
from cfchat.upstream.cloudflare.skim import EventReader
from cfchat.upstream.cloudflare.sources import LONGEST_TITLE, LONGEST_URL, MOST_SOURCES, Sources

# As developers.cloudflare.com/ai-search/api/search/rest-api shows it.
CHUNK = {
    "id": "chunk-001", "type": "text", "score": 0.85, "text": "...",
    "item": {"key": "about-cloudflare.md", "timestamp": 1775925540000}, "scoring_details": {"vector_score": 0.85},
}
ABOUT = Source("about-cloudflare.md", None, 0.85)
HEAD = {"id": "id-1776072781845", "created": 1776072781, "model": "@cf/meta/llama-3.3-70b-instruct-fp8-fast"}
BASE = "https://example.com/docs/"


def found(*chunks: object) -> bytes:
    return b"event: chunks\ndata: " + json.dumps(chunks).encode() + b"\n\n"


def said(*words: str) -> bytes:
    choices = ([{"index": 0, "delta": {"content": word}}] for word in words)
    chunks = [{**HEAD, "object": "chat.completion.chunk", "choices": choice} for choice in choices]
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


WORDS = (" document", " you provided doesn", "'t contain", " information")
DONE = b"data: [DONE]\n\n"
DOCUMENTED = found(CHUNK) + said(*WORDS) + DONE


def page(key: object = "a.md", score: object = 0.5, title: object = None) -> dict[str, object]:
    return {"id": "1", "score": score, "text": "...", "item": {"key": key, "metadata": {"title": title}}}


def read(*pieces: bytes, base_url: str = "") -> list[Delta]:
    """Read a stream to its end, as the client does."""
    reply = ReplyReader(2048, sources=Sources(base_url))
    events, deltas = EventReader(reply), list[Delta]()
    for piece in pieces:
        deltas += events.feed(piece)
    return deltas + events.close()


def sources_of(deltas: list[Delta]) -> list[Source]:
    return [source for delta in deltas for source in delta.sources]


def one(key: object, base_url: str = "", **more: object) -> Source | None:
    """Return what becomes of one page; None if it is left out."""
    return next(iter(Sources(base_url).read(json.dumps([page(key, **more)]))), None)


# --- in the stream -------------------------------------------------------------------------------


def check(deltas: list[Delta], sources: list[Source], text: str = "".join(WORDS)) -> None:
    assert (sources_of(deltas), "".join(delta.text for delta in deltas)) == (sources, text)
    # By themselves they are no words: a try may still fail behind them.
    assert all(delta.text or delta.finish_reason for delta in deltas if delta.sources)


def test_the_documented_stream_cut_anywhere() -> None:
    for place in range(len(DOCUMENTED)):
        deltas = read(DOCUMENTED[:place], DOCUMENTED[place:])
        check(deltas, [ABOUT])
        assert deltas[0].sources == (ABOUT,)
    check(read(*(DOCUMENTED[place : place + 1] for place in range(len(DOCUMENTED)))), [ABOUT])


EVENTS = st.sampled_from([found(CHUNK), found(page("b", 0.9), page("c")), *map(said, WORDS)])


@given(st.lists(EVENTS, max_size=12), CUTS)
def test_pages_may_come_late_or_twice(events: list[bytes], cuts: list[int]) -> None:
    raw = b"".join([*events, said("."), DONE])
    together = read(raw)
    text = "".join(delta.text for delta in together)
    check(together, sources_of(together), text)
    check(read(*cut(raw, cuts)), sources_of(together), text)
    titles = [title for title in ("about-cloudflare.md", "b", "c") if f'"key": "{title}"'.encode() in raw]
    assert sorted(source.title for source in sources_of(together)) == titles


@pytest.mark.parametrize(
    "event",
    [
        *(b"event: chunks\ndata: %b\n\n" % data for data in (b"[]", b"{}", b"null", b"7", b'"x"', b"[", b"\xff")),
        *(b"event: chunks\n\n", b"event: chunks\ndata:\n\n", b"event: chunks\ndata: [DONE]\n\n"),
        b"event: chunks\ndata: " + b"[" * 100_000 + b"\n\n",
        b'event: chunks\ndata: [{"score":' + b"9" * 5000 + b',"item":{"key":"a"}}]\n\n',
        found(None, 7, "x", [], {}, {"item": None}, {"item": []}, {"item": "a"}, {"item": {}}),
        found(page(None), page(7), page("")),
    ],
)
def test_nothing_found_breaks_no_reply(event: bytes) -> None:
    check(read(event + said(*WORDS) + DONE), [])


def test_a_model_alone_finds_nothing() -> None:
    reply = ReplyReader(2048)
    deltas = EventReader(reply).feed(DOCUMENTED)
    assert sources_of(deltas) == [] and reply.sources == () and reply.passed_over == 1


def test_a_whole_reply_has_them_beside_its_choices() -> None:
    whole = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "chunks": [CHUNK]}
    for body in (whole, {"result": whole, "success": True}):
        reply = ReplyReader(2048, sources=Sources())
        check(reply.read_json(json.dumps(body).encode()), [ABOUT], "Hi")


def test_an_event_of_1_mib_is_read_and_a_larger_one_is_not() -> None:
    begin, end = b'data: [{"text":"', b'","item":{"key":"a"}}]'
    line = begin + b"x" * ((1 << 20) - len(begin) - len(end)) + end
    reply = ReplyReader(2048, sources=Sources())
    deltas = EventReader(reply).feed(b"event: chunks\n" + line + b"\n\n" + said(*WORDS))
    check(deltas, [Source("a")])
    assert reply.cost and reply.cost.found == (1 << 20) - len(begin) - len(end)
    with pytest.raises(EventTooLarge):
        read(b"event: chunks\n" + line.replace(b"xx", b"xxx", 1) + b"\n\n")


# --- which pages ---------------------------------------------------------------------------------


def test_of_a_hundred_chunks_the_ten_best_pages_are_kept() -> None:
    chunks = [page(f"p{number % 20}", number * 37 % 100 / 100) for number in range(100)]
    deltas = read(found(*chunks), found(page("p19", 1), page("new", 1)), said("."), DONE)
    best = {f"p{n}": max(number * 37 % 100 for number in range(n, 100, 20)) / 100 for n in range(20)}
    expected = sorted(best.items(), key=lambda item: -item[1])[:10]
    assert sources_of(deltas) == [Source(key, None, score) for key, score in expected]


@pytest.mark.parametrize(
    ("score", "kept"),
    [(1, 1.0), (-0.5, -0.5), ("0.9", 0.0), (None, 0.0), (True, 0.0), (10**400, 0.0), ([], 0.0), (math.nan, 0.0)]
    + [(math.inf, 0.0), (-math.inf, 0.0)],
)
def test_a_score_is_a_number(score: object, kept: float) -> None:
    source = one("a", score=score)
    assert source and source.score == kept and type(source.score) is float
    assert Sources().read('[{"score":1e999,"item":{"key":"a"}}]')[0].score == 0


@pytest.mark.parametrize(
    ("key", "title", "shown"),
    [
        ("a.md", "How to", "How to"),
        *(("a.md", odd, "a.md") for odd in (None, "", " \n", 7, ["x"], "\x00\u202e")),
        ("a.md", " Two\nlines\t\x1b[31m ", "Two lines [31m"),
        ("a.md", "abc\u202egnp.exe\ud800", "abc gnp.exe"),
        ("a\x00b\r\nc", None, "a b c"),
        ("مرحبا.md", None, "مرحبا.md"),
        ("k" * 10_240, None, "k" * (LONGEST_TITLE - 1) + "…"),
        ("k" * LONGEST_TITLE, None, "k" * LONGEST_TITLE),
        ("\x00\x01", "Named", "Named"),
    ],
)
def test_a_title_is_a_short_line_and_else_the_key(key: str, title: object, shown: str) -> None:
    assert one(key, title=title) == Source(shown, None, 0.5)


@pytest.mark.parametrize("key", [None, 7, "", [], {}, True, "\x00", " \n"])
def test_a_page_without_a_name_is_left_out(key: object) -> None:
    assert one(key) is None


# --- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("https://example.com/a", "https://example.com/a"),
        ("HTTP://example.com", "HTTP://example.com"),
        ("https://example.com?q=1&r=%20#part", "https://example.com?q=1&r=%20#part"),
        ("https://example.com:8443/", "https://example.com:8443/"),
        ("https://[2001:db8::1]/a", "https://[2001:db8::1]/a"),
        ("https://example.com/ü b\"<'>", "https://example.com/%C3%BC%20b%22%3C'%3E"),
    ],
)
def test_an_http_url_is_a_link(key: str, url: str) -> None:
    for base_url in ("", BASE):
        assert one(key, base_url) == Source(key, url, 0.5)


ODD_KEYS = [
    *("javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "file:///etc/passwd", "mailto:a@b", "ftp://a/b"),
    *("https:", "https://", "https:///a", "https://?a", "https:example.com", "https:\\\\example.com", "http://:80/"),
    *("https://bank.example@evil.example/", "https://user:pw@a.example/", "https://a.example\\@evil.example/"),
    *("https://a b/", "https://[::1", "https://a.example:x/", "https://a.example/\n", "https://a.example/\x00"),
    *("\x00https://a.example/", "https://a.example/\u202e", "https://a.example/\ud800"),
    *("https://a.example/" + "x" * 10_240, "https://a.example/" + "ü" * 1000),
]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_an_odd_key_is_only_a_name(key: str) -> None:
    for base_url in ("", BASE):
        source = one(key, base_url)
        assert source and source.title and source.url is None


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("a.md", "a.md"),
        ("/a/b.md", "a/b.md"),
        ("a b/ü.md", "a%20b/%C3%BC.md"),
        ("a?b=c#d", "a%3Fb%3Dc%23d"),
        ("100%.md", "100%25.md"),
        ("%2e%2e/a", "%252e%252e/a"),
        ("..\\a", "..%5Ca"),
        ("...", "..."),
        ("//evil.example/a", "evil.example/a"),
        ("a//b", "a//b"),
        ("a:b/c", None),
        *((key, None) for key in ("../a", "a/../../b", "a/..", ".", "./a", "/..", "/", "//")),
        *((key, None) for key in ("a\nb", "a" * 2040, "ü" * 400)),
    ],
)
def test_a_path_is_a_link_below_the_base_url(key: str, url: str | None) -> None:
    source = one(key, BASE)
    assert source and source.url == (None if url is None else BASE + url)
    plain = one(key)
    assert plain and plain.url is None


# --- against a slow reader -----------------------------------------------------------------------


DIRECTIONS = {*"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"}


def hides(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in DIRECTIONS


def slow_line(text: object) -> str:
    if not isinstance(text, str):
        return ""
    words = " ".join("".join([" " if hides(c) else c for c in text[:400]]).split())
    return words if len(words) <= 200 else words[:199] + "…"


def slow_link(key: str, base_url: str) -> str | None:
    if any(map(hides, key)) or len(key) > 2048:
        return None
    if key.lower().startswith(("http://", "https://")):
        scheme, _, rest = key.partition("://")
        authority = re.split(r"[/?#]", rest)[0]
        if authority.startswith("["):
            host, _, port = authority[1:].partition("]")
            strange = [c for c in host if c not in "0123456789abcdefABCDEF:."]
        else:
            host, colon, port = authority.partition(":")
            port, strange = colon + port, [c for c in host if c in "@\\[]" or c.isspace()]
        if not host or strange or port not in ("", ":80"):  # CRUMBS have no other port
            return None
        return scheme + "://" + "".join(c if c in "/?#[]@!$&'()*+,;=:%~" else quote(c, safe="") for c in rest)
    if not base_url or ":" in key.split("/")[0] or any(part in (".", "..") for part in key.split("/")):
        return None
    while key.startswith("/"):
        key = key[1:]
    return base_url + "".join(c if c == "/" else quote(c, safe="") for c in key) if key else None


def slow_sources(chunks: list[Any], base_url: str) -> list[Source]:
    pages: list[tuple[str, Source]] = []
    for chunk in chunks:
        item = chunk.get("item") if isinstance(chunk, dict) else None
        key = item.get("key") if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(key, str) or not key:
            continue
        metadata, score = item.get("metadata"), chunk.get("score")
        title = slow_line(metadata.get("title") if isinstance(metadata, dict) else None) or slow_line(key)
        number = score if isinstance(score, (int, float)) and not isinstance(score, bool) else 0
        number = float(number) if -1e15 < number < 1e15 else 0.0
        pages.append((key, Source(title, slow_link(key, base_url), number)))
    best: dict[str, Source] = {}
    for key, source in pages:
        if key not in best or best[key].score < source.score:
            best[key] = source
    ordered = sorted(zip(best.values(), count(), strict=False), key=lambda pair: (-pair[0].score, pair[1]))
    return [source for source, _ in ordered if source.title][:10]


CRUMBS = st.sampled_from(
    ["a", "b.md", "/", "//", "..", ".", "?", "#", "%2e", "%", " ", "\\", ":", "@", "ü", "😀", "\n", "\x00", "\u202e"]
    + ["https://", "http://", "HTTPS:", "javascript:", "example.com", "[::1]", ":80", '"', "<b>", "\ud800", "\u2028"]
)
KEYS = st.lists(CRUMBS, max_size=6).map("".join)
SCORES = st.floats(-2, 2) | st.integers(-1, 1) | VALUES
ITEMS = st.fixed_dictionaries(
    {"key": KEYS}, optional={"metadata": st.fixed_dictionaries({}, optional={"title": KEYS | VALUES}) | VALUES}
)
CHUNKS = st.fixed_dictionaries({"item": ITEMS}, optional={"score": SCORES, "text": KEYS}) | VALUES


@given(st.lists(CHUNKS, max_size=25), st.sampled_from(["", BASE]))
def test_a_slow_reader_agrees(chunks: list[Any], base_url: str) -> None:
    sources = Sources(base_url).read(json.dumps(chunks))
    assert list(sources) == slow_sources(json.loads(json.dumps(chunks)), base_url)
    assert len(sources) <= MOST_SOURCES
    for title, url, score in sources:
        assert 0 < len(title) <= LONGEST_TITLE and not any(map(hides, title)) and math.isfinite(score)
        if url is not None:
            assert len(url) <= LONGEST_URL and re.fullmatch(r"[!-~]+", url) and not {'"', "<", ">", "\\"} & {*url}
            parts = urlsplit(url)
            assert parts.scheme in ("http", "https") and parts.hostname and parts.username is None
            if url.startswith(BASE):
                assert ".." not in unquote(parts.path).split("/") or "%25" in url or "..%5C" in url
