"""Replies: every recorded one at every cut, and what nobody recorded yet."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import ERRORS, REPLIES, STREAMS, load, stream_bytes

from cfchat.conversation.model import Delta, ToolCall
from cfchat.errors import (
    ContextLengthExceeded,
    UpstreamAuthError,
    UpstreamEmpty,
    UpstreamError,
    UpstreamInterrupted,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from cfchat.replies.text import Text
from cfchat.upstream.cloudflare.reply import ReplyReader, read_json_reply
from cfchat.wire.sse import Event, SSEParser


@dataclass
class Outcome:
    deltas: list[Delta] = field(default_factory=list)
    error: UpstreamError | None = None

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def reasoning(self) -> str:
        return "".join(delta.reasoning for delta in self.deltas)


def stream(pieces: Iterable[bytes], max_tokens: int = 2048, thinks_first: bool = False) -> Outcome:
    """As the client does it: read until done or the end of the body."""
    parser, reader, outcome = SSEParser(), ReplyReader(max_tokens, thinks_first), Outcome()
    try:
        for piece in pieces:
            outcome.deltas += reader.read(parser.feed(piece))
            if reader.done:
                break
        outcome.deltas += reader.close(None if reader.done else parser.pending)
    except UpstreamError as error:
        outcome.error = error
    return outcome


def cut(raw: bytes, seed: int) -> list[bytes]:
    chance = random.Random(seed)
    points = sorted({0, len(raw), *(chance.randint(0, len(raw)) for _ in range(1 + seed))})
    return [raw[start:end] for start, end in pairwise(points)]


def events(*replies: object) -> list[Event]:
    return [Event(reply if isinstance(reply, str) else json.dumps(reply)) for reply in replies]


def check(outcome: Outcome, expected: dict[str, Any]) -> None:
    assert outcome.text == expected["text"]
    assert Text().encode(outcome.deltas or [Delta()]).decode() == expected["text"]
    assert outcome.reasoning == expected.get("reasoning", "")
    if expected["finish"] == "interrupted":
        assert type(outcome.error) is UpstreamInterrupted
    elif expected["finish"] == "error":
        assert outcome.error is not None
        assert expected["error"]["message"] in outcome.error.detail
        assert f"code {expected['error']['code'] or 'none'}," in outcome.error.detail
    else:
        assert outcome.error is None
        assert outcome.deltas[-1].finish_reason == expected["finish"]
        assert outcome.deltas[-1].usage == expected["usage"]
        assert all(delta.finish_reason is None for delta in outcome.deltas[:-1])


def test_the_recordings_are_all_here() -> None:
    assert (len(STREAMS), len(ERRORS)) == (44, 47)


@pytest.mark.parametrize("name", [name for name in STREAMS if name != "json_instead_of_stream"])
def test_recorded_streams_at_any_cut(name: str) -> None:
    expected, raw = load("streams", name), stream_bytes(name)
    max_tokens = expected.get("request_max_tokens", 2048)
    check(stream([raw], max_tokens), expected)
    check(stream((raw[index : index + 1] for index in range(len(raw))), max_tokens), expected)
    for index in range(1, min(len(raw), 3000)):
        check(stream([raw[:index], raw[index:]], max_tokens), expected)
    for seed in range(20):
        check(stream(cut(raw, seed), max_tokens), expected)


@pytest.mark.parametrize("name", [name for name in STREAMS if load("streams", name).get("empty")])
def test_recorded_streams_without_text_were_seen_to_have_none(name: str) -> None:
    parser, reader = SSEParser(), ReplyReader(2048)
    reader.read(parser.feed(stream_bytes(name)))
    assert not reader.answered


def test_a_recorded_json_reply() -> None:
    expected = load("streams", "json_instead_of_stream")
    body = stream_bytes("json_instead_of_stream")
    check(Outcome(read_json_reply(body, 2048)), expected)


def test_both_dialects_in_one_reply() -> None:
    reader = ReplyReader(9)
    chunk = {"choices": [{"delta": {"content": "b"}, "finish_reason": "model_length"}]}
    assert [delta.text for delta in reader.read(events({"response": "a"}, chunk, {"response": "c"}))] == [
        "a",
        "b",
        "c",
    ]
    assert reader.close(Event(" [DONE] ")) == [Delta(finish_reason="length")]
    assert reader.answered


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "false"),
        ("is", " false"),
        ("(", "false"),
        ("is ", "false"),
        ("\n", "false"),
        ('"', "false"),
        ("\u3000", "false"),
    ],
)
def test_booleans_are_words(before: str, after: str) -> None:
    outcome = stream(
        [b"data: " + json.dumps({"response": value}).encode() + b"\n\n" for value in (before, False)]
    )
    assert outcome.text == before + after


@pytest.mark.parametrize("literal", ["0", "-7", "3.10", "1E5", "12345678901234567890", "0.0", "1e999", "-0"])
def test_numbers_keep_their_literal(literal: str) -> None:
    classic, chunk = f'{{"response":{literal}}}', f'{{"choices":[{{"delta":{{"content":{literal}}}}}]}}'
    assert [delta.text for delta in ReplyReader(9).read(events(classic, chunk))] == [literal, literal]
    whole = f'{{"choices":[{{"message":{{"content":{literal}}}}}]}}'
    assert read_json_reply(whole.encode(), 9)[0].text == literal


@pytest.mark.parametrize(
    "junk",
    [
        *(
            "",
            " ",
            "x",
            "[]",
            "{",
            "7",
            "null",
            '{"a":NaN}',
            '{"response":NaN}',
            "[" * 100_000,
            '{"a":' * 100_000,
        ),
        *(
            '{"response":' + "9" * 5000 + "}",
            "{}",
            '{"p":"x"}',
            '{"choices":[3]}',
            '{"choices":{"0":1}}',
            '{"choices":7}',
        ),
        '{"response":{"x":1e999}}',
    ],
    ids=lambda junk: junk[:20],
)
def test_junk_is_passed_over_and_counted(junk: str) -> None:
    reader = ReplyReader(9)
    assert [delta.text for delta in reader.read(events(junk, {"response": "x"}))] == ["x"]
    assert reader.passed_over == 1


def test_torn_pairs_are_joined_in_reasoning_too() -> None:
    halves = [{"choices": [{"delta": {"reasoning": half}}]} for half in ("\ud83d", "\ude00", "\ud83d")]
    reader = ReplyReader(9)
    assert [delta.reasoning for delta in reader.read(events(*halves, "[DONE]"))] == ["😀"]
    assert reader.close(None) == [Delta(finish_reason="stop", reasoning="\ufffd")]
    assert not reader.answered


@given(st.lists(st.text(st.characters() | st.sampled_from("\ud83d\ude00"), max_size=4)))
def test_text_survives_in_any_pieces(pieces: list[str]) -> None:
    outcome = stream(
        [f"data: {json.dumps({'response': piece})}\n\n".encode() for piece in pieces] + [b"data: [DONE]\n\n"]
    )
    joined = "".join(pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert outcome.text == joined
    outcome.text.encode()


def test_length_is_inferred_only_without_a_reason() -> None:
    usage = {"usage": {"prompt_tokens": 1, "completion_tokens": 9, "total_tokens": 10}}
    for max_tokens, reason in ((9, "length"), (10, "stop")):
        reader = ReplyReader(max_tokens)
        reader.read(events(usage, "[DONE]"))
        assert reader.close(None)[-1].finish_reason == reason
    reader = ReplyReader(9)
    reader.read(events({**usage, "finish_reason": "stop"}))
    assert reader.close(None) == [Delta(finish_reason="stop", usage=usage["usage"])]


@pytest.mark.parametrize(
    "usage", [7, "x", [], {}, {"total_tokens": 0}, {"total_tokens": True}, {"total_tokens": "9"}]
)
def test_usage_that_says_nothing(usage: object) -> None:
    reader = ReplyReader(9)
    reader.read(events({"response": "x", "usage": usage}))
    assert reader.usage is None


def test_usage_goes_out_as_counts_only() -> None:
    reader = ReplyReader(9)
    reader.read(
        events(
            '{"usage":{"total_tokens":5,"neurons":1e999,"x":"y","details":{"a":1,"b":{},"c":-1},"d":1e400}}'
        )
    )
    assert reader.usage == {"total_tokens": 5, "details": {"a": 1}}


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        ([{"choices": [{"delta": {"reasoning": "hm"}, "finish_reason": "length"}]}], "budget"),
        ([{"choices": [{"delta": {"reasoning": "hm"}, "finish_reason": "stop"}]}], "thought"),
        ([{"tool_calls": [{"name": "f"}]}, "[DONE]"], "tool"),
        ([{"response": ""}, "[DONE]"], "empty"),
    ],
)
def test_an_empty_reply_says_why(replies: list[object], words: str) -> None:
    reader = ReplyReader(9)
    reader.read(events(*replies))
    reader.close(None)
    assert not reader.answered
    assert words in reader.empty_error().message


# --- errors inside a stream ----------------------------------------------------------------------


def test_text_before_an_error_is_not_lost() -> None:
    reader = ReplyReader(9)
    error = {"errors": [{"code": 3040, "message": "Capacity"}], "success": False}
    assert [delta.text for delta in reader.read(events({"response": "a"}, error, {"response": "b"}))] == ["a"]
    assert reader.done
    with pytest.raises(UpstreamOverloaded):
        reader.read([])
    with pytest.raises(UpstreamOverloaded):
        reader.close(None)


@pytest.mark.parametrize(
    ("event", "kind", "retryable"),
    [
        (Event('{"error":"boom"}'), UpstreamUnavailable, True),
        (Event('{"error":{"message":"boom","code":"3040"}}'), UpstreamOverloaded, True),
        (Event('{"error":{"message":"boom","code":429}}'), UpstreamRateLimited, True),
        (Event('{"error":{"message":"boom","code":"invalid_prompt"}}'), UpstreamUnavailable, True),
        (Event('{"error":[{"message":"boom","code":2009}],"success":false}'), UpstreamAuthError, False),
        (Event('{"errors":[{"code":1},{"message":"boom","code":5021}]}'), ContextLengthExceeded, False),
        (Event('{"success":false,"message":"boom"}'), UpstreamUnavailable, True),
        (Event("boom", "error"), UpstreamUnavailable, True),
        (Event('{"code":4006,"message":"boom"}', "error"), UpstreamQuota, False),
        (Event('{"choices":[{"finish_reason":"error"}],"x":"boom"}'), UpstreamUnavailable, True),
    ],
)
def test_forms_of_an_error_inside_a_stream(event: Event, kind: type[UpstreamError], retryable: bool) -> None:
    with pytest.raises(UpstreamError) as caught:
        ReplyReader(9).read([event])
    assert type(caught.value) is kind
    assert caught.value.retryable is retryable
    assert "boom" not in caught.value.message


@pytest.mark.parametrize("quiet", [{"error": None}, {"errors": []}, {"success": True}, {"error": ""}])
def test_what_is_no_error(quiet: dict[str, object]) -> None:
    assert ReplyReader(9).read(events({"response": "a", **quiet})) == [Delta("a")]


# --- replies that were not streamed --------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        {"result": {"response": "Hi"}, "success": True, "errors": []},
        {"result": {"choices": [{"message": {"content": "Hi", "reasoning": "hm"}, "finish_reason": "stop"}]}},
        {"choices": [{"message": {"content": "Hi"}}], "usage": {}},
        {
            "result": {
                "output": [
                    {"type": "reasoning", "content": [{"text": "hm"}]},
                    {"content": [{"text": "H"}, {"text": "i"}]},
                ]
            }
        },
    ],
)
def test_shapes_of_a_whole_reply(reply: object) -> None:
    deltas = read_json_reply(json.dumps(reply).encode(), 9)
    assert "".join(delta.text for delta in deltas) == "Hi"
    assert deltas[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"\xff", b"{}", b'{"result":7}', b"[" * 100_000],
    ids=lambda body: repr(body[:20]),
)
def test_a_whole_reply_of_nonsense(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        read_json_reply(body, 9)


def test_a_whole_reply_with_a_torn_pair() -> None:
    assert read_json_reply(b'{"response":"a\\ud83d"}', 9) == [Delta("a"), Delta("\ufffd", "stop")]


@pytest.mark.parametrize("name", [name for name in ERRORS if load("errors", name)["status"] == 200])
def test_recorded_errors_under_a_200(name: str) -> None:
    recorded = load("errors", name)
    with pytest.raises(UpstreamEmpty if recorded.get("empty") else UpstreamUnavailable) as caught:
        read_json_reply(recorded["body"].encode(), 2048)
    assert caught.value.retryable is recorded["retryable"]


# --- thoughts in the text --------------------------------------------------------------------------


def said(texts: Sequence[str], thinks_first: bool = False) -> tuple[str, str]:
    """Answer and thoughts of a stream of these texts."""
    reader = ReplyReader(2048, thinks_first)
    deltas = [delta for text in texts for delta in reader.read(events({"response": text}))]
    deltas += reader.read(events("[DONE]")) + reader.close(None)
    assert reader.answered == any(delta.text for delta in deltas)
    return "".join(delta.text for delta in deltas), "".join(delta.reasoning for delta in deltas)


@pytest.mark.parametrize(
    ("text", "thinks_first", "answer", "thought"),
    [
        ("<think>Hm.</think>\n\nYes <b> </think>", False, "Yes <b> </think>", "Hm."),
        ("\n <think>\nHm.\n</think>Yes", False, "Yes", "\nHm.\n"),
        ("<think></think>\n\n Yes", False, "Yes", ""),
        ("Hm.</think>Yes", True, "Yes", "Hm."),
        ("<think>Hm.</think>Yes", True, "Yes", "Hm."),
        ("Hm.</think>Yes", False, "Hm.</think>Yes", ""),
        ("Say <think>x</think>", False, "Say <think>x</think>", ""),
        ("  Yes  ", False, "  Yes  ", ""),
        ("<think>Hm. </thi", False, "", "Hm. </thi"),
        ("<thin", False, "<thin", ""),
        ("<thinner>", False, "<thinner>", ""),
        ("", True, "", ""),
        (" " * 100 + "<think>x", False, " " * 100 + "<think>x", ""),
    ],
)
def test_thoughts_in_the_text_at_any_cut(text: str, thinks_first: bool, answer: str, thought: str) -> None:
    assert said([text], thinks_first) == (answer, thought)
    assert said(list(text), thinks_first) == (answer, thought)
    for index in range(len(text)):
        assert said([text[:index], text[index:]], thinks_first) == (answer, thought)


def test_the_recorded_thoughts_without_an_opening_tag() -> None:
    expected, raw = load("streams", "classic_think_tag_unopened"), stream_bytes("classic_think_tag_unopened")
    for pieces in ([raw], [raw[index : index + 1] for index in range(len(raw))]):
        outcome = stream(pieces, thinks_first=True)
        assert (outcome.text, outcome.error) == (expected["visible"], None)
        assert outcome.reasoning == "Okay, the user says hi.\n"


@given(st.lists(st.sampled_from(("<think>", "</think>", "<", "</thi", "nk>", " ", "\n", "a", "ä"))), st.booleans())
def test_thoughts_and_answer_are_the_whole_but_for_tags_and_blanks(texts: list[str], thinks_first: bool) -> None:
    answer, thought = said(texts, thinks_first)
    whole = "".join(texts)
    if not thinks_first and not whole.lstrip().startswith("<think>"):
        assert (answer, thought) == (whole, "")
    else:
        behind = whole.lstrip().removeprefix("<think>") if whole.lstrip().startswith("<think>") else whole
        before, _, after = behind.partition("</think>")
        assert (answer, thought) == (after.lstrip(), before)


def test_an_answer_that_is_all_thought_says_so() -> None:
    reader = ReplyReader(9, thinks_first=True)
    reader.read(events({"response": "Hm."}, "[DONE]"))
    reader.close(None)
    assert reader.empty_error().message == "The model thought about it, but gave no answer."


# --- anything at all -----------------------------------------------------------------------------


def fit_to_send(deltas: list[Delta]) -> None:
    for delta in deltas:
        (delta.text + delta.reasoning).encode()
        json.dumps(delta.usage, allow_nan=False)


@given(
    st.lists(
        st.builds(
            Event, REPLIES.map(json.dumps) | st.text(), st.sampled_from(("message", "message", "error"))
        )
    )
)
def test_only_upstream_errors_come_of_any_events(replies: list[Event]) -> None:
    reader = ReplyReader(9)
    try:
        for reply in replies:
            fit_to_send(reader.read([reply]))
        fit_to_send(reader.close(Event("[DONE]")))
    except UpstreamError as error:
        assert error.detail.isprintable()


@given(st.binary(max_size=60) | REPLIES.map(lambda reply: json.dumps(reply).encode()))
def test_only_upstream_errors_come_of_any_body(body: bytes) -> None:
    try:
        fit_to_send(read_json_reply(body, 9))
    except UpstreamError as error:
        assert error.detail.isprintable()


# --- calls of tools ------------------------------------------------------------------------------


def calls(name: str, tools: bool = True) -> list[ToolCall]:
    reader = ReplyReader(2048, tools=tools)
    deltas = reader.read(SSEParser().feed(stream_bytes(name)))
    return [call for delta in deltas for call in delta.tool_calls]


def test_recorded_calls_piece_by_piece() -> None:
    assert calls("openai_tool_call") == [
        ToolCall(0, "chatcmpl-tool-1", "get_weather", ""),
        ToolCall(0, "", "", '{"city":"Paris"}'),
    ]


def test_recorded_calls_of_the_classic_dialect() -> None:
    """A whole one, and then one in pieces at the same place, and whose end says nothing."""
    assert calls("classic_tool_calls") == [
        ToolCall(0, "", "get_weather", '{"location":"London"}'),
        ToolCall(1, "chatcmpl-tool-1", "calculator", ""),
        ToolCall(1, "", "", '{"a": 1'),
        ToolCall(1, "", "", ', "b": 2}'),
    ]


@pytest.mark.parametrize("name", ["openai_tool_call", "classic_tool_calls"])
def test_calls_are_told_only_where_there_are_tools(name: str) -> None:
    assert calls(name, tools=False) == []


def test_a_reply_of_calls_alone_is_no_empty_one() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"content": None, "tool_calls": [call]}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    first, last = read_json_reply(body, 9, tools=True)
    assert first.tool_calls == (ToolCall(0, "c", "f", "{}"),)
    assert last.finish_reason == "tool_calls"
    with pytest.raises(UpstreamEmpty):
        read_json_reply(body, 9)


def test_whole_calls_without_an_index_are_numbered() -> None:
    reader = ReplyReader(9, tools=True)
    two = {"tool_calls": [{"name": "f", "arguments": {"a": [1]}}, {"name": "g"}]}
    (delta,) = reader.read(events(two))
    assert delta.tool_calls == (ToolCall(0, "", "f", '{"a":[1]}'), ToolCall(1, "", "g", ""))
    assert reader.read(events("[DONE]")) == []
    assert reader.close(None)[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "odd",
    [7, {"a": 1}, [None], ["x"], [{}], [{"index": "1"}], [{"function": 3}], [{"function": {"name": 5}}]],
)
def test_odd_calls_are_none(odd: object) -> None:
    assert ReplyReader(9, tools=True).read(events({"response": "a", "tool_calls": odd})) == [Delta("a")]
