"""Skimming says what parsing says, for any stream and any cut; and most events are skimmed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import REPLIES, STREAMS, load, shape_of, stream_bytes
from streams import COUNTED, CUTS, SHAPES, counted_streams, cut, fill, streams

from cfchat.conversation.model import Delta
from cfchat.errors import CfchatError, UpstreamError
from cfchat.upstream.cloudflare.reply import ReplyReader
from cfchat.upstream.cloudflare.skim import EventReader, Learned
from cfchat.upstream.cloudflare.template import Template
from cfchat.wire.sse import SSEParser

# --- two ways to read a stream -------------------------------------------------------------------

Reading = dict[str, Any]


def reading(deltas: Sequence[Delta], reply: ReplyReader, error: CfchatError | None) -> Reading:
    """Return all that a reply says. Where one delta ends and the next begins is no part of it."""
    # Neurons are the same only if they grow with the totals; a test of their own has some that do.
    cost = reply.cost and reply.cost._replace(neurons=None)
    ends = [(delta.finish_reason, delta.usage) for delta in deltas if delta.finish_reason or delta.usage]
    return {
        "text": "".join(delta.text for delta in deltas),
        "reasoning": "".join(delta.reasoning for delta in deltas),
        "calls": [call for delta in deltas for call in delta.tool_calls],
        "ends": ends,
        "error": (type(error), str(error)),
        "reply": (reply.done, reply.answered, reply.passed_over, reply.finish_reason, cost, reply.usage),
    }


def parsed(pieces: Iterable[bytes], *settings: Any) -> Reading:
    """Parse event by event."""
    parser, reply, deltas, error = SSEParser(), ReplyReader(*settings), list[Delta](), None
    try:
        for piece in pieces:
            deltas += reply.read(parser.feed(piece))
            if reply.done:
                break
        deltas += reply.close(None if reply.done else parser.pending)
    except CfchatError as caught:
        error = caught
    return reading(deltas, reply, error)


def skimmed(pieces: Iterable[bytes], *settings: Any) -> Reading:
    """Read as the client does, behind streams that were no other than this one."""
    learned, pieces = Learned(), [*pieces]
    first = skim(learned, pieces, *settings)
    assert skim(learned, pieces, *settings) == first
    return first


def skim(learned: Learned, pieces: Iterable[bytes], *settings: Any) -> Reading:
    reply, deltas, error = ReplyReader(*settings), list[Delta](), None
    reader = EventReader(reply, learned)
    try:
        for piece in pieces:
            deltas += reader.feed(piece)
            if reply.done:
                break
        deltas += reader.close()
    except CfchatError as caught:
        error = caught
    return reading(deltas, reply, error)


# --- streams from the grammar ---------------------------------------------------------------------


@given(streams(), CUTS, st.booleans())
def test_what_is_skimmed_is_what_is_parsed(raw: bytes, cuts: list[int], thinks_first: bool) -> None:
    for pieces in ([raw], cut(raw, cuts)):
        expected = parsed(pieces, 99, thinks_first)
        assert skimmed(pieces, 99, thinks_first) == expected


@pytest.mark.parametrize("shape", SHAPES)
def test_events_of_one_shape_say_what_they_say_alone(shape: str) -> None:
    """Many of them, so that a template is found if one can be; some look alike and say something else."""
    first = b'data: {"response":"first","usage":{"total_tokens":1}}\n\n'
    pieces = [first, *[stream_of(shape, [word], total) for total, word in enumerate([" a", " b"] * 15)]]
    for cuts in (pieces, [b"".join(pieces)]):
        assert skimmed(cuts, 99) == parsed(cuts, 99)


@given(counted_streams(), CUTS)
def test_the_usage_that_is_kept_is_the_same(events: list[bytes], cuts: list[int]) -> None:
    raw = b"".join(events)
    expected = parsed([raw], 99)
    for pieces in ([raw], events, cut(raw, cuts)):
        assert skimmed(pieces, 99) == expected


@pytest.mark.parametrize("totals", [range(1, 31), [5] * 30, [*range(1, 20), *range(9)], [30, 0, 31, 2] * 8])
@pytest.mark.parametrize("size", [1, 4, 30])
def test_neurons_count_as_if_they_were_parsed(totals: Sequence[int], size: int) -> None:
    """If the totals of a read grow, its last usage has the most of them."""
    parts = [{"%s": "a", "%p": "b", "%t": str(total), "%u": f"{number}.5"} for number, total in enumerate(totals)]
    stream = [fill(COUNTED[0], part) for part in parts]
    pieces = ["".join(f"data: {event}\n\n" for event in stream[at : at + size]).encode() for at in range(0, 32, size)]
    parser, plain, skimming = SSEParser(), ReplyReader(99), ReplyReader(99)
    reader = EventReader(skimming)
    for piece in pieces:
        plain.read(parser.feed(piece))
        reader.feed(piece)
    assert plain.cost is not None and plain.cost.neurons is not None
    assert skimming.cost == plain.cost


@given(st.lists(REPLIES, max_size=8), CUTS, st.booleans())
def test_any_json_at_all(replies: list[object], cuts: list[int], tools: bool) -> None:
    raw = b"".join(b"data: " + json.dumps(reply).encode() + b"\n\n" for reply in replies)
    pieces = cut(raw, cuts)
    assert skimmed(pieces, 99, False, tools) == parsed(pieces, 99, False, tools)


@pytest.mark.parametrize("name", STREAMS)
def test_recorded_streams(name: str) -> None:
    raw = stream_bytes(name)
    settings = shape_of(load("streams", name))
    expected = parsed([raw], *settings)
    assert skimmed([raw], *settings) == expected
    for size in (1, 2, 7, 50, 333):
        pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
        assert skimmed(pieces, *settings) == expected
    # As a model sends it, an event at a time; and a longer stream of the same events.
    one_by_one = raw.replace(b"\n\n", b"\n\n\0").split(b"\0")
    assert skimmed(one_by_one, *settings) == expected
    longer = raw.removesuffix(b"data: [DONE]\n\n") * 20
    assert skimmed(cut(longer, range(0, 10**6, 4001)), *settings) == parsed([longer], *settings)


# --- that it is skimmed at all -------------------------------------------------------------------


def stream_of(shape: str, words: Iterable[str], first: int = 0) -> bytes:
    """Return an event for each text, with padding as long as it is, and totals that grow from the first."""
    parts = [
        {"%s": word, "%p": "ab" * len(word), "%t": str(total), "%u": f"{len(word)}.3"}
        for total, word in enumerate(words, first)
    ]
    return b"".join(f"data: {fill(shape, part)}\n\n".encode() for part in parts)


@pytest.mark.parametrize("shape", [*SHAPES[:2], *SHAPES[3:5], f" {SHAPES[0]}", '{"response_text":"%s"}', *COUNTED])
@pytest.mark.parametrize("size", [1, 5, 500], ids="{} events a read".format)
def test_most_events_are_not_parsed(shape: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Escapes and other alphabets among them; the first event has no text yet, as with the default model."""
    parsed_events = 0
    feed = SSEParser.feed

    def counting(self: SSEParser, data: bytes) -> Any:
        nonlocal parsed_events
        events = feed(self, data)
        parsed_events += len(events)
        return events

    monkeypatch.setattr(SSEParser, "feed", counting)
    words = ["", *[" word", "\\n", ' \\"so\\"', " это", "😀", " end"] * 100]
    reader = EventReader(ReplyReader(99))
    deltas = []
    for at in range(0, len(words), size):
        deltas += reader.feed(stream_of(shape, words[at : at + size], at))
    assert "".join(delta.text for delta in deltas) == "".join(json.loads(f'"{word}"') for word in words)
    assert parsed_events <= 12


# --- where skimming must not go on ----------------------------------------------------------------

ALIKE = b'data: {"response":" word"}\n\n'


BEGUN = (b'data: {"response":"one"}\n', b"data: \n", b"event: error\n", b"data: {", b": say\n")


@pytest.mark.parametrize("begun", BEGUN)
def test_an_event_that_has_begun_is_read_to_its_end(begun: bytes) -> None:
    pieces = [ALIKE * 40, begun, ALIKE * 40, b"data: [DONE]\n\n"]
    assert skimmed(pieces, 100) == parsed(pieces, 100)


def test_an_error_behind_text_is_raised_before_any_further_text() -> None:
    pieces = [ALIKE * 40, ALIKE + b"data: " + b"x" * (1 << 20) + b"y\n\n", ALIKE * 40]
    assert skimmed(pieces, 100) == parsed(pieces, 100)
    assert skimmed(pieces, 100)["text"] == " word" * 41


def test_an_event_over_the_limit_is_one_even_if_it_is_like_the_others() -> None:
    pieces = [ALIKE * 40, ALIKE.replace(b"word", b"x" * (1 << 20)), ALIKE * 40]
    assert skimmed(pieces, 100) == parsed(pieces, 100)
    assert "EventTooLarge" in str(skimmed(pieces, 100)["error"])


def test_an_error_behind_text_is_raised_by_the_next_call_whatever_comes() -> None:
    reader = EventReader(ReplyReader(100))
    reader.feed(ALIKE * 40)
    error = b'event: error\ndata: {"errors":[{"code":3040,"message":"busy"}]}\n\n'
    assert "".join(delta.text for delta in reader.feed(ALIKE * 9 + error)) == " word" * 9
    with pytest.raises(UpstreamError):
        reader.feed(ALIKE * 40)


@pytest.mark.parametrize(
    "shape", ['{"response":"%s","response_text":"x"}', '{"choices":[{"delta":{"content":"%s"}}],"response":"x"}']
)
def test_an_empty_text_makes_another_one_count(shape: str) -> None:
    pieces = [stream_of(shape, [word]) for word in ["a", "", "b", "c", "d", "e", "", "f"]]
    for cuts in (pieces, [b"".join(pieces)], [b"".join(pieces[:6]), *pieces[6:]]):
        assert skimmed(cuts, 99)["text"] == parsed(cuts, 99)["text"] == "axbcdexf"


# --- the fast case ---------------------------------------------------------------------------------


def taught() -> EventReader:
    """Return a reader that has a template, because it has read events of one shape."""
    reader = EventReader(ReplyReader(100))
    for _ in range(4):
        reader.feed(ALIKE)
    return reader


def test_a_read_of_whole_events_is_one_delta_and_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = taught()
    monkeypatch.setattr(SSEParser, "feed", None)
    assert reader.feed(ALIKE) == [Delta(" word")]
    assert reader.feed(ALIKE * 3) == [Delta(" word" * 3)]


def test_a_usage_that_may_not_vary_counts_in_the_next_stream_too() -> None:
    pieces = [ALIKE, b'data: {"response":" word","usage":{"completion_tokens":7}}\n\n' * 30]
    assert skimmed(pieces, 100)["reply"][-1] == {"completion_tokens": 7} == parsed(pieces, 100)["reply"][-1]


def test_the_next_stream_of_a_model_needs_no_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    learned = Learned()
    EventReader(ReplyReader(100), learned).feed(ALIKE * 30)
    monkeypatch.setattr(EventReader, "_learn", None)
    assert EventReader(ReplyReader(100), learned).feed(ALIKE * 30) == [Delta(" word"), Delta(" word" * 29)]


@pytest.mark.parametrize("behind", [b"data: [DONE]\n\n", b"data: {", b": hm\n\n", b"\n", b"d"])
def test_what_is_behind_whole_events_is_parsed(behind: bytes) -> None:
    assert taught().feed(ALIKE + behind) == [Delta(" word")]
    assert taught().feed(behind) == []
    for pieces in ([*[ALIKE] * 4, ALIKE + behind, ALIKE], [*[ALIKE] * 4, behind, ALIKE]):
        assert skimmed(pieces, 100) == parsed(pieces, 100)


@pytest.mark.parametrize("begun", [*BEGUN[:4], b"data: [DONE]\n\n"])
def test_no_event_matches_inside_another_or_behind_the_last(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = taught()
    reader.feed(begun)
    with monkeypatch.context() as patched, suppress(UpstreamError):
        patched.setattr(Template, "read", None)
        reader.feed(ALIKE)
    pieces = [*[ALIKE] * 4, begun, ALIKE]
    assert skimmed(pieces, 100) == parsed(pieces, 100)
