"""Event streams: made from the grammar, cut anywhere, and read to their end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import strategies as st

from cfchat.conversation.model import Delta
from cfchat.errors import UpstreamError
from cfchat.upstream.cloudflare.reply import ReplyReader
from cfchat.wire.sse import Event, SSEParser


@dataclass
class Outcome:
    """The deltas of a reply, and the error that it ended with."""

    deltas: list[Delta] = field(default_factory=list)
    error: UpstreamError | None = None

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def reasoning(self) -> str:
        return "".join(delta.reasoning for delta in self.deltas)


def read_stream(pieces: Iterable[bytes], max_tokens: int = 2048, *shape: bool) -> Outcome:
    """Read a stream as the client does, until [DONE] or the end of the body, but parse each event."""
    parser, reader, outcome = SSEParser(), ReplyReader(max_tokens, *shape), Outcome()
    try:
        for piece in pieces:
            outcome.deltas += reader.read(parser.feed(piece))
            if reader.done:
                break
        outcome.deltas += reader.close(None if reader.done else parser.pending)
    except UpstreamError as error:
        outcome.error = error
    return outcome


def events(*replies: object) -> list[Event]:
    """Return an event for each reply: a text is its data, anything else is encoded as JSON."""
    return [Event(reply if isinstance(reply, str) else json.dumps(reply)) for reply in replies]


def cut(raw: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Return the pieces between these places, each counted round and round through the bytes."""
    places = sorted({place % (len(raw) + 1) for place in cuts} | {0, len(raw)})
    return [raw[start:end] for start, end in pairwise(places)]


COUNTS = (
    '{"prompt_tokens":%u,"completion_tokens":%u,"total_tokens":%t,"prompt_tokens_details":{"cached_tokens":0},"neurons":%u}'
)
# Shapes with a usage that is another in each event, before and behind the text.
COUNTED = (
    '{"choices":[{"delta":{"content":"%s","reasoning":null},"finish_reason":null}],"p":"%p","usage":' + COUNTS + "}",
    '{"usage":' + COUNTS + ',"choices":[{"index":0,"delta":{"content":"%s"}}],"p":"%p"}',
    '{"p":"%p","usage": {"total_tokens": %t, "output_tokens": %u},"response":"%s"}',
)
# In a shape, %s is the text, %p padding, %t the total of a usage and %u another number of it.
SHAPES = (
    '{"response":"%s"}',
    '{"response": "%s", "tool_calls": [], "p": "%p"}',
    '{"p":"%p","response":"%s","p":"%p"}',
    '{"choices":[{"delta":{"content":"%s","reasoning_content":null},"finish_reason":null}],"p":"%p","usage":'
    '{"prompt_tokens":0,"completion_tokens":1,"total_tokens":1}}',
    '{"choices":[{"index":0,"delta":{"role":"assistant","content":"%s"}}]}',
    *COUNTED,
    '{"response":"%s","usage":{"completion_tokens":%u,"prompt_tokens":%u}}',
    '{"response_text":"%s"}',
    # What only looks alike: the words elsewhere, twice, or nowhere.
    '{"response":"one","response":"%s"}',
    '{"response":"%s","response":"two"}',
    '{"content":"%s","response":"three"}',
    '{"response":"%s","response_text":"four"}',
    '{"choices":[{"delta":{"content":"%s"}}],"response":"five"}',
    '{"content":"%s","response":true}',
    '{"response":"%s","created":00}',
    '{"response":"%s","finish_reason":"stop"}',
    '{"choices":[{"delta":{"content":"%s","reasoning":"hm"}}]}',
    '{"choices":[{"delta":{"content":"%s"}}],"usage":{"total_tokens":1,"p":"%p"}}',
    '{"response":"%s","error":""}',
    '{"response":"%s","x":"\\\\"}',
    '{"response":"a\ndata: %s"}',
    '{"choices":[{"delta":{"content":"%s"},"usage":' + COUNTS + "}]}",
    '{"usage":{"total_tokens":%t},"response":"%s","usage":{"total_tokens":%t}}',
    '{"response":"%s","usage":{"total_tokens":%t,"total_tokens":%u}}',
    '{"response":"%s","usage":{"a":{"total_tokens":%t},"total_tokens":%u}}',
    '{"response":"%s","usage":{"total_tokens":%t,]}}',
)


# Texts that could make one event look like two, or two like one.
CRUMBS = st.sampled_from(
    ["a", " b", "é", "\u2028", "😀", "", "<think>", "0", "1,", "{", "}", "]", ",", ":", '"', '","', '"}', '\\"', "\\"]
    + ["\\\\", "\\n", "\\u00e9", "\\u00", "\\ud83d", "\\ude00", "\\x", "\t", "\x7f", "\r", "\n", "\n\n", "data: "]
    + ['"}\n\ndata: {"response":"', '\\"}\n\ndata: {"response":"', '","p":"', '\\","p":"']
)
WORDS = st.lists(CRUMBS, max_size=4).map("".join) | st.sampled_from(["plain", " words", " here"])
PADS = st.sampled_from(["abde", "abdefghij", "x1", "", "é", "a b", '"', "\\", "\\n"])
# Numbers of a usage, and what may stand in the place of one.
NUMBERS = st.sampled_from(["0", "1", "7", "147", "0.0272", "1e2", "1e999", "-3", "999999999999999", "1000000000000000"])
ODD_NUMBERS = st.sampled_from(
    ["01", "1.", "+1", "NaN", "null", "true", '"9"', "", "1,2", '1,"total_tokens":5', '{"total_tokens":8}', "[3]"]
    + ["9" * 400, "1}", "1},{", " 2", "1 ", "2.5"]
)
ODD = st.sampled_from(
    [": comment", "event: error\ndata: boom", "id: 7", "data: [DONE]", "data:", 'data: {"response":null}', "retry: 5"]
    + ['data: {"response":7}', 'data: {"response":true}', 'data: {"response":"","usage":{"total_tokens":9}}']
    + ['data: {"errors":[{"code":3040,"message":"busy"}]}', "event: message", "data: {}", "data: {", '{"response":"x"}']
)


# How the total of a usage goes on from event to event: the same, growing, falling, all zeros, up and down, odd.
COUNTINGS: tuple[Callable[[int], object], ...] = (
    lambda number: 1,
    lambda number: 147 + number,
    lambda number: 20 - number,
    lambda number: 0,
    lambda number: (3, 0, 150, 1)[number % 4],
    lambda number: (3, "5.5", "-1", "1e3", "null", 7, "01", '"9"')[number % 8],
)


def fill(shape: str, parts: Mapping[str, str]) -> str:
    for name, part in parts.items():
        shape = shape.replace(name, part)
    return shape


@st.composite
def counted_streams(draw: st.DrawFn) -> list[bytes]:
    """Events with a usage in each, now and then with a number that is none."""
    shape, counts = draw(st.sampled_from(COUNTED)), draw(st.sampled_from(COUNTINGS))
    odd = draw(st.lists(st.integers(0, 29), max_size=2))
    events = []
    for number in range(draw(st.integers(10, 30))):
        other = draw(ODD_NUMBERS | NUMBERS) if number in odd else f"{number}.5"
        part = {"%s": f" {number}", "%p": "abde"[: number % 5], "%t": str(counts(number)), "%u": other}
        events.append(f"data: {fill(shape, part)}\n\n".encode())
    return [*events, b"data: [DONE]\n\n"]


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Events of one or two shapes, most of them with plain words, now and then something odd."""
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=2))
    lines, counts = [], draw(st.sampled_from(COUNTINGS))
    for number in range(draw(st.integers(1, 12))):
        shape = draw(st.sampled_from(shapes))
        words = draw(WORDS) if draw(st.integers(0, 2)) == 0 else draw(st.sampled_from(["plain", " words"]))
        event = "data: " + shape.replace("%s", words)
        while "%p" in event:
            event = event.replace("%p", draw(PADS) if draw(st.booleans()) else "abde", 1)
        event = event.replace("%t", str(counts(number)))
        while "%u" in event:
            odd = draw(st.integers(0, 19)) == 0
            event = event.replace("%u", draw(ODD_NUMBERS if odd else NUMBERS), 1)
        lines.append(draw(ODD) if draw(st.integers(0, 9)) == 0 else event)
    end = draw(st.sampled_from(["\n\n", "\n\n", "\n\n", "\r\n\r\n", "\n"]))
    raw = "".join(line + end for line in lines).encode("utf-8", "surrogatepass")
    broken = draw(st.sampled_from([b"", b"", b"\xff", b"\xed\xa0\xbd", b"\xe2"]))
    place = draw(st.integers(0, len(raw)))
    return raw[:place] + broken + raw[place:] + draw(st.sampled_from([b"", b"data: [DONE]\n\n"]))
CUTS = st.lists(st.integers(0, 5000), max_size=6)
