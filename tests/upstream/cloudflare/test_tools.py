"""Calls of tools: the recorded ones, whole ones and pieces, and what is no call."""

from __future__ import annotations

import json

import pytest
from recorded import stream_bytes
from streams import events

from cfchat.conversation.model import Delta, ToolCall
from cfchat.errors import UpstreamEmpty, UpstreamEndless
from cfchat.upstream.cloudflare.reply import ReplyReader
from cfchat.wire.sse import SSEParser


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
    """A whole call, then one in pieces at the same index, whose last piece is null."""
    assert calls("classic_tool_calls") == [
        ToolCall(0, "", "get_weather", '{"location":"London"}'),
        ToolCall(1, "chatcmpl-tool-1", "calculator", ""),
        ToolCall(1, "", "", '{"a": 1'),
        ToolCall(1, "", "", ', "b": 2}'),
    ]


@pytest.mark.parametrize("name", ["openai_tool_call", "classic_tool_calls"])
def test_calls_come_out_only_where_there_are_tools(name: str) -> None:
    assert calls(name, tools=False) == []


def test_a_reply_of_calls_alone_is_no_empty_one() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"content": None, "tool_calls": [call]}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    first, last = ReplyReader(9, tools=True).read_json(body)
    assert first.tool_calls == (ToolCall(0, "c", "f", "{}"),)
    assert last.finish_reason == "tool_calls"
    with pytest.raises(UpstreamEmpty):
        ReplyReader(9).read_json(body)


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


@pytest.mark.parametrize("tools", [True, False])
@pytest.mark.parametrize("call", [{"name": "f"}, {"id": "i" * 1000}])
def test_calls_without_end_end_the_reply_also_behind_its_first_words(tools: bool, call: dict[str, object]) -> None:
    reader = ReplyReader(9, tools=tools)
    reader.read(events({"response": "Let me see."}))
    reader.read(events({"tool_calls": [{**call, "index": index} for index in range(200)]}))
    with pytest.raises(UpstreamEndless):
        reader.read(events({"tool_calls": [{**call, "index": index} for index in range(10_000)]}))
        reader.close(None)
