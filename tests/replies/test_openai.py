"""OpenAI's chunks and completions, to the byte."""

from __future__ import annotations

import json

from reply_forms import BROKEN, ERROR, USAGE, data_of, sent

from cfchat.conversation.model import Delta, ToolCall
from cfchat.replies.openai import Chunks, Completion, encode_model, encode_models


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


def test_interrupted_chunks_end_with_an_error() -> None:
    """No [DONE] follows, because the reply would look complete."""
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


USAGE_OF_FIVE = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


def test_usage_is_whole_numbers() -> None:
    """Cloudflare may count in fractions, leave the total out, or report nothing; no count is invented."""
    counted = [[Delta("a", "stop", {"prompt_tokens": 2.0, "completion_tokens": 3, "neurons": 0.5})]]
    assert json.loads(sent(Completion(), counted))["usage"] == {**USAGE_OF_FIVE, "neurons": 0.5}
    responses = [[Delta("a", "stop", {"input_tokens": 2, "output_tokens": 3, "total_tokens": 5})]]
    assert json.loads(sent(Completion(), responses))["usage"].items() >= USAGE_OF_FIVE.items()
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
    """Each call has its name and id once; the id is ours if Cloudflare gives none."""
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
