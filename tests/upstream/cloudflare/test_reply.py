"""Replies: every recorded one at every cut, and events that were never recorded."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import ERRORS, REPLIES, STREAMS, load, shape_of, stream_bytes
from streams import Outcome, cut, events, read_stream

from cfchat.conversation.model import Delta
from cfchat.errors import (
    ContextLengthExceeded,
    UpstreamAuthError,
    UpstreamEmpty,
    UpstreamError,
    UpstreamInterrupted,
    UpstreamOverloaded,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from cfchat.replies.text import Text
from cfchat.upstream.cloudflare.reply import ReplyReader
from cfchat.wire.sse import Event, SSEParser

WHOLE = [name for name in STREAMS if "content_type" in load("streams", name)]


def check(outcome: Outcome, expected: dict[str, Any]) -> None:
    assert outcome.text == expected["text"]
    assert Text().encode(outcome.deltas or [Delta()]).decode() == expected["text"]
    assert outcome.reasoning == expected.get("reasoning", "")
    if expected["finish"] == "interrupted":
        assert type(outcome.error) is UpstreamInterrupted
    elif expected["finish"] == "error":
        assert outcome.error is not None
        message = expected["error"]["message"]
        assert message in outcome.error.origin_text and message not in str(outcome.error)
        assert f"code {expected['error']['code'] or 'none'}," in outcome.error.detail
    else:
        assert outcome.error is None
        assert outcome.deltas[-1].finish_reason == expected["finish"]
        assert outcome.deltas[-1].usage == expected["usage"]
        assert all(delta.finish_reason is None for delta in outcome.deltas[:-1])


def test_the_recordings_are_all_here() -> None:
    assert (len(STREAMS), len(ERRORS)) == (59, 57)


@pytest.mark.parametrize("name", [name for name in STREAMS if name not in WHOLE])
def test_recorded_streams_at_any_cut(name: str) -> None:
    expected, raw = load("streams", name), stream_bytes(name)
    shape = shape_of(expected)
    check(read_stream([raw], *shape), expected)
    check(read_stream((raw[index : index + 1] for index in range(len(raw))), *shape), expected)
    for index in range(1, min(len(raw), 3000)):
        check(read_stream([raw[:index], raw[index:]], *shape), expected)
    for seed in range(20):
        chance = random.Random(seed)
        pieces = cut(raw, [chance.randint(0, len(raw)) for _ in range(1 + seed)])
        check(read_stream(pieces, *shape), expected)


@pytest.mark.parametrize("name", [name for name in STREAMS if load("streams", name).get("empty")])
def test_recorded_streams_without_text_were_seen_to_have_none(name: str) -> None:
    parser, reader = SSEParser(), ReplyReader(2048)
    reader.read(parser.feed(stream_bytes(name)))
    assert not reader.answered


@pytest.mark.parametrize("name", WHOLE)
def test_recorded_json_replies(name: str) -> None:
    expected = load("streams", name)
    check(Outcome(ReplyReader(*shape_of(expected)).read_json(stream_bytes(name))), expected)


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
    outcome = read_stream(
        [b"data: " + json.dumps({"response": value}).encode() + b"\n\n" for value in (before, False)]
    )
    assert outcome.text == before + after


@pytest.mark.parametrize("literal", ["0", "-7", "3.10", "1E5", "12345678901234567890", "0.0", "1e999", "-0"])
def test_numbers_keep_their_literal(literal: str) -> None:
    classic, chunk = f'{{"response":{literal}}}', f'{{"choices":[{{"delta":{{"content":{literal}}}}}]}}'
    assert [delta.text for delta in ReplyReader(9).read(events(classic, chunk))] == [literal, literal]
    whole = f'{{"choices":[{{"message":{{"content":{literal}}}}}]}}'
    assert ReplyReader(9).read_json(whole.encode())[0].text == literal


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
    reader = ReplyReader(9, json_mode=True)
    assert [delta.text for delta in reader.read(events(junk, {"response": "x"}))] == ["x"]
    assert reader.passed_over == 1


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
    ("replies", "words"),
    [
        ([{"choices": [{"delta": {"reasoning": "hm"}, "finish_reason": "length"}]}], "budget"),
        ([{"choices": [{"delta": {"reasoning": "hm"}, "finish_reason": "stop"}]}], "thought"),
        ([{"reasoning": "hm", "usage": {"completion_tokens": 9}, "finish_reason": "stop"}], "budget"),
        ([{"response": "<think>hm"}, "[DONE]"], "thought"),
        ([{"tool_calls": [{"name": "f"}]}, "[DONE]"], "tool"),
        ([{"response": ""}, "[DONE]"], "empty"),
    ],
)
def test_an_empty_reply_says_why(replies: list[object], words: str) -> None:
    reader = ReplyReader(9)
    reader.read(events(*replies))
    reader.close(None)
    assert not reader.answered
    error = reader.empty_error()
    assert words in error.message
    assert error.cut is (words == "budget")
    assert not (error.retryable or error.elsewhere)


@pytest.mark.parametrize(
    ("usage", "free"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}, True),
        ({"input_tokens": 9, "output_tokens": 0}, True),
        ({"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}, False),
        ({"prompt_tokens": 9, "total_tokens": 9}, False),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, False),
        (None, False),
    ],
)
def test_a_reply_without_any_token_may_come_of_another_model(usage: object, free: bool) -> None:
    reader = ReplyReader(9)
    reader.read(events({"response": "", "usage": usage}, "[DONE]"))
    reader.close(None)
    assert (reader.empty_error().elsewhere, reader.empty_error().retryable) == (free, False)


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


@pytest.mark.parametrize("name", [name for name in ERRORS if load("errors", name)["status"] == 200])
def test_recorded_errors_under_a_200(name: str) -> None:
    recorded = load("errors", name)
    with pytest.raises(UpstreamEmpty if recorded.get("empty") else UpstreamUnavailable) as caught:
        ReplyReader(2048).read_json(recorded["body"].encode())
    assert caught.value.retryable is recorded["retryable"]


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
        fit_to_send(ReplyReader(9).read_json(body))
    except UpstreamError as error:
        assert error.detail.isprintable()


