"""The SDKs that people have, as they are, against a whole cfchat: all that their ways to ask have in common."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from leaving import closes_at_once
from places import STREAMS
from sdks import CALLS, GEMMA, LLAMA, STATUSES, TOOLS, USAGE, Client, asked, each, each_stream, each_way, each_whole
from standin import Exchange, Model, Script, StandIn, event, json_error, reply, words

from cfchat.server.request import Limits

# Where a client connects just as the house closes, asyncio (3.11) leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


# --- streams --------------------------------------------------------------------------------------


@each_stream
async def test_each_piece_is_there_before_the_next_is_said(client: Client, way: str) -> None:
    model = Model()
    async with asked(client, model):
        client.ask(way)
        for piece in ("Good", " mor", "ning, 世界"):
            model.say(piece)
            assert await client.told() == {"piece": piece}
        model.end(usage=USAGE)
        end = (await client.told())["end"]
        assert end["text"] == "Good morning, 世界"
        # A text stream has no place for it.
        assert end["usage"] == (None if way == "text" else 7)


@each_stream
async def test_a_reply_that_breaks_off_looks_broken(client: Client, way: str) -> None:
    model, known = Model(), client.way(way)
    async with asked(client, model) as standin:
        client.ask(way)
        model.say("Good")
        assert await client.told() == {"piece": "Good"}
        model.break_off()
        end = await client.told()
        assert end.get("error") == known.broken, end
        assert known.message in end["message"]
        assert len(standin.requests) == 1


@each_stream
async def test_a_client_that_leaves_closes_the_call_to_the_model(client: Client, way: str) -> None:
    async def leave() -> float:
        model = Model()
        async with asked(client, model) as standin:
            client.ask(way, leave=True)
            model.say("Good")
            assert await client.told() == {"piece": "Good"}
            await standin.wait_closed_by_peer()
            closed = time.time()
            left: float = (await client.told())["left"]
            await client.end()
            assert len(standin.requests) == 1
        return closed - left

    await closes_at_once(leave)


@each_stream
async def test_words_come_behind_heartbeats(client: Client, way: str) -> None:
    """A text stream has none, and just waits."""

    async def late(exchange: Exchange) -> None:
        await asyncio.sleep(0.2)
        await reply(event("Good morning") + event("", usage=USAGE) + b"data: [DONE]\n\n")(exchange)

    async with asked(client, late, limits=Limits(heartbeat=0.05)):
        client.ask(way)
        assert (await client.end())["end"]["text"] == "Good morning"


# --- errors ---------------------------------------------------------------------------------------

DAY, SETUP, BUSY = json_error(429, 3036, "x"), json_error(401, 10000, "x"), json_error(429, 3040, "x")
# Our status, what of the job is wrong, what the model answers, our words.
ERRORS: list[tuple[int, dict[str, Any], list[Script], str]] = [
    (400, {"options": {"max_tokens": 9999}}, [], "The most that this server allows for `m"),
    (401, {"key": "wrong"}, [], "The API key is not valid."),
    (404, {"model": "@cf/none/such"}, [], "This model is not offered here."),
    (429, {}, [DAY], "The daily limit is used up. It resets at 00:00 UTC."),
    (502, {}, [SETUP], "The server is not set up correctly."),
    (503, {}, [BUSY] * 3, "The assistant is busy, please try again."),
]


@pytest.mark.parametrize(("status", "job", "scripts", "message"), ERRORS, ids=map(str, STATUSES))
@each_stream
async def test_an_error_is_the_clients_own(
    client: Client, way: str, status: int, job: dict[str, Any], scripts: list[Script], message: str
) -> None:
    """And costs no more tries than ours: OpenAI's SDKs would by themselves make two more of each of the last three."""
    async with asked(client, *scripts) as standin:
        client.ask(way, **job)
        end, known = await client.told(), client.way(way)
        assert end.get("error") == known.errors[status], end
        assert message in end["message"]
        if known.tells_status:  # only OpenAI's API has a status of its own for a model not found
            assert end["status"] == (400 if status == 404 and way in ("text", "ui") else status)
        assert len(standin.requests) == len(scripts)


@each_way
async def test_an_empty_reply_is_an_error(client: Client, way: str) -> None:
    async with asked(client, reply(b'data: {"usage":{"completion_tokens":3}}\n\ndata: [DONE]\n\n')) as standin:
        client.ask(way)
        end, known = await client.told(), client.way(way)
        assert end.get("error") == known.errors[502] and "The model gave an empty answer" in end["message"], end
        assert len(standin.requests) == 1


# --- what only some have --------------------------------------------------------------------------


@each_whole
async def test_a_whole_reply(client: Client, way: str) -> None:
    model = Model()
    model.say("Good")
    model.say(" morning")
    model.end(usage=USAGE)
    async with asked(client, model):
        client.ask(way)
        end = (await client.told())["end"]
        assert (end["text"], end["usage"]) == ("Good morning", 7)


@each_whole
async def test_a_whole_reply_that_breaks_off_is_an_error(client: Client, way: str) -> None:
    model = Model()
    model.say("Good")
    model.break_off()
    async with asked(client, model) as standin:
        client.ask(way)
        end = await client.told()
        assert (end.get("error"), end["status"]) == (client.way(way).errors[502], 502), end
        assert len(standin.requests) == 1


@each("openai-python", "openai-node", "langchain", "ai-5", "ai-6", "ai-7")
@pytest.mark.parametrize("dialect", CALLS)
async def test_calls_of_tools(client: Client, dialect: str) -> None:
    """Put together from the pieces of a stream by each client's own means, their arguments at times still as text."""
    async with asked(client, reply((STREAMS / f"{dialect}.sse").read_bytes())) as standin:
        client.ask("tools", options={"tools": TOOLS})
        calls = (await client.end())["end"]["calls"]
    assert [(name, json.loads(given) if isinstance(given, str) else given) for name, given in calls] == CALLS[dialect]
    sent = json.loads(standin.requests[0].body)["tools"]
    assert [tool["function"]["name"] for tool in sent] == ["get_weather", "calculator"]


@each("openai-python", "openai-node")
async def test_a_reply_in_json(client: Client) -> None:
    """Of a classic model, whose API gives it parsed."""
    answer = {"result": {"response": {"a": 1}, "usage": USAGE}, "success": True, "errors": [], "messages": []}
    script = reply(json.dumps(answer).encode(), framing="length", fields=[("content-type", "application/json")])
    async with asked(client, script) as standin:
        client.ask("whole", model=LLAMA, options={"response_format": {"type": "json_object"}})
        end = (await client.told())["end"]
        assert json.loads(end["text"]) == {"a": 1} and end["usage"] == 7
    assert json.loads(standin.requests[0].body)["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize("kind", ["<think>Hm. So.</think>\n\n", {"reasoning": "Hm. So."}], ids=["tag", "field"])
@pytest.mark.parametrize("way", ["ui", "provider", "whole"])
@each("ai-5", "ai-6", "ai-7")
async def test_thoughts_are_shown_apart_from_the_answer(client: Client, way: str, kind: object) -> None:
    thought = event(kind) if isinstance(kind, str) else f"data: {json.dumps(kind)}\n\n".encode()
    script = reply(thought + event("Good morning") + event("", usage=USAGE) + b"data: [DONE]\n\n")
    for sent in (True, False):
        async with asked(client, script, thoughts=sent):
            client.ask(way)
            end = (await client.end())["end"]
            assert (end["text"], end["thoughts"]) == ("Good morning", "Hm. So." if sent else "")


@each("openai-python", "openai-node")
async def test_models(client: Client) -> None:
    """The SDKs escape the slashes of a name."""
    async with asked(client):
        client.ask("models")
        assert await client.told() == {"end": [[GEMMA, LLAMA], GEMMA]}


@each("ai-5", "ai-6", "ai-7")
async def test_there_is_nothing_to_resume(client: Client) -> None:
    async with asked(client):
        client.ask("resume")
        assert await client.told() == {"end": None}


# --- conversations that began elsewhere -----------------------------------------------------------


def sent(standin: StandIn) -> list[tuple[str, str]]:
    """What the model was sent, without the system message."""
    messages = json.loads(standin.requests[0].body)["messages"]
    return [(message["role"], message["content"]) for message in messages if message["role"] != "system"]


@each("openai-python", "openai-node", "langchain")
@pytest.mark.parametrize(("role", "rest"), [("system", []), ("assistant", [("assistant", "Choose the next speaker.")])])
async def test_a_conversation_without_a_user(client: Client, role: str, rest: list[tuple[str, str]]) -> None:
    async with asked(client, words("The critic")) as standin:
        client.ask("whole", messages=[{"role": role, "content": "Choose the next speaker."}])
        assert (await client.told())["end"]["text"] == "The critic"
        assert sent(standin) == [("user", "Go on."), *rest]


@each("ai-5", "ai-6", "ai-7")
@pytest.mark.parametrize("way", ["ui", "text"])
async def test_a_chat_that_began_on_another_back_end_goes_on(client: Client, way: str) -> None:
    parts = [
        {"type": "step-start"},
        {"type": "reasoning", "text": "Hm.", "state": "done"},
        {"type": "data-weather", "id": "d1", "data": {"degrees": 20}},
        {"type": "tool-weather", "toolCallId": "c1", "state": "output-available", "input": {}, "output": {"t": 20}},
        {"type": "source-url", "sourceId": "s1", "url": "https://example.com"},
        {"type": "source-document", "sourceId": "s2", "mediaType": "application/pdf", "title": "A page"},
        {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AAAA"},
        {"type": "text", "text": "It is warm.", "state": "done"},
    ]
    earlier = [
        {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "Is it warm?"}]},
        {"id": "m2", "role": "assistant", "parts": parts},
    ]
    async with asked(client, words("Good")) as standin:
        client.ask(way, earlier=earlier)
        assert (await client.end())["end"]["text"] == "Good"
        assert sent(standin)[:2] == [("user", "Is it warm?"), ("assistant", "It is warm.")]
