"""Clients in a page that come back to a kept reply: after a lost connection, a reload, or out of sight."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from between import Between, Line, Treat
from house import HELLO, House, house
from pages import AI_SDK, Page
from standin import Model, Script, StandIn, event, reply, wire_of

from cfchat.app.kept.replies import Keeping
from cfchat.app.routes import Settings

# Where a client connects just as the house closes, asyncio (3.11) leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

KEPT = Settings(keeping=Keeping(60))
KEY = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"


@asynccontextmanager
async def kept(page: Page, *scripts: Script, line: Line | None = None) -> AsyncIterator[tuple[StandIn, House]]:
    """A house that keeps replies, behind a line that the test may cut."""
    async with (
        StandIn(scripts) as standin,
        house(standin, app=KEPT) as cfchat,
        Between(cfchat.port, line or Line()) as between,
    ):
        page.house = f"http://127.0.0.1:{between.port}"
        yield standin, cfchat


# --- fetch-event-source -----------------------------------------------------------------------------

SAID = """
const said = seen.filter(([name, data]) => !name && data && data != "[DONE]").map(([, data]) => JSON.parse(data).text);
return JSON.stringify(said.filter(Boolean)) == arguments[0]
"""


async def fetch(page: Page) -> None:
    await page.open("fetch_event_source.html")
    fields = {"Idempotency-Key": KEY}
    await page.run("ask(arguments[0], arguments[1], arguments[2])", page.house + "/api/chatbot", HELLO, fields)


async def said(page: Page, *words: str) -> None:
    await page.until(SAID, json.dumps(words, ensure_ascii=False, separators=(",", ":")))


async def test_fetch_event_source_goes_on_after_each_cut(page: Page) -> None:
    """By itself, with `Last-Event-ID`; before the first word by the key of its question."""
    model, line = Model(), Line()
    async with kept(page, model, line=line) as (standin, cfchat):
        await fetch(page)
        await standin.wait_requests(1)
        line.cut()
        words = ["Good", " mor", "ning", ", 世界"]
        for number, word in enumerate(words, 1):
            model.say(word)
            await said(page, *words[:number])
            line.cut()
        model.end()
        await page.until("return seen.at(-1)?.[0] == 'resolved'")
        await said(page, *words)
        seen = await page.run("return seen")
        # Where not a byte has come, Chromium may ask again by itself.
        assert [name for name, _ in seen].count("again") in (4, 5)
        assert [data for _, data in seen].count("[DONE]") == 1
        assert len(standin.requests) == 1
        assert any("resumed=5" in entry for entry in cfchat.log)


async def at_most(reader: asyncio.StreamReader, size: int) -> bytes:
    """So many bytes of a chunked body, or all of it."""
    data = b""
    while len(data) < size and not data.endswith(b"\r\n0\r\n\r\n"):
        data += await reader.read(size - len(data))
    return data


def sends(size: int) -> Treat:
    """Cut each connection behind so many bytes of its reply."""

    async def treat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 200 "):
            writer.write(head + await at_most(reader, size))
            await asyncio.sleep(0.02)  # a browser drops what it has not read when it sees the cut
        else:
            writer.write(head)

    return treat


async def test_fetch_event_source_loses_no_word_wherever_it_is_cut(page: Page) -> None:
    """Also inside of an event, between its data and its id for one. Each connection brings one event or two."""
    words = ["Good", " mor", "ning"]
    events = b"".join(map(event, words)) + b"data: [DONE]\n\n"
    wire = wire_of(events)
    model = reply(events, cuts=[wire.index(event(word)) + len(event(word)) + 2 for word in words])
    async with StandIn([model]) as standin, house(standin, app=KEPT) as cfchat:
        for size in range(110, 200, 6):
            async with Between(cfchat.port, sends(size)) as between:
                page.house = f"http://127.0.0.1:{between.port}"
                await fetch(page)
                await page.until("return seen.at(-1)?.[0] == 'resolved'")
                await said(page, *words)
        assert len(standin.requests) == 1


async def test_fetch_event_source_goes_on_when_its_page_is_seen_again(page: Page) -> None:
    """It closes the connection of a page that is hidden, and opens it again when the page is shown."""
    model = Model()
    async with kept(page, model) as (standin, cfchat):
        await fetch(page)
        model.say("Good")
        await said(page, "Good")
        async with page.hidden():
            await cfchat.logged("client gone")
            model.say(" morning")
            model.end()
            await cfchat.logged("ended after its client had left: whole")
        await page.until("return seen.at(-1)?.[0] == 'resolved'")
        await said(page, "Good", " morning")
        assert len(standin.requests) == 1


# --- useChat ----------------------------------------------------------------------------------------


async def open_chat(page: Page, version: str, chat: str) -> None:
    """Open the chat of this id, and wait until it has asked for a reply to go on with."""
    await page.open(f"use_chat.html?version={version}&id={chat}&api={page.house}/api/chat")
    await page.until("return status == 'ready'")


async def begin_reply(page: Page, model: Model) -> None:
    """Ask a question, and wait for the first word of its reply."""
    await page.run("ask('Hello')")
    model.say("Good")
    await page.until("return shown.at(-1) == 'Good'")


DRAWN = "return [...document.querySelectorAll('p')].map((it) => it.innerText)"
each_version = pytest.mark.parametrize("version", AI_SDK)


@each_version
async def test_use_chat_goes_on_after_a_reload(page: Page, version: str) -> None:
    """Of the reply's words none is lost and none is doubled, though the page has kept its beginning."""
    model = Model()
    async with kept(page, model) as (standin, cfchat):
        await open_chat(page, version, f"chat-of-version-{version}")
        assert "204" in cfchat.log[-1] and "/api/chat/*/stream" in cfchat.log[-1]
        await begin_reply(page, model)
        await page.reload()
        await page.until("return shown.at(-1) == 'Good' && status == 'streaming'")
        model.say(" morning")
        await page.until("return shown.at(-1) == 'Good morning'")
        await page.reload()
        model.say(", 世界")
        model.end()
        for _ in range(2):  # the second time it is over
            await page.until("return status == 'ready' && ends.length")
            assert await page.run(DRAWN) == ["Hello", "Good morning, 世界"]
            assert await page.run("return [fault ?? null, ends]") == [None, [[False, False, False]]]
            await page.reload()
        assert len(standin.requests) == 1


@each_version
async def test_use_chat_goes_on_when_its_page_is_seen_again(page: Page, version: str) -> None:
    """If its connection was lost. Until then it shows an error.

    The stream begins with the message's start, but version 7 alone lets go of the words that it has.
    """
    whole = "Good morning" if version == "7" else "GoodGood morning"
    model, line = Model(), Line()
    async with kept(page, model, line=line) as (standin, _):
        await open_chat(page, version, f"hidden-chat-of-{version}")
        await begin_reply(page, model)
        line.cut()
        await page.until("return status == 'error'")
        async with page.hidden():
            model.say(" morning")
        await page.until("return shown.at(-1) == arguments[0]", whole)
        model.end()
        await page.until("return status == 'ready'")
        assert await page.run(DRAWN) == ["Hello", whole]
        assert len(standin.requests) == 1


@each_version
async def test_use_chat_stops_on_the_server(page: Page, version: str) -> None:
    """Its own `stop` closes the connection alone, and with `resume` that is not the end."""
    model = Model()
    async with kept(page, model) as (standin, _):
        await open_chat(page, version, f"stopped-chat-of-{version}")
        await begin_reply(page, model)
        assert await page.run("return halt()") == {"success": True}
        await standin.wait_closed_by_peer()
        await page.until("return status == 'ready'")
        assert await page.run("return [shown.at(-1), fault ?? null]") == ["Good", None]
        await page.reload()
        await page.until("return status == 'ready'")
        assert await page.run("return shown.at(-1)") == "Good"
        assert len(standin.requests) == 1


# --- deep-chat --------------------------------------------------------------------------------------


async def test_deep_chat_draws_numbered_events_and_shows_a_cut(page: Page) -> None:
    """It does not come back."""
    whole, half, line = Model(), Model(), Line()
    async with kept(page, whole, half, line=line) as (standin, _):
        await page.open("deep_chat.html")
        await page.run("open_chat(arguments[0])", {"url": page.house + "/api/chatbot", "stream": True})
        await page.until("return !!chat.shadowRoot?.querySelector('#text-input')")
        await page.run("chat.submitUserMessage({ text: 'Hello' })")
        for word, shown in (("Good", "Good"), (" morning", "Good morning")):
            whole.say(word)
            await page.until("return replies().at(-1) == arguments[0]", shown)
        whole.end()
        await page.until("return button().classList.contains('disabled-button')")
        assert await page.run("return [replies(), errors()]") == [["Good morning"], []]
        await page.run("chat.submitUserMessage({ text: 'And you?' })")
        half.say("Fi")
        await page.until("return replies().at(-1) == 'Fi'")
        line.cut()
        assert await page.until("return errors().length && errors()") == ["Error, please try again."]
        assert len(standin.requests) == 2
