"""OpenAI's Responses as the SDKs read them, beyond what every way to ask has in common."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from places import STREAMS
from reply_forms import BROKEN, META, replies
from reply_forms import sent as sent_by
from sdks import CALLS, TOOL_NAMES, TOOLS, USAGE, Client, asked, each, each_response_stream
from standin import Exchange, event, json_error, reply, words

from cfchat.conversation.model import Delta
from cfchat.replies import responses
from cfchat.server.request import Limits
from cfchat.wire.sse import SSEParser

# Where a client connects just as the house closes, asyncio (3.11) leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


DONE = b"data: [DONE]\n\n"
ITEM_TOOLS = [
    {"type": "function", "name": name, "parameters": {"type": "object"}, "strict": None} for name in TOOL_NAMES
]
OPENAI, AI, AGENTS = ("openai-python", "openai-node"), ("ai-5", "ai-6", "ai-7"), ("agents-python", "agents-node")
LANGCHAIN = "langchain"
whole_or_streamed = pytest.mark.parametrize("way", ["response_whole", "response_last"])


@whole_or_streamed
@each(*OPENAI, LANGCHAIN)
async def test_a_response(client: Client, way: str) -> None:
    async with asked(client, reply(event("Good morning") + event("", usage=USAGE) + DONE)):
        client.ask(way)
        end = (await client.told())["end"]
        assert (end["text"], end["usage"], end["calls"]) == ("Good morning", 7, [])
        assert (end["status"], end["reason"]) == ("completed", None)


@whole_or_streamed
@each(*OPENAI)
async def test_thoughts_are_an_item_of_a_response(client: Client, way: str) -> None:
    for sent in (True, False):
        async with asked(client, reply(event("<think>Hm. So.</think>") + event("Good") + DONE), thoughts=sent):
            client.ask(way)
            end = (await client.told())["end"]
            assert (end["text"], end["thoughts"], end["usage"]) == ("Good", "Hm. So." if sent else "", 0)


@whole_or_streamed
@each(*OPENAI, LANGCHAIN, *AI)
async def test_a_response_that_is_cut_is_incomplete(client: Client, way: str) -> None:
    async with asked(client, reply(event("Good") + b'data: {"finish_reason":"length"}\n\n' + DONE)):
        client.ask(way)
        end = (await client.end())["end"]
        assert (end["text"], end["reason"]) == ("Good", "length" if client.name in AI else "max_output_tokens")


@pytest.mark.parametrize("way", ["response_whole", "response_stream"])
@each(*AGENTS)
async def test_a_response_that_is_cut_is_an_error_for_an_agent(client: Client, way: str) -> None:
    async with asked(client, reply(event("Good") + b'data: {"finish_reason":"length"}\n\n' + DONE)):
        client.ask(way)
        end = await client.end()
        assert end.get("error") == "ModelBehaviorError" and "incomplete" in end["message"], end


async def late(exchange: Exchange) -> None:
    """A refusal behind a silence of several heartbeats."""
    await asyncio.sleep(0.2)
    await json_error(401, 10000, "x")(exchange)


@each_response_stream
async def test_a_response_that_fails_behind_heartbeats_is_an_error(client: Client, way: str) -> None:
    """The helper wants to be told of a response before it hears that it has failed."""
    async with asked(client, late, limits=Limits(heartbeat=0.05)) as standin:
        client.ask(way)
        end, known = await client.told(), client.way(way)
        assert end.get("error") == (known.early or known.broken), end
        assert "The server is not set up correctly." in end["message"]
        assert len(standin.requests) == 1


@pytest.mark.parametrize("dialect", CALLS)
@each(*OPENAI, LANGCHAIN, *AI)
async def test_calls_of_tools_and_their_results_are_items(client: Client, dialect: str) -> None:
    options: dict[str, object] = {"tools": ITEM_TOOLS if client.name in OPENAI else TOOLS}
    if client.name in AI:
        options["openai"] = {"store": False}
    async with asked(client, reply((STREAMS / f"{dialect}.sse").read_bytes()), words("Bye")) as standin:
        client.ask("response_turns", options=options)
        end = (await client.end())["end"]
    assert [(name, loaded(given)) for name, given in end["calls"]] == CALLS[dialect] and end["text"] == "Bye"
    first, second = (json.loads(request.body) for request in standin.requests)
    assert [tool["function"]["name"] for tool in first["tools"]] == ["get_weather", "calculator"]
    assert_went_back(second, [name for name, _ in CALLS[dialect]])


def loaded(arguments: object) -> object:
    """Arguments of a call, which some clients leave as text."""
    return json.loads(arguments) if isinstance(arguments, str) else arguments


def assert_went_back(question: dict[str, Any], names: list[str]) -> None:
    """The model is sent its calls, as one message, and the result of each."""
    called, *results = question["messages"][2:]
    assert [call["function"]["name"] for call in called["tool_calls"]] == names
    assert [result["tool_call_id"] for result in results] == [call["id"] for call in called["tool_calls"]]
    assert {result["content"] for result in results} == {"rain"}


@each(*AGENTS)
async def test_an_agent_calls_its_tool_and_tells_nobody_else(client: Client) -> None:
    called = reply((STREAMS / "openai_tool_call.sse").read_bytes())
    async with asked(client, called, words("Bye")) as standin:
        client.ask("response_turns")
        end = (await client.end())["end"]
    assert end == {"calls": [["get_weather", '{"city":"Paris"}']], "text": "Bye", "elsewhere": []}
    assert_went_back(json.loads(standin.requests[1].body), ["get_weather"])


@each(*OPENAI, LANGCHAIN, *AI)
async def test_a_response_in_json_is_parsed(client: Client) -> None:
    weather = {"city": "Paris", "degrees": 20}
    answer = {"result": {"response": weather, "usage": USAGE}, "success": True, "errors": [], "messages": []}
    script = reply(json.dumps(answer).encode(), framing="length", fields=[("content-type", "application/json")])
    async with asked(client, script, script) as standin:
        client.ask("response_parsed")
        assert (await client.told()) == {"end": [weather, weather]}
    for request in standin.requests:
        asked_for = json.loads(request.body)["response_format"]["json_schema"]
        assert asked_for["name"] == "Weather" and asked_for["schema"]["required"] == ["city", "degrees"]


@each(*AI)
async def test_a_second_turn_goes_on_if_nothing_is_stored(client: Client) -> None:
    async with asked(client, words("Good"), words("Fine")) as standin:
        client.ask("response_turns", options={"openai": {"store": False}})
        assert (await client.end())["end"]["text"] == "Fine"
    said = [(message["role"], message["content"]) for message in json.loads(standin.requests[1].body)["messages"][1:]]
    assert said == [("user", "Hello"), ("assistant", "Good"), ("user", "And you?")]


@each(*AI)
async def test_a_second_turn_that_refers_to_the_first_is_refused_with_the_way_out(client: Client) -> None:
    """By default this provider sends only the id of what came back."""
    async with asked(client, words("Good")) as standin:
        client.ask("response_turns")
        end = await client.end()
        assert (end.get("error"), end["status"]) == ("AI_APICallError", 400), end
        assert "providerOptions.openai.store = false" in end["message"]
        assert len(standin.requests) == 1


@each(*OPENAI, LANGCHAIN, *AI)
async def test_a_second_turn_goes_on_without_the_thoughts_of_the_first(client: Client) -> None:
    called = (STREAMS / "openai_tool_call.sse").read_bytes()
    thought = b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"Hm."}}]}\n\n'
    options: dict[str, object] = {"tools": ITEM_TOOLS if client.name in OPENAI else TOOLS}
    if client.name in AI:
        options["openai"] = {"store": False}
    async with asked(client, reply(thought + called), words("Bye"), thoughts=True) as standin:
        client.ask("response_turns", options=options)
        assert (await client.end())["end"]["text"] == "Bye"
    assert_went_back(json.loads(standin.requests[1].body), ["get_weather"])


@each(*OPENAI)
async def test_what_would_need_an_earlier_response_is_refused_with_the_way_out(client: Client) -> None:
    async with asked(client) as standin:
        client.ask("response_stream", options={"previous_response_id": "resp_1"})
        end = await client.told()
        assert (end.get("error"), end["status"]) == ("BadRequestError", 400) and "whole conversation" in end["message"]
        client.ask("response_kept")
        end = await client.told()
        assert (end.get("error"), end["status"]) == ("NotFoundError", 404) and "does not keep" in end["message"]
        assert standin.requests == []


@each("openai-python")
async def test_every_event_is_of_the_sdks_own_types(client: Client) -> None:
    """Of any reply, however it is cut, and wherever it breaks off."""
    streams: list[bytes] = []
    wholes: list[bytes] = []
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    repeated: list[dict[str, object]] = [{}, {"instructions": "x", "tools": [tool], "temperature": 0.5}]

    @hypothesis.given(replies(), st.booleans(), st.sampled_from(repeated), st.none() | st.integers(0, 9))
    def collect(batches: list[list[Delta]], thoughts: bool, asked: dict[str, object], broken: int | None) -> None:
        form = responses.Events(META, asked, time.time, thoughts)
        said = form.start(META) + b"".join(map(form.encode, batches[:broken]))
        streams.append(said + (form.finish() if broken is None else form.fail(BROKEN)))
        wholes.append(sent_by(responses.Response(META, asked, time.time, thoughts), batches))

    collect()
    events = [event.data for stream in streams for event in SSEParser().feed(stream)]
    client.ask("validate", events=events, responses=[whole.decode() for whole in wholes])
    assert await client.told() == {"end": len(events)}
