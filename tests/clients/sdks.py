"""The SDKs that people have, each in a process of its own: how a test starts one, asks with it, and what it throws."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from house import HELLO, house
from installs import HERE, Process, node_modules, venv
from standin import Script, StandIn

from cfchat.app.routes import Settings
from cfchat.guard.guard import Guard
from cfchat.guard.guard import Settings as GuardSettings
from cfchat.guard.keys import parse_keys
from cfchat.server.request import Limits

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
OPENAI_PYTHON, OPENAI_NODE = "openai==3.57.0", "openai@7.57.0"


def python(script: str, *packages: str) -> Callable[[Path], Process]:
    return lambda folder: Process(venv(folder, *packages, OPENAI_PYTHON) / "python", HERE / script)


def node(script: str, *packages: str) -> Callable[[Path], Process]:
    return lambda folder: Process("node", node_modules(folder, *packages) / script)


def ai_sdk(version: str, compatible: str, openai: str) -> Callable[[Path], Process]:
    providers = f"@ai-sdk/openai-compatible@{compatible}", f"@ai-sdk/openai@{openai}"
    return node("ai_sdk.mjs", f"ai@{version}", *providers)


@dataclass(frozen=True)
class Way:
    """One way to ask with a client: its exceptions by our status, and for a reply that breaks off.

    `early` is the exception for one that breaks off before its first word, if that is another.
    """

    errors: dict[int, str]
    broken: str
    message: str = "The connection to the model was lost."
    tells_status: bool = True
    early: str = ""


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
AI_PAGE, AI_PAGE_7 = (
    {"text": AI_TEXT, "ui": AI_UI},
    {way: replace(known, errors=CALL_ERRORS, tells_status=True) for way, known in (("text", AI_TEXT), ("ui", AI_UI))},
)
AI_RESPONSE = replace(AI_PROVIDER, early="AI_APICallError")
AI_PROVIDER_7 = replace(AI_PROVIDER, broken="AI_StreamProviderError")
AI_5 = {**AI_PAGE, "provider": AI_PROVIDER, "response_stream": AI_PROVIDER}
AI_6 = {**AI_PAGE, "provider": AI_PROVIDER, "response_stream": AI_RESPONSE}
AI_7 = {**AI_PAGE_7, "provider": AI_PROVIDER_7, "response_stream": replace(AI_PROVIDER_7, early="AI_APICallError")}
AI_WHOLE = dict.fromkeys(("whole", "response_whole"), AI_PROVIDER)


@dataclass(frozen=True)
class Sdk:
    """How a client starts in its folder, and its ways to read a stream and to get a whole reply."""

    start: Callable[[Path], Process]
    streams: dict[str, Way]
    wholes: dict[str, Way] = field(default_factory=dict)


BOTH_WHOLE = ("whole", "response_whole")
OPENAI_STREAMS = ("sync", "task", "response_stream", "response_task", "response_helper")
SDKS: dict[str, Sdk] = {
    "openai-python": Sdk(
        python("openai_python.py"), dict.fromkeys(OPENAI_STREAMS, OPENAI), dict.fromkeys(BOTH_WHOLE, OPENAI)
    ),
    "openai-node": Sdk(
        node("openai_node.mjs", OPENAI_NODE, "zod@4"),
        dict.fromkeys(("stream", "response_stream", "response_helper"), OPENAI),
        dict.fromkeys(BOTH_WHOLE, OPENAI),
    ),
    "langchain": Sdk(
        python("langchain_python.py", "langchain-openai==1.7.4"),
        dict.fromkeys(("sync", "task", "response_stream", "response_task"), LANGCHAIN),
        dict.fromkeys(BOTH_WHOLE, LANGCHAIN),
    ),
    "ai-5": Sdk(ai_sdk("5.0.277", "1.0.61", "2.0.131"), AI_5, AI_WHOLE),
    "ai-6": Sdk(ai_sdk("6.0.326", "2.0.92", "3.0.141"), AI_6, AI_WHOLE),
    "ai-7": Sdk(ai_sdk("7.0.173", "3.0.92", "4.0.118"), AI_7, AI_WHOLE),
    "agents-python": Sdk(
        python("agents_python.py", "openai-agents==0.24.0"), {"response_stream": OPENAI}, {"response_whole": OPENAI}
    ),
    "agents-node": Sdk(
        node("agents_node.mjs", "@openai/agents@0.20.0", OPENAI_NODE, "zod@4"),
        {"response_stream": OPENAI},
        {"response_whole": OPENAI},
    ),
}


def each(*names: str) -> pytest.MarkDecorator:
    """A test for each of these clients."""
    return pytest.mark.parametrize("client", names, indirect=True)


def each_of(*pairs: tuple[str, str]) -> pytest.MarkDecorator:
    named = [pytest.param(name, way, id=f"{name}-{way}") for name, way in pairs]
    return pytest.mark.parametrize(("client", "way"), named, indirect=["client"])


STREAMED = [(name, way) for name, sdk in SDKS.items() for way in sdk.streams]
WHOLE = [(name, way) for name, sdk in SDKS.items() for way in sdk.wholes]
each_stream, each_whole, each_way = each_of(*STREAMED), each_of(*WHOLE), each_of(*STREAMED, *WHOLE)
each_response_stream = each_of(*((name, way) for name, way in STREAMED if way.startswith("response_")))


@dataclass
class Client:
    name: str
    process: Process
    url: str = ""

    def way(self, way: str) -> Way:
        sdk = SDKS[self.name]
        return {**sdk.streams, **sdk.wholes}[way]

    def ask(self, way: str, **job: object) -> None:
        self.process.ask(**{"way": way, "url": self.url, "key": KEY, "model": GEMMA, "messages": HELLO, **job})

    async def told(self) -> dict[str, Any]:
        return await self.process.told()

    async def end(self) -> dict[str, Any]:
        """The last that it tells of a job."""
        while not (told := await self.told()).keys() & {"end", "error"}:
            pass
        return told


@pytest.fixture(scope="session")
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
        processes[name] = SDKS[name].start(tmp_path_factory.mktemp(name))
    return Client(name, processes[name])


@asynccontextmanager
async def asked(
    client: Client, *scripts: Script, thoughts: bool = False, limits: Limits = Limits(), images: int = 0
) -> AsyncIterator[StandIn]:
    """A house for the client, whose model follows the scripts."""
    guard = Guard(GuardSettings(keys=parse_keys(f"tests {KEY}\n")))
    settings = Settings(models=(GEMMA, LLAMA), thoughts=thoughts, images=images)
    async with StandIn(scripts) as standin, house(standin, app=settings, guard=guard, limits=limits) as cfchat:
        client.url = f"http://127.0.0.1:{cfchat.port}"
        yield standin
