"""Each form of a reply: bytes as the clients want them, and the same words however the deltas were cut into batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.conversation.model import Delta, ToolCall
from cfchat.errors import UpstreamInterrupted
from cfchat.replies.events import Events
from cfchat.replies.form import DONE, HEARTBEAT, Form, Meta
from cfchat.replies.openai import Chunks, Completion, encode_model, encode_models
from cfchat.replies.text import Text
from cfchat.replies.ui_message import UIMessage
from cfchat.replies.whole import Whole
from cfchat.wire.sse import SSEParser

META = Meta("0a1b", 1764000000, "@cf/x/y")
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
HELLO = [[Delta("Hel")], [Delta("lo"), Delta("", "stop", USAGE)]]
BROKEN = UpstreamInterrupted("The reply was interrupted.", detail="secret of the log")
ERROR = {
    "message": "The reply was interrupted.",
    "type": "upstream_error",
    "code": "upstream_interrupted",
    "param": None,
}


def sent(form: Form, batches: Sequence[Sequence[Delta]] = HELLO) -> bytes:
    return form.start(META) + b"".join(map(form.encode, batches)) + form.finish()


def data_of(raw: bytes) -> list[Any]:
    """The data of each event, up to [DONE], which must be the last one."""
    events = [event.data for event in SSEParser().feed(raw)]
    assert events.pop() == "[DONE]"
    return [json.loads(data) for data in events]


# --- to the byte ---------------------------------------------------------------------------------


def test_text() -> None:
    assert sent(Text()) == b"Hello"
    assert Text().fail(BROKEN) == b"" and Text().heartbeat == b""


def test_events() -> None:
    assert sent(Events()) == (
        b'data: {"response":"Hel","text":"Hel"}\n\ndata: {"response":"lo","text":"lo"}\n\ndata: [DONE]\n\n'
    )


def test_events_that_break() -> None:
    name, data = Events().fail(BROKEN).decode().splitlines()[:2]
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: ")) == {"error": ERROR, "text": ""}


def test_whole() -> None:
    assert json.loads(sent(Whole())) == {
        "response": "Hello",
        "text": "Hello",
        "usage": USAGE,
        "model": "@cf/x/y",
        "finish_reason": "stop",
    }


def test_ui_message() -> None:
    usage = '{"usage":{"inputTokens":5,"outputTokens":2,"totalTokens":7}}'
    assert sent(UIMessage()).decode() == (
        'data: {"type":"start","messageId":"msg_0a1b"}\n\n'
        'data: {"type":"start-step"}\n\n'
        'data: {"type":"text-start","id":"t1"}\n\n'
        'data: {"type":"text-delta","id":"t1","delta":"Hel"}\n\n'
        'data: {"type":"text-delta","id":"t1","delta":"lo"}\n\n'
        'data: {"type":"text-end","id":"t1"}\n\n'
        'data: {"type":"finish-step"}\n\n'
        f'data: {{"type":"finish","finishReason":"stop","messageMetadata":{usage}}}\n\n'
        "data: [DONE]\n\n"
    )


def test_ui_message_that_breaks() -> None:
    assert UIMessage().fail(BROKEN) == b'data: {"type":"error","errorText":"The reply was interrupted."}\n\n' + DONE


@pytest.mark.parametrize(
    ("ours", "theirs"), [("stop", "stop"), ("length", "length"), ("tool_calls", "tool-calls"), ("other", "other")]
)
def test_why_a_ui_message_ended(ours: str, theirs: str) -> None:
    finish = data_of(sent(UIMessage(), [[Delta("a", ours)]]))[-1]
    assert finish == {"type": "finish", "finishReason": theirs}


def test_chunks() -> None:
    head = '{"id":"chatcmpl-0a1b","object":"chat.completion.chunk","created":1764000000,"model":"@cf/x/y"'
    usage = '{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}'

    def chunk(delta: str, reason: str = "null") -> str:
        return f'data: {head},"choices":[{{"index":0,"delta":{delta},"finish_reason":{reason}}}]}}\n\n'

    expected = (
        chunk('{"role":"assistant","content":""}')
        + chunk('{"content":"Hel"}')
        + chunk('{"content":"lo"}')
        + chunk("{}", '"stop"')
    )
    assert sent(Chunks(False)).decode() == expected + "data: [DONE]\n\n"
    assert sent(Chunks(True)).decode() == (
        expected + f'data: {head},"choices":[],"usage":{usage}}}\n\n' + "data: [DONE]\n\n"
    )


def test_chunks_that_break() -> None:
    """No [DONE] behind it, which would make it look whole."""
    assert Chunks(True).fail(BROKEN) == b"data: %b\n\n" % json.dumps({"error": ERROR}, separators=(",", ":")).encode()


def test_completion() -> None:
    assert json.loads(sent(Completion())) == {
        "id": "chatcmpl-0a1b",
        "object": "chat.completion",
        "created": 1764000000,
        "model": "@cf/x/y",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }


def test_usage_is_whole_numbers() -> None:
    """Cloudflare may count in fractions, or leave the total out, or say nothing; nothing is invented."""
    counted = [[Delta("a", "stop", {"prompt_tokens": 2.0, "completion_tokens": 3, "neurons": 0.5})]]
    assert json.loads(sent(Completion(), counted))["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "total_tokens": 5,
        "neurons": 0.5,
    }
    # `llm` fails where a whole reply has none.
    nothing = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert json.loads(sent(Completion(), [[Delta("a", "stop")]]))["usage"] == nothing
    assert all("usage" not in chunk for chunk in data_of(sent(Chunks(True), [[Delta("a", "stop")]])))


CALLS = [
    [Delta("", tool_calls=(ToolCall(0, "id-0", "weather", ""),))],
    [Delta("", tool_calls=(ToolCall(0, "", "", '{"city":'), ToolCall(0, "", "", '"Paris"}')))],
    [Delta("", tool_calls=(ToolCall(1, "", "clock", "{}"),)), Delta("", "tool_calls")],
]


def test_pieces_of_calls_are_passed_on_as_they_come() -> None:
    """The name and an id once a call, of ours where Cloudflare has none."""
    deltas = [chunk["choices"][0]["delta"] for chunk in data_of(sent(Chunks(False), CALLS))]
    assert [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta] == [
        {"index": 0, "id": "id-0", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city":'}},
        {"index": 0, "function": {"arguments": '"Paris"}'}},
        {"index": 1, "id": "call_0a1b_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
    ]


def test_whole_calls() -> None:
    choice = json.loads(sent(Completion(), CALLS))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "id-0", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}},
        {"id": "call_0a1b_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
    ]


def test_models() -> None:
    model = {"id": "@cf/x/y", "object": "model", "created": 0, "owned_by": "cloudflare"}
    assert json.loads(encode_model("@cf/x/y")) == model
    assert json.loads(encode_models(["@cf/x/y"])) == {"object": "list", "data": [model]}


@pytest.mark.parametrize("form", [Events(), UIMessage(), Chunks(False)])
def test_a_heartbeat_is_no_event(form: Form) -> None:
    assert form.heartbeat == HEARTBEAT
    assert SSEParser().feed(HEARTBEAT) == []


# --- any batch cut -------------------------------------------------------------------------------


def words_of_chunks(raw: bytes) -> str:
    chunks = data_of(raw)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert [reason for reason in reasons if reason] == reasons[-1:]
    contents = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
    return "".join(contents)


def words_of_ui_message(raw: bytes) -> str:
    """As the SDK reads it: only what was started may grow, and all that was started ends."""
    events = data_of(raw)
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["start", "start-step", "text-start"]
    assert kinds[-3:] == ["text-end", "finish-step", "finish"]
    assert set(kinds[3:-3]) <= {"text-delta"}
    assert {event["id"] for event in events if event["type"].startswith("text-")} == {"t1"}
    return "".join(event.get("delta", "") for event in events)


def words_of_events(raw: bytes) -> str:
    events = data_of(raw)
    assert all(event["response"] == event["text"] != "" for event in events)
    return "".join(event["text"] for event in events)


FORMS: dict[str, tuple[Callable[[], Form], Callable[[bytes], str]]] = {
    "text": (Text, bytes.decode),
    "events": (Events, words_of_events),
    "whole": (Whole, lambda raw: str(json.loads(raw)["text"])),
    "ui_message": (UIMessage, words_of_ui_message),
    "chunks": (lambda: Chunks(True), words_of_chunks),
    "completion": (Completion, lambda raw: json.loads(raw)["choices"][0]["message"]["content"] or ""),
}
# Newlines of all kinds, what JSON escapes, what ends an event, what is several bytes.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\n\r\u2028\x85\x00"\\<')) | st.sampled_from(
    ["data: [DONE]\n\n", "\n\ndata: {}\n\n", "😀", "e\u0301"]
)


@pytest.mark.parametrize("name", FORMS)
@given(data=st.data())
def test_any_cut_into_batches_gives_the_same_words(name: str, data: st.DataObject) -> None:
    make, words_of = FORMS[name]
    texts = data.draw(st.lists(TEXTS, min_size=1, max_size=8))
    deltas = [*map(Delta, texts), Delta("", "stop", USAGE)]
    cuts = data.draw(st.sets(st.integers(1, len(deltas) - 1)))
    batches = [deltas[begin:end] for begin, end in pairwise([0, *sorted(cuts), len(deltas)])]
    form = make()
    pieces = [form.start(META), *map(form.encode, batches), form.finish()]
    for piece in pieces:
        piece.decode()  # none ends inside a character
    assert words_of(b"".join(pieces)) == "".join(texts)
