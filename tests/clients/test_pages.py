"""Clients that live in a page, in a real Chromium; the page is of another origin."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import pytest
from house import HELLO
from leaving import closes_at_once
from pages import Page, asked
from standin import Exchange, Model, event, json_error, reply, words

from cfchat.app.routes import Settings
from cfchat.server.request import Limits

# Where a client connects just as the house closes, asyncio (3.11) leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

BEATING = Limits(heartbeat=0.05)


async def late(exchange: Exchange) -> None:
    """A whole reply behind a silence of several heartbeats."""
    await asyncio.sleep(0.3)
    await words("Good morning")(exchange)


LEAVE = "window.left = performance.timeOrigin + performance.now();"


async def leave(page: Page, begin: Callable[[], Awaitable[None]], script: str) -> float:
    """Until the call to the model is closed: seconds. `script` is true where it could leave, and remembers when."""
    model = Model()
    async with asked(page, model) as standin:
        await begin()
        model.say("Good")
        await page.until(script)
        await standin.wait_closed_by_peer()
        closed = time.time()
        left: float = await page.run("return window.left")
        assert len(standin.requests) == 1
    return closed - left / 1000


# --- fetch-event-source -----------------------------------------------------------------------------

FETCH = "fetch_event_source.html"
SEEN = "return JSON.stringify(seen) == arguments[0]"


async def fetch(page: Page, messages: object = HELLO) -> None:
    await page.open(FETCH)
    await page.run("ask(arguments[0], arguments[1])", page.house + "/api/chatbot", messages)


async def seen(page: Page, *events: list[str]) -> None:
    await page.until(SEEN, json.dumps(events, separators=(",", ":")))


def piece(text: str) -> list[str]:
    return ["", f'{{"response":"{text}","text":"{text}"}}']


async def test_fetch_event_source_sees_each_piece_before_the_next_is_said(page: Page) -> None:
    model = Model()
    async with asked(page, model):
        await fetch(page)
        model.say("Good")
        await seen(page, piece("Good"))
        model.say(" morning")
        await seen(page, piece("Good"), piece(" morning"))
        model.end()
        last = '{"response":"","text":"","finish_reason":"stop","usage":null}'
        rest = [["", last], ["", "[DONE]"], ["closed", ""], ["resolved", ""]]
        await seen(page, piece("Good"), piece(" morning"), *rest)


async def test_fetch_event_source_sees_a_break_and_does_not_ask_again(page: Page) -> None:
    model = Model()
    async with asked(page, model) as standin:
        await fetch(page)
        model.say("Good")
        await seen(page, piece("Good"))
        model.break_off()
        end = await page.until("return seen.at(-1)[0] == 'resolved' && seen")
        assert [name for name, _ in end] == ["", "error", "closed", "resolved"]
        assert json.loads(end[1][1])["error"]["code"] == "upstream_interrupted"
        assert len(standin.requests) == 1


async def test_fetch_event_source_sees_words_behind_heartbeats(page: Page) -> None:
    async with asked(page, late, limits=BEATING):
        await fetch(page)
        told = await page.until("return seen.at(-1)?.[0] == 'resolved' && seen")
    # A comment is an event without data to it.
    assert ["", ""] in told and next(seen for seen in told if seen != ["", ""]) == piece("Good morning")


async def test_fetch_event_source_leaves(page: Page) -> None:
    script = f"if (!seen.length) return false; {LEAVE} controller.abort(); return true"
    await closes_at_once(lambda: leave(page, lambda: fetch(page), script))


async def test_fetch_event_source_sees_no_reply_in_an_error(page: Page) -> None:
    """It looks at the type of what comes and at nothing else."""
    async with asked(page, json_error(401, 10000, "x")):
        await fetch(page)
        told = "Expected content-type to be text/event-stream, Actual: application/json"
        await seen(page, ["Error", told])


# --- deep-chat --------------------------------------------------------------------------------------


EVENTS: dict[str, object] = {"stream": True}
READABLE: dict[str, object] = {"stream": {"readable": True}}
WHOLE: dict[str, object] = {"headers": {"Accept": "application/json"}}
each_stream = pytest.mark.parametrize("stream", [EVENTS, READABLE], ids=["events", "readable"])


async def deep_chat(page: Page, connect: dict[str, object] = EVENTS, **more: object) -> None:
    await page.open("deep_chat.html")
    await page.run("open_chat(arguments[0], arguments[1])", {"url": page.house + "/api/chatbot", **connect}, more)
    await page.until("return !!chat.shadowRoot?.querySelector('#text-input')")
    await page.run("chat.submitUserMessage({ text: 'Hello' })")


async def shown(page: Page, *replies: str) -> None:
    await page.until("return JSON.stringify(replies()) == arguments[0]", json.dumps(replies, separators=(",", ":")))


@each_stream
async def test_deep_chat_shows_each_piece_before_the_next_is_said(page: Page, stream: dict[str, object]) -> None:
    model = Model()
    async with asked(page, model, words("Fine")) as standin:
        await deep_chat(page, stream)
        for said, in_all in (("Good", "Good"), (" morning", "Good morning")):
            model.say(said)
            await shown(page, in_all)
        model.end()
        await page.until("return button().classList.contains('disabled-button')")
        await page.run("chat.submitUserMessage({ text: 'And you?' })")
        await shown(page, "Good morning", "Fine")
        assert await page.run("return errors()") == []
    told = [(m["role"], m["content"]) for m in json.loads(standin.requests[1].body)["messages"][1:]]
    assert told == [("user", "Hello"), ("assistant", "Good morning"), ("user", "And you?")]


async def test_deep_chat_shows_words_behind_heartbeats(page: Page) -> None:
    async with asked(page, late, limits=BEATING):
        await deep_chat(page)
        await shown(page, "Good morning")
        assert await page.run("return errors()") == []


async def test_deep_chat_draws_no_thoughts(page: Page) -> None:
    thought = reply(event("<think>Hm.</think>Good") + b"data: [DONE]\n\n")
    async with asked(page, thought, app=Settings(thoughts=True)):
        await deep_chat(page)
        await shown(page, "Good")
        assert await page.run("return errors()") == []


async def test_deep_chat_shows_a_whole_reply(page: Page) -> None:
    async with asked(page, words("Good", " morning")):
        await deep_chat(page, WHOLE)
        await shown(page, "Good morning")


@each_stream
async def test_deep_chat_shows_a_break_and_does_not_ask_again(page: Page, stream: dict[str, object]) -> None:
    model = Model()
    async with asked(page, model) as standin:
        await deep_chat(page, stream)
        model.say("Good")
        await shown(page, "Good")
        model.break_off()
        assert await page.until("return errors().length && errors()") == ["Error, please try again."]
        assert len(standin.requests) == 1


async def test_deep_chat_stops(page: Page) -> None:
    """With `stream: {readable: true}` its button leaves the connection open, so nothing can be told from there.

    Nor does it close where it is pressed before the first piece is shown, while only its loading bubble is.
    """
    script = (
        "if (replies()[0] != 'Good' || !button().querySelector('#stop-icon')) return false;"
        f"{LEAVE} button().click(); return true"
    )
    await closes_at_once(lambda: leave(page, lambda: deep_chat(page), script))


async def test_deep_chat_shows_our_error_where_the_page_wants_it(page: Page) -> None:
    async with asked(page, *[json_error(401, 10000, "x")] * 2):
        await deep_chat(page)
        assert await page.until("return errors().length && errors()") == ["Error, please try again."]
        await deep_chat(page, errorMessages={"displayServiceErrorMessages": True})
        (told,) = await page.until("return errors().length && errors()")
        assert json.loads(told)["error"]["message"] == "The server is not set up correctly."
