"""Event streams made from the grammar, and cuts of them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import strategies as st


def cut(raw: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({place % (len(raw) + 1) for place in cuts} | {0, len(raw)})
    return [raw[start:end] for start, end in pairwise(places)]


SHAPES = (
    '{"response":"%s"}',
    '{"response": "%s", "tool_calls": [], "p": "%p"}',
    '{"p":"%p","response":"%s","p":"%p"}',
    '{"choices":[{"delta":{"content":"%s","reasoning_content":null},"finish_reason":null}],"p":"%p","usage":'
    '{"prompt_tokens":0,"completion_tokens":1,"total_tokens":1}}',
    '{"choices":[{"index":0,"delta":{"role":"assistant","content":"%s"}}]}',
    # What only looks alike: the words elsewhere, twice, or nowhere.
    '{"response":"one","response":"%s"}',
    '{"response":"%s","response":"two"}',
    '{"content":"%s","response":"three"}',
    '{"response":"%s","finish_reason":"stop"}',
    '{"choices":[{"delta":{"content":"%s","reasoning":"hm"}}]}',
    '{"choices":[{"delta":{"content":"%s"}}],"usage":{"total_tokens":1,"p":"%p"}}',
    '{"response":"%s","error":""}',
    '{"response":"%s","x":"\\\\"}',
    '{"response":"a\ndata: %s"}',
)


# Whatever could make one event look like two, or two like one.
CRUMBS = st.sampled_from(
    ["a", " b", "é", "\u2028", "😀", "", "<think>", "0", "1,", "{", "}", "]", ",", ":", '"', '","', '"}', '\\"', "\\"]
    + ["\\\\", "\\n", "\\u00e9", "\\u00", "\\ud83d", "\\ude00", "\\x", "\t", "\x7f", "\r", "\n", "\n\n", "data: "]
    + ['"}\n\ndata: {"response":"', '\\"}\n\ndata: {"response":"', '","p":"', '\\","p":"']
)


WORDS = st.lists(CRUMBS, max_size=4).map("".join) | st.sampled_from(["plain", " words", " here"])


PADS = st.sampled_from(["abde", "abdefghij", "x1", "", "é", "a b", '"', "\\", "\\n"])


ODD = st.sampled_from(
    [": comment", "event: error\ndata: boom", "id: 7", "data: [DONE]", "data:", 'data: {"response":null}', "retry: 5"]
    + ['data: {"response":7}', 'data: {"response":true}', 'data: {"response":"","usage":{"total_tokens":9}}']
    + ['data: {"errors":[{"code":3040,"message":"busy"}]}', "event: message", "data: {}", "data: {", '{"response":"x"}']
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Events of one or two shapes, most of them with plain words, now and then something odd."""
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=2))
    lines = []
    for _ in range(draw(st.integers(1, 12))):
        shape = draw(st.sampled_from(shapes))
        words = draw(WORDS) if draw(st.integers(0, 2)) == 0 else draw(st.sampled_from(["plain", " words"]))
        event = "data: " + shape.replace("%s", words)
        while "%p" in event:
            event = event.replace("%p", draw(PADS) if draw(st.booleans()) else "abde", 1)
        lines.append(draw(ODD) if draw(st.integers(0, 9)) == 0 else event)
    end = draw(st.sampled_from(["\n\n", "\n\n", "\n\n", "\r\n\r\n", "\n"]))
    raw = "".join(line + end for line in lines).encode("utf-8", "surrogatepass")
    broken = draw(st.sampled_from([b"", b"", b"\xff", b"\xed\xa0\xbd", b"\xe2"]))
    place = draw(st.integers(0, len(raw)))
    return raw[:place] + broken + raw[place:] + draw(st.sampled_from([b"", b"data: [DONE]\n\n"]))


CUTS = st.lists(st.integers(0, 5000), max_size=6)
