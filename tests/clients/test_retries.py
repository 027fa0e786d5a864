"""OpenAI's SDKs that come back, by the `Idempotency-Key` of a question or by a response's id: it is paid for once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import sdks
from between import Between, Line, Treat, passes
from house import House, house
from sdks import GEMMA, USAGE, Client
from standin import Model, Script, StandIn

from cfchat.app.kept.replies import Keeping
from cfchat.app.routes import Settings

# Where a client connects just as the house closes, asyncio (3.11) leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

KEPT = Settings(models=(GEMMA,), keeping=Keeping(60))
FIELDS = {"Idempotency-Key": "6f9619ff-8b86-d011-b42d-00cf4fc964ff"}
STREAMS = {"openai-python": ("sync", "task", "response_stream"), "openai-node": ("stream", "response_stream")}
WHOLES = "whole", "response_whole"


def each(**ways: tuple[str, ...]) -> pytest.MarkDecorator:
    named = [pytest.param(name, way, id=f"{name}-{way}") for name, several in ways.items() for way in several]
    return pytest.mark.parametrize(("client", "way"), named, indirect=["client"])


each_stream = each(**STREAMS)
each_way = each(**{name: (*ways, *WHOLES) for name, ways in STREAMS.items()})


@asynccontextmanager
async def kept(client: Client, treat: Treat, *scripts: Script) -> AsyncIterator[tuple[StandIn, House]]:
    async with (
        StandIn(scripts) as standin,
        house(standin, app=KEPT) as cfchat,
        Between(cfchat.port, treat) as between,
    ):
        client.url = f"http://127.0.0.1:{between.port}"
        yield standin, cfchat


def ask(client: Client, way: str) -> None:
    python = client.name == "openai-python"
    client.ask(way, **({"options": {"extra_headers": FIELDS}} if python else {"fields": FIELDS}))


def loses_one() -> Treat:
    """Lose the first reply, of which its client sees nothing."""
    lost = asyncio.Event()

    async def treat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if lost.is_set():
            await passes(reader, writer)
        else:
            await reader.readuntil(b"\r\n\r\n")
            lost.set()

    return treat


def says_all(*words: str) -> Model:
    model = Model()
    for word in words:
        model.say(word)
    model.end(usage=USAGE)
    return model


@each_way
async def test_a_reply_that_was_lost_is_replayed_to_the_sdks_own_retry(client: Client, way: str) -> None:
    async with kept(client, loses_one(), says_all("Good", " morning")) as (standin, cfchat):
        ask(client, way)
        end = (await client.end())["end"]
        assert (end["text"], end["usage"]) == ("Good morning", 7)
        assert len(standin.requests) == 1
        await cfchat.logged(" resumed=1")


@each_way
async def test_a_question_that_runs_is_joined_by_the_sdks_own_retry(client: Client, way: str) -> None:
    line, model = Line(), Model()
    async with kept(client, line, model) as (standin, cfchat):
        ask(client, way)
        await standin.wait_requests(1)
        line.cut()
        await cfchat.logged("client gone")
        model.say("Good")
        model.say(" morning")
        model.end(usage=USAGE)
        end = (await client.end())["end"]
        assert (end["text"], end["usage"]) == ("Good morning", 7)
        assert len(standin.requests) == 1


@each_stream
async def test_a_stream_that_was_cut_is_whole_when_it_is_asked_for_again(client: Client, way: str) -> None:
    """By the program: behind the first word no SDK tries again by itself."""
    line, model = Line(), Model()
    async with kept(client, line, model) as (standin, _):
        ask(client, way)
        model.say("Good")
        assert await client.told() == {"piece": "Good"}
        line.cut()
        assert "error" in await client.told()
        model.say(" morning")
        model.end(usage=USAGE)
        ask(client, way)
        end = (await client.end())["end"]
        assert (end["text"], end["usage"]) == ("Good morning", 7)
        assert len(standin.requests) == 1


@pytest.mark.parametrize("cancel", [False, True], ids=["goes on", "is cancelled"])
@sdks.each("openai-python", "openai-node")
async def test_a_response_that_was_cut_goes_on_behind_its_last_event(client: Client, cancel: bool) -> None:
    """By `retrieve` with `stream` and `starting_after`; `cancel` closes the call to the model."""
    line, model = Line(), Model()
    async with kept(client, line, model) as (standin, _):
        client.ask("response_resumed", cancel=cancel)
        model.say("Good")
        assert await client.told() == {"piece": "Good"}
        line.cut()
        assert (await client.told()).get("lost")
        if cancel:
            await standin.wait_closed_by_peer()
        else:
            model.say(" morning")
            model.end(usage=USAGE)
        end = (await client.end()).get("end")
        text, last = ("Good", "response.incomplete") if cancel else ("Good morning", "response.completed")
        assert end == {"text": text, "last": last, "each_once": True}
        assert len(standin.requests) == 1
