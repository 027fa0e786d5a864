"""OpenAI's Responses: each step of the stream, and the same words as a chat completion."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reply_forms import BROKEN, META, USAGE, replies, sent
from response_events import calls_of, check_response, read_response_events, text_of

from cfchat.conversation.model import Delta, Source, ToolCall
from cfchat.errors import CfchatError, RateLimited
from cfchat.replies.form import Meta
from cfchat.replies.openai import Completion
from cfchat.replies.responses import Events, Response
from cfchat.wire.sse import SSEParser

ASKED = Meta("0a1b", 1763999999, "@cf/asked/for")
END = Delta("", "stop", USAGE)


def events(thoughts: bool = False, **repeated: object) -> Events:
    return Events(ASKED, repeated, lambda: 1764000009.5, thoughts)


def whole(thoughts: bool = False, **repeated: object) -> Response:
    return Response(ASKED, repeated, lambda: 1764000009.5, thoughts)


def names_of(raw: bytes) -> list[str]:
    return [event.event.removeprefix("response.") for event in SSEParser().feed(raw)]


def test_a_stream() -> None:
    raw = sent(events())
    assert names_of(raw) == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert raw.split(b"\n\n")[4].decode() == (
        'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":4,'
        '"item_id":"msg_0a1b","output_index":0,"content_index":0,"logprobs":[],"delta":"Hel"}'
    )
    assert read_response_events(raw) == json.loads(sent(whole()))
    assert names_of(sent(events(), [[Delta("Hel"), Delta("lo"), END]])).count("output_text.delta") == 1


def test_a_whole_response() -> None:
    response = json.loads(sent(whole(instructions="Be brief.", temperature=0.5)))
    check_response(response)
    assert response.items() >= {
        "id": "resp_0a1b", "created_at": 1764000000, "completed_at": 1764000009, "status": "completed",
        "model": "@cf/x/y", "instructions": "Be brief.", "temperature": 0.5, "top_p": None, "store": False,
        "tool_choice": "auto", "tools": [], "parallel_tool_calls": True, "metadata": {},
    }.items()  # fmt: skip
    assert response["output"] == [
        {
            "id": "msg_0a1b", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
        }
    ]  # fmt: skip
    assert response["usage"] == {
        "input_tokens": 5, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 7,
    }  # fmt: skip


def test_details_of_the_usage_are_those_of_cloudflare() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 4.0}, "output_tokens_details": {"reasoning_tokens": 1}}
    usage = json.loads(sent(whole(), [[Delta("a", "stop", {**USAGE, **details})]]))["usage"]
    assert usage["input_tokens_details"]["cached_tokens"] == 4
    assert usage["output_tokens_details"]["reasoning_tokens"] == 1


@pytest.mark.parametrize(
    ("reason", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_a_reply_that_is_cut_is_incomplete(reason: str, why: str) -> None:
    """And so is what the model was at: a call may have half of its arguments."""
    batches = [[Delta("Hel")], [Delta("", tool_calls=(ToolCall(0, "id-0", "f", "{"),)), Delta("", reason, USAGE)]]
    response = read_response_events(sent(events(), batches))
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": why})
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]
    assert json.loads(sent(whole(), batches)) == response


CALLS = [
    [Delta("Let me see.", tool_calls=(ToolCall(0, "id-0", "weather", ""),))],
    [Delta("", tool_calls=(ToolCall(0, "", "", '{"city":'), ToolCall(0, "", "", '"Paris"}')))],
    [Delta("", tool_calls=(ToolCall(1, "", "clock", "{}"),)), Delta("Done.", "tool_calls")],
]


def test_calls_stand_between_texts() -> None:
    raw = sent(events(), CALLS)
    response = read_response_events(raw)
    assert [item["id"] for item in response["output"]] == ["msg_0a1b", "fc_0a1b_0", "fc_0a1b_1", "msg_0a1b_3"]
    assert [text_of({"output": [response["output"][index]]}) for index in (0, 3)] == ["Let me see.", "Done."]
    assert calls_of(response) == [("id-0", "weather", '{"city":"Paris"}'), ("call_0a1b_1", "clock", "{}")]
    assert names_of(raw).count("function_call_arguments.delta") == 2
    assert json.loads(sent(whole(), CALLS)) == response


def test_pieces_of_calls_may_alternate() -> None:
    first = (ToolCall(0, "a", "f", "{"), ToolCall(1, "b", "g", "["))
    pieces = (*first, ToolCall(0, "", "", "}"), ToolCall(1, "", "", "]"))
    response = read_response_events(sent(events(), [[Delta("", tool_calls=pieces), Delta("", "tool_calls")]]))
    assert calls_of(response) == [("a", "f", "{}"), ("b", "g", "[]")]


def test_reasoning_is_an_item_of_its_own() -> None:
    thought = [[Delta(reasoning="H")], [Delta(reasoning="m"), Delta("Y", reasoning=".")], [Delta("es"), END]]
    response = read_response_events(sent(events(True), thought))
    assert [item["id"] for item in response["output"]] == ["rs_0a1b", "msg_0a1b"]
    assert (text_of(response, "reasoning"), text_of(response)) == ("Hm.", "Yes")
    assert json.loads(sent(whole(True), thought)) == response


@pytest.mark.parametrize(
    ("error", "code"), [(BROKEN, "server_error"), (RateLimited("Wait."), "rate_limit_exceeded")]
)
def test_a_reply_that_breaks_off_has_failed(error: CfchatError, code: str) -> None:
    form = events()
    raw = form.start(META) + form.encode([Delta("Hel")]) + form.fail(error)
    assert names_of(raw)[-2:] == ["error", "failed"]
    response = read_response_events(raw)
    assert (response["error"], response["usage"]) == ({"code": code, "message": error.message}, None)
    (item,) = response["output"]
    assert (item["status"], text_of(response)) == ("incomplete", "Hel")
    assert b"secret of the log" not in raw


def test_a_reply_that_fails_before_it_has_begun_is_a_stream_all_the_same() -> None:
    """A heartbeat has taken the head, and OpenAI's helpers accept nothing before response.created."""
    raw = events().fail(BROKEN)
    assert names_of(raw) == ["created", "in_progress", "error", "failed"]
    assert read_response_events(raw)["model"] == "@cf/asked/for"


def test_half_a_character_of_the_request_is_replaced() -> None:
    assert json.loads(sent(whole(instructions="\ud83d")))["instructions"] == "\ufffd"


# --- any reply ------------------------------------------------------------------------------------


@given(replies(), st.booleans())
def test_it_says_what_a_chat_completion_says(batches: list[list[Delta]], thoughts: bool) -> None:
    """However it is cut; and both forms are alike."""
    response = read_response_events(sent(events(thoughts), batches))
    assert json.loads(sent(whole(thoughts), batches)) == response
    completion: Any = json.loads(sent(Completion(thoughts), batches))
    (choice,) = completion["choices"]
    message, usage = choice["message"], completion["usage"]
    assert text_of(response) == (message["content"] or "")
    assert text_of(response, "reasoning") == message.get("reasoning_content", "")
    calls = [(call["id"], call["function"]) for call in message.get("tool_calls", [])]
    assert sorted(calls_of(response)) == sorted((call_id, *function.values()) for call_id, function in calls)
    assert [response["usage"][name] for name in ("input_tokens", "output_tokens", "total_tokens")] == [
        usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    ]
    cut = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(choice["finish_reason"])
    assert (response["incomplete_details"] or {}).get("reason") == cut


@given(replies(), st.data())
def test_it_may_break_off_behind_any_batch(batches: list[list[Delta]], data: st.DataObject) -> None:
    form, said = events(True), batches[: data.draw(st.integers(0, len(batches)))]
    raw = form.start(META) + b"".join(map(form.encode, said)) + form.fail(BROKEN)
    response = read_response_events(raw)
    assert text_of(response) == "".join(delta.text for batch in said for delta in batch)


LINK, OTHER, NAME = Source("A", "https://example.com/a"), Source("B", "https://example.com/b"), Source("c.md")


@pytest.mark.parametrize(
    ("batches", "cited"),
    [
        ([[Delta("Hel", sources=(LINK, NAME))], [Delta("lo", sources=(OTHER,)), END]], [[(LINK, 5), (OTHER, 5)]]),
        ([[Delta("Hello")], [END._replace(sources=(LINK,))]], [[(LINK, 5)]]),
        ([[Delta("Hi", sources=(NAME,)), END]], [[]]),
        # Thoughts come out first, and have no place for them.
        ([[Delta(reasoning="hm", sources=(LINK,))], [Delta("Hi")], [END]], [[(LINK, 2)]]),
        (
            [[Delta("Hi", sources=(LINK,))], [Delta(reasoning="hm")], [Delta("Ho", sources=(OTHER,)), END]],
            [[(LINK, 2)], [(OTHER, 2)]],
        ),
    ],
)
def test_sources_are_annotations_of_the_message(
    batches: list[list[Delta]], cited: list[list[tuple[Source, int]]]
) -> None:
    response = read_response_events(sent(events(thoughts=True), batches))
    assert response == json.loads(sent(whole(thoughts=True), batches))
    messages = [item for item in response["output"] if item["type"] == "message"]
    assert [message["content"][0]["annotations"] for message in messages] == [
        [
            {"type": "url_citation", "url": source.url, "title": source.title, "start_index": at, "end_index": at}
            for source, at in pairs
        ]
        for pairs in cited
    ]


def test_a_response_that_breaks_off_has_no_annotation_that_was_not_told() -> None:
    form = events()
    raw = form.start(META) + form.encode([Delta("Hel", sources=(LINK,))]) + form.fail(BROKEN)
    response = read_response_events(raw)
    assert response["output"][0]["content"][0]["annotations"] == []
