"""Cloudflare's JSON: every recorded reply at every cut, every recorded error, what nobody recorded yet."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.chat import Conversation, Delta, Message
from cfchat.errors import (
    ContextLengthExceeded,
    UpstreamAuthError,
    UpstreamEmpty,
    UpstreamError,
    UpstreamInterrupted,
    UpstreamModelGone,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from cfchat.upstream import cloudflare
from cfchat.upstream.cloudflare import ReplyReader, encode_request, read_error, read_json_reply, run_path
from cfchat.wire.sse import Event, SSEParser

DATA = Path(__file__).parent / "data"
STREAMS = sorted(path.stem for path in (DATA / "streams").glob("*.sse"))
ERRORS = sorted(path.stem for path in (DATA / "errors").glob("*.json"))
CONVERSATION = Conversation((Message("system", "Be kind."), Message("user", "Grüß Gött 😀")))


def load(folder: str, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DATA / folder / f"{name}.json").read_text("utf-8"))
    return document


# --- the request ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "good"),
    [
        (cloudflare.DEFAULT_MODEL, True),
        ("@hf/nous/x_y.z-1", True),
        ("@cf/meta", False),
        ("@cf/meta/a/b", False),
        ("@cf/../x", False),
        ("@cf/a/b..c", False),
        ("@cf/a/b\n", False),
        ("@cf/a/b?c", False),
        ("@cf/a/ü", False),
        ("@xx/a/b", False),
        ("", False),
    ],
)
def test_model_names(name: str, good: bool) -> None:
    assert cloudflare.is_model_name(name) is good


def test_account_ids_and_tokens() -> None:
    assert cloudflare.is_account_id("0123456789abcdefABCDEF0123456789")
    assert not any(
        map(cloudflare.is_account_id, ("", "0" * 31, "0" * 33, "g" * 32, "0" * 32 + "\n", "٠" * 32))
    )
    assert cloudflare.is_token("aB-_9~!")
    assert not any(map(cloudflare.is_token, ("", "a b", "a\n", '"a"', "'a'", "ä", "\x7f")))


def test_the_path_has_the_model_as_it_is() -> None:
    path = "/client/v4/accounts/0a/ai/run/@cf/meta/m"
    assert run_path("/client/v4", "0a", "@cf/meta/m") == run_path("/client/v4/", "0a", "@cf/meta/m") == path


def test_the_request_to_the_byte() -> None:
    messages = '{"messages":[{"role":"system","content":"Be kind."},{"role":"user","content":"Grüß Gött 😀"}]'
    plain = messages + ',"stream":true,"max_tokens":64}'
    assert encode_request(CONVERSATION, "@cf/meta/m", 64).decode() == plain
    for model in ("@cf/google/gemma-4-26b-a4b-it", "@cf/zai-org/glm-4.7-flash"):
        thinking_off = plain[:-1] + ',"chat_template_kwargs":{"enable_thinking":false}}'
        assert encode_request(CONVERSATION, model, 64).decode() == thinking_off


@given(st.text(st.characters()))
def test_any_request_can_be_encoded(text: str) -> None:
    sent = json.loads(encode_request(Conversation((Message("user", text),)), "@cf/meta/m", 1))
    assert len(sent["messages"][0]["content"]) <= len(text)


# --- streamed replies ----------------------------------------------------------------------------


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


def stream(pieces: Iterable[bytes], max_tokens: int = 2048) -> Outcome:
    """As the client does it: read until done or the end of the body."""
    parser, reader, outcome = SSEParser(), ReplyReader(max_tokens), Outcome()
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
    assert outcome.reasoning == expected.get("reasoning", "")
    if expected["finish"] == "interrupted":
        assert type(outcome.error) is UpstreamInterrupted
    elif expected["finish"] == "error":
        assert outcome.error is not None
        assert expected["error"]["message"] in outcome.error.detail
        assert f"code {expected['error']['code']}," in outcome.error.detail
    else:
        assert outcome.error is None
        assert outcome.deltas[-1].finish_reason == expected["finish"]
        assert outcome.deltas[-1].usage == expected["usage"]
        assert all(delta.finish_reason is None for delta in outcome.deltas[:-1])


def test_the_recordings_are_all_here() -> None:
    assert (len(STREAMS), len(ERRORS)) == (44, 47)


@pytest.mark.parametrize("name", [name for name in STREAMS if name != "json_instead_of_stream"])
def test_recorded_streams_at_any_cut(name: str) -> None:
    expected, raw = load("streams", name), (DATA / "streams" / f"{name}.sse").read_bytes()
    max_tokens = expected.get("request_max_tokens", 2048)
    check(stream([raw], max_tokens), expected)
    check(stream((raw[index : index + 1] for index in range(len(raw))), max_tokens), expected)
    for seed in range(20):
        check(stream(cut(raw, seed), max_tokens), expected)


@pytest.mark.parametrize("name", [name for name in STREAMS if load("streams", name).get("empty")])
def test_recorded_streams_without_text_were_seen_to_have_none(name: str) -> None:
    parser, reader = SSEParser(), ReplyReader(2048)
    reader.read(parser.feed((DATA / "streams" / f"{name}.sse").read_bytes()))
    assert not reader.text_seen


def test_a_recorded_json_reply() -> None:
    expected = load("streams", "json_instead_of_stream")
    body = (DATA / "streams" / "json_instead_of_stream.sse").read_bytes()
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
    assert reader.text_seen


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
    assert not reader.text_seen


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
    assert not reader.text_seen
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


# --- error replies -------------------------------------------------------------------------------

# Where neither the code nor the status alone tells it: status and code that the front end is told.
TOLD = {
    "400_3030_sequence_too_long": (400, "context_length_exceeded"),
    "413_3006_too_large": (400, "context_length_exceeded"),
    "413_5021_context_window": (400, "context_length_exceeded"),
    "403_3023_account_blocked": (502, "upstream_auth"),
    "408_3007_timeout": (504, "upstream_timeout"),
    "408_3008_aborted": (504, "upstream_timeout"),
    "408_3046_timeout_240s": (504, "upstream_timeout"),
    "524_html": (504, "upstream_timeout"),
    "429_3040_capacity": (503, "upstream_overloaded"),
    "gw_402_2021_wholesale": (503, "upstream_overloaded"),
    "429_3036_daily_allowance": (429, "upstream_quota"),
    "429_4006_daily_allowance": (429, "upstream_quota"),
    "gw_429_2045_spend_limit": (429, "upstream_quota"),
    "429_1015_edge_text": (429, "upstream_rate_limited"),
    "429_3021_per_minute": (429, "upstream_rate_limited"),
    "429_971_api_throttle": (429, "upstream_rate_limited"),
    "gw_429_2003_rate_limited": (429, "upstream_rate_limited"),
    "200_success_false": (502, "upstream_unavailable"),
    "500_3043_internal": (502, "upstream_unavailable"),
    "502_html": (502, "upstream_unavailable"),
    "503_empty": (502, "upstream_unavailable"),
    "520_text": (502, "upstream_unavailable"),
}


def told(name: str, recorded: dict[str, Any]) -> tuple[int, str]:
    if recorded.get("user_message") == "The server is not set up correctly.":
        return 502, "upstream_auth"
    return TOLD.get(name, (502, "upstream_model" if recorded.get("fallback") else "upstream_refused"))


@pytest.mark.parametrize("name", [name for name in ERRORS if not load("errors", name).get("empty")])
def test_recorded_errors(name: str) -> None:
    recorded = load("errors", name)
    error = read_error(recorded["status"], recorded["headers"], recorded["body"].encode())
    assert (error.status, error.code) == told(name, recorded)
    assert error.retryable is recorded["retryable"]
    assert error.message == recorded["user_message"] or not recorded["user_message"]
    assert isinstance(error, (UpstreamModelGone, UpstreamOverloaded)) or not recorded.get("fallback")
    assert error.retry_after == ({"429_971_api_throttle": 30.0}.get(name))


@pytest.mark.parametrize("name", [name for name in ERRORS if not load("errors", name).get("empty")])
def test_ids_and_names_are_for_the_log_only(name: str) -> None:
    recorded = load("errors", name)
    error = read_error(recorded["status"], recorded["headers"], recorded["body"].encode())
    assert not re.search(r"[0-9a-f]{8}|@cf|://|dash|[Cc]loudflare|account|token", error.message)
    assert f"status {recorded['status']}" in error.detail
    assert recorded["headers"].get("cf-ray", "cf-ray none") in error.detail
    assert str(recorded["code"]) in error.detail
    assert error.detail.isprintable()
    assert len(error.detail) < 450


@pytest.mark.parametrize("name", [name for name in ERRORS if load("errors", name)["status"] == 200])
def test_recorded_errors_under_a_200(name: str) -> None:
    recorded = load("errors", name)
    with pytest.raises(UpstreamEmpty if recorded.get("empty") else UpstreamUnavailable) as caught:
        read_json_reply(recorded["body"].encode(), 2048)
    assert caught.value.retryable is recorded["retryable"]


@pytest.mark.parametrize("message", ["Internal Server Error", "flagged content"])
def test_code_3030_is_about_length_only_where_it_says_so(message: str) -> None:
    body = json.dumps({"errors": [{"code": 3030, "message": message}]}).encode()
    assert read_error(400, {}, body).code == "upstream_refused"


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (301, "upstream_refused", False),
        (400, "upstream_refused", False),
        (401, "upstream_auth", False),
        (404, "upstream_refused", False),
        (408, "upstream_timeout", True),
        (410, "upstream_model", False),
        (413, "context_length_exceeded", False),
        (425, "upstream_unavailable", True),
        (429, "upstream_rate_limited", True),
        (500, "upstream_unavailable", True),
        (530, "upstream_unavailable", True),
        (504, "upstream_timeout", True),
    ],
)
def test_a_status_without_a_code(status: int, code: str, retryable: bool) -> None:
    error = read_error(status, {}, b"")
    assert (error.code, error.retryable) == (code, retryable)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 7.0),
        ("Sun, 06 Nov 1994 08:49:00 GMT", 0.0),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 0000 08:49:37 GMT", None),
        ("Sun, 06 Abc 1994 08:49:37 GMT", None),
        *((value, None) for value in ("", "-1", "+5", "1.5", "1_0", " 5", "5\n", "²", "soon", "9" * 5000)),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert read_error(429, {"retry-after": value}, b"", now=784111770.0).retry_after == seconds


def test_a_retry_after_date_needs_a_clock() -> None:
    assert read_error(429, {"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, b"").retry_after is None


# --- anything at all -----------------------------------------------------------------------------

KEYS = ("response", "choices", "delta", "content", "reasoning", "finish_reason", "usage", "total_tokens")
MORE_KEYS = (
    "completion_tokens",
    "error",
    "errors",
    "code",
    "message",
    "success",
    "result",
    "output",
    "tool_calls",
    "text",
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS + MORE_KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
DELTA_KEYS = ("content", "reasoning", "reasoning_content", "tool_calls")
DELTAS = VALUES | st.dictionaries(st.sampled_from(DELTA_KEYS), VALUES, max_size=3)
CHUNKS = DELTAS.map(lambda delta: {"choices": [{"delta": delta, "message": delta}]})
REPLIES = VALUES | CHUNKS | st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3)


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


@given(st.binary(max_size=60) | REPLIES.map(lambda reply: json.dumps(reply).encode()), st.integers(100, 999))
def test_only_upstream_errors_come_of_any_body(body: bytes, status: int) -> None:
    assert read_error(
        status, {"cf-ray": "x\x1b\udc80", "retry-after": body.decode("latin-1")}, body
    ).detail.isprintable()
    try:
        fit_to_send(read_json_reply(body, 9))
    except UpstreamError as error:
        assert error.detail.isprintable()
