"""The SDKs that people have, as they are, against a whole cfchat."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from house import HELLO, house
from hypothesis import strategies as st
from installs import HERE, Process, node_modules, venv
from leaving import closes_at_once
from places import STREAMS
from reply_forms import BROKEN, META, replies
from reply_forms import sent as sent_by
from standin import Exchange, Model, Script, StandIn, event, json_error, reply, words

from cfchat.app.routes import Settings
from cfchat.conversation.model import Delta
from cfchat.guard.guard import Guard
from cfchat.guard.guard import Settings as GuardSettings
from cfchat.guard.keys import parse_keys
from cfchat.replies import responses
from cfchat.server.request import Limits
from cfchat.wire.sse import SSEParser

GEMMA, LLAMA = "@cf/google/gemma-4-26b-a4b-it", "@cf/meta/llama-3.1-8b-instruct-fast"
KEY = "the-key-of-the-tests"
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
TOOL_NAMES = ("get_weather", "calculator")
TOOLS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": {"type": "object"}}}
    for name in TOOL_NAMES
]
CALLS: dict[str, list[tuple[str, dict[str, Any]]]] = {  # in tests/data/streams
    "openai_tool_call": [("get_weather", {"city": "Paris"})],
    "classic_tool_calls": [("get_weather", {"location": "London"}), ("calculator", {"a": 1, "b": 2})],
}
# Where a client connects just as the house closes, asyncio (3.11) leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def openai_python(folder: Path) -> Process:
    return Process(venv(folder, "openai==3.57.0") / "python", HERE / "openai_python.py")


def langchain(folder: Path) -> Process:
    return Process(venv(folder, "langchain-openai==1.7.4", "openai==3.57.0") / "python", HERE / "langchain_python.py")


def openai_node(folder: Path) -> Process:
    return Process("node", node_modules(folder, "openai@7.57.0") / "openai_node.mjs")


def ai_sdk(version: str, provider: str) -> Callable[[Path], Process]:
    packages = f"ai@{version}", f"@ai-sdk/openai-compatible@{provider}"
    return lambda folder: Process("node", node_modules(folder, *packages) / "ai_sdk.mjs")


@dataclass(frozen=True)
class Way:
    """One way to read a stream with a client: its exceptions by our status, and for a reply that breaks off."""

    errors: dict[int, str]
    broken: str
    message: str = "The connection to the model was lost."
    tells_status: bool = True


STATUSES = (400, 401, 404, 429, 502, 503)
OPENAI_ERRORS = ["BadRequest", "Authentication", "NotFound", "RateLimit", "InternalServer", "InternalServer"]
LANGCHAIN_ERRORS = ["InvalidRequest", "Authentication", "ModelNotFound", "RateLimit", "API", "API"]
OPENAI = Way({status: f"{name}Error" for status, name in zip(STATUSES, OPENAI_ERRORS, strict=True)}, "APIError")
LANGCHAIN = Way(
    {status: f"OpenAI{name}Error" for status, name in zip(STATUSES, LANGCHAIN_ERRORS, strict=True)}, "APIError"
)
# Up to version 6 a page gets no more than our JSON as the message of an Error.
PAGE_ERRORS, CALL_ERRORS = dict.fromkeys(STATUSES, "Error"), dict.fromkeys(STATUSES, "AI_APICallError")
AI_TEXT = Way(PAGE_ERRORS, "TypeError", "terminated", tells_status=False)
AI_UI = Way(PAGE_ERRORS, "Error", tells_status=False)
# The error of the stream as it came, which is no Error at all.
AI_PROVIDER = Way(CALL_ERRORS, "Object")
AI = {"text": AI_TEXT, "ui": AI_UI, "provider": AI_PROVIDER}
AI_7 = {
    "text": replace(AI_TEXT, errors=CALL_ERRORS, tells_status=True),
    "ui": replace(AI_UI, errors=CALL_ERRORS, tells_status=True),
    "provider": replace(AI_PROVIDER, broken="AI_StreamProviderError"),
}
CLIENTS: dict[str, tuple[Callable[[Path], Process], dict[str, Way]]] = {
    "openai-python": (
        openai_python,
        dict.fromkeys(("sync", "task", "response_stream", "response_task", "response_helper"), OPENAI),
    ),
    "openai-node": (openai_node, {"stream": OPENAI}),
    "langchain": (langchain, {"sync": LANGCHAIN, "task": LANGCHAIN}),
    "ai-5": (ai_sdk("5.0.277", "1.0.61"), AI),
    "ai-6": (ai_sdk("6.0.326", "2.0.92"), AI),
    "ai-7": (ai_sdk("7.0.173", "3.0.92"), AI_7),
}


def each(*names: str) -> pytest.MarkDecorator:
    """A test for each of these clients."""
    return pytest.mark.parametrize("client", names, indirect=True)


each_way = pytest.mark.parametrize(
    ("client", "way"),
    [pytest.param(name, way, id=f"{name}-{way}") for name, (_, ways) in CLIENTS.items() for way in ways],
    indirect=["client"],
)


@dataclass
class Client:
    name: str
    process: Process
    url: str = ""

    def way(self, way: str) -> Way:
        return CLIENTS[self.name][1][way]

    def ask(self, way: str, **job: object) -> None:
        self.process.ask(**{"way": way, "url": self.url, "key": KEY, "model": GEMMA, "messages": HELLO, **job})

    async def told(self) -> dict[str, Any]:
        return await self.process.told()

    async def end(self) -> dict[str, Any]:
        """The last that it tells of a job."""
        while not (told := await self.told()).keys() & {"end", "error"}:
            pass
        return told


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, Process]]:
    """Those that have started, by the client's name."""
    started: dict[str, Process] = {}
    yield started
    for process in started.values():
        process.close()


@pytest.fixture
def client(
    request: pytest.FixtureRequest, processes: dict[str, Process], tmp_path_factory: pytest.TempPathFactory
) -> Client:
    name = request.param
    if name not in processes:
        processes[name] = CLIENTS[name][0](tmp_path_factory.mktemp(name))
    return Client(name, processes[name])


@asynccontextmanager
async def asked(
    client: Client, *scripts: Script, thoughts: bool = False, limits: Limits = Limits()
) -> AsyncIterator[StandIn]:
    """A house for the client, whose model follows the scripts."""
    guard = Guard(GuardSettings(keys=parse_keys(f"tests {KEY}\n")))
    settings = Settings(models=(GEMMA, LLAMA), thoughts=thoughts)
    async with StandIn(scripts) as standin, house(standin, app=settings, guard=guard, limits=limits) as cfchat:
        client.url = f"http://127.0.0.1:{cfchat.port}"
        yield standin


# --- streams --------------------------------------------------------------------------------------


@each_way
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


@each_way
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


@each_way
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


@each_way
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
@each_way
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


# --- what only some have --------------------------------------------------------------------------


@each(*CLIENTS)
async def test_a_whole_reply(client: Client) -> None:
    model = Model()
    model.say("Good")
    model.say(" morning")
    model.end(usage=USAGE)
    async with asked(client, model):
        client.ask("whole")
        end = (await client.told())["end"]
        assert (end["text"], end["usage"]) == ("Good morning", 7)


@each(*CLIENTS)
async def test_a_whole_reply_that_breaks_off_is_an_error(client: Client) -> None:
    model = Model()
    model.say("Good")
    model.break_off()
    async with asked(client, model) as standin:
        client.ask("whole")
        end = await client.told()
        way = client.way("provider") if client.name.startswith("ai") else OPENAI
        known = LANGCHAIN if client.name == "langchain" else way
        assert (end.get("error"), end["status"]) == (known.errors[502], 502), end
        assert len(standin.requests) == 1


@each(*CLIENTS)
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


# --- OpenAI's Responses ---------------------------------------------------------------------------

DONE = b"data: [DONE]\n\n"
ITEM_TOOLS = [
    {"type": "function", "name": name, "parameters": {"type": "object"}, "strict": None}
    for name in TOOL_NAMES
]
of_responses = each("openai-python")
whole_or_streamed = pytest.mark.parametrize("way", ["response_whole", "response_last"])


@whole_or_streamed
@of_responses
async def test_a_response(client: Client, way: str) -> None:
    async with asked(client, reply(event("Good morning") + event("", usage=USAGE) + DONE)):
        client.ask(way)
        end = (await client.told())["end"]
        assert (end["text"], end["usage"], end["thoughts"], end["calls"]) == ("Good morning", 7, "", [])
        assert (end["status"], end["reason"]) == ("completed", None)


@whole_or_streamed
@of_responses
async def test_thoughts_are_an_item_of_a_response(client: Client, way: str) -> None:
    async with asked(client, reply(event("<think>Hm. So.</think>") + event("Good") + DONE), thoughts=True):
        client.ask(way)
        end = (await client.told())["end"]
        assert (end["text"], end["thoughts"], end["usage"]) == ("Good", "Hm. So.", 0)


@whole_or_streamed
@of_responses
async def test_a_response_that_is_cut_is_incomplete(client: Client, way: str) -> None:
    async with asked(client, reply(event("Good") + b'data: {"finish_reason":"length"}\n\n' + DONE)):
        client.ask(way)
        end = (await client.told())["end"]
        assert (end["text"], end["status"], end["reason"]) == ("Good", "incomplete", "max_output_tokens")


@pytest.mark.parametrize("way", ["response_whole", "response_last", "response_helper"])
@of_responses
async def test_an_empty_response_is_an_error(client: Client, way: str) -> None:
    async with asked(client, reply(event("", usage={"completion_tokens": 3}) + DONE)) as standin:
        client.ask(way)
        end = await client.told()
        assert (end.get("error"), end["status"]) == (OPENAI.errors[502], 502), end
        assert len(standin.requests) == 1


@pytest.mark.parametrize("way", ["response_stream", "response_task", "response_helper"])
@of_responses
async def test_a_response_that_fails_behind_heartbeats_is_an_error(client: Client, way: str) -> None:
    """The helper wants to be told of a response before it hears that it has failed."""

    async def late(exchange: Exchange) -> None:
        await asyncio.sleep(0.2)
        await SETUP(exchange)

    async with asked(client, late, limits=Limits(heartbeat=0.05)) as standin:
        client.ask(way)
        end = await client.told()
        assert end.get("error") == OPENAI.broken and "The server is not set up correctly." in end["message"], end
        assert len(standin.requests) == 1


@of_responses
async def test_a_whole_response_that_breaks_off_is_an_error(client: Client) -> None:
    model = Model()
    model.say("Good")
    model.break_off()
    async with asked(client, model) as standin:
        client.ask("response_whole")
        end = await client.told()
        assert (end.get("error"), end["status"]) == (OPENAI.errors[502], 502), end
        assert len(standin.requests) == 1


@pytest.mark.parametrize("dialect", CALLS)
@of_responses
async def test_calls_of_tools_and_their_results_are_items(client: Client, dialect: str) -> None:
    async with asked(client, reply((STREAMS / f"{dialect}.sse").read_bytes()), words("Bye")) as standin:
        client.ask("response_turns", options={"tools": ITEM_TOOLS})
        end = (await client.end())["end"]
    assert [(name, json.loads(given)) for name, given in end["calls"]] == CALLS[dialect] and end["text"] == "Bye"
    first, second = (json.loads(request.body) for request in standin.requests)
    assert [tool["function"]["name"] for tool in first["tools"]] == ["get_weather", "calculator"]
    called, *results = second["messages"][2:]
    assert [call["function"]["name"] for call in called["tool_calls"]] == [name for name, _ in CALLS[dialect]]
    assert [result["tool_call_id"] for result in results] == [call["id"] for call in called["tool_calls"]]
    assert {result["content"] for result in results} == {"rain"}


@of_responses
async def test_a_response_in_json_is_parsed(client: Client) -> None:
    weather = {"city": "Paris", "degrees": 20}
    answer = {"result": {"response": weather, "usage": USAGE}, "success": True, "errors": [], "messages": []}
    script = reply(json.dumps(answer).encode(), framing="length", fields=[("content-type", "application/json")])
    async with asked(client, script, script) as standin:
        client.ask("response_parsed")
        assert (await client.told()) == {"end": [weather, weather]}
    asked_for = json.loads(standin.requests[0].body)["response_format"]["json_schema"]
    assert asked_for["name"] == "Weather" and asked_for["schema"]["required"] == ["city", "degrees"]


@of_responses
async def test_what_would_need_an_earlier_response_is_refused_with_the_way_out(client: Client) -> None:
    async with asked(client) as standin:
        client.ask("response_stream", options={"previous_response_id": "resp_1"})
        end = await client.told()
        assert (end.get("error"), end["status"]) == ("BadRequestError", 400) and "whole conversation" in end["message"]
        client.ask("response_kept")
        end = await client.told()
        assert (end.get("error"), end["status"]) == ("NotFoundError", 404) and "keeps no replies" in end["message"]
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
