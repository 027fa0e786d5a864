"""The sources of an answer from one's own pages, as clients show them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from house import house
from pages import AI_SDK, Page
from sdks import Client, each
from standin import StandIn, event, reply

from cfchat.app.routes import Settings
from cfchat.upstream.client import Settings as Upstream

# Where a client connects just as the house closes, asyncio (3.11) leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

SEARCH = "ai-search/docs"
LINK = {"id": "1", "score": 0.5, "text": "x", "item": {"key": "https://example.com/a", "metadata": {"title": "On A"}}}
NAME = {"id": "2", "score": 0.2, "text": "x", "item": {"key": "b.md", "metadata": {}}}
FOUND = b"event: chunks\ndata: " + json.dumps([NAME, LINK]).encode() + b"\n\n"
ANSWER = reply(FOUND + event("Good") + event(" morning") + b"data: [DONE]\n\n")
APP = Settings(model=SEARCH, models=(SEARCH,))


def search(settings: Upstream) -> Upstream:
    return settings._replace(models=(SEARCH,))


@asynccontextmanager
async def searched() -> AsyncIterator[str]:
    """The address of a house whose answers come from a search."""
    async with StandIn([ANSWER], repeat=True) as standin, house(standin, app=APP, change=search) as cfchat:
        yield f"http://127.0.0.1:{cfchat.port}"


@each("openai-python", "openai-node")
async def test_openais_sdks_have_annotations(client: Client) -> None:
    """Of what has an address."""
    async with searched() as client.url:
        client.ask("sources", model=SEARCH)
        assert (await client.end()).get("end") == [[["On A", "https://example.com/a"]]] * 4


@pytest.mark.parametrize("version", AI_SDK)
async def test_use_chat_has_a_part_for_each_source(page: Page, version: str) -> None:
    async with searched() as url:
        await page.open(f"use_chat.html?version={version}&id=sources-of-{version}&api={url}/api/chat")
        await page.until("return status == 'ready'")
        await page.run("ask('Hello')")
        await page.until("return status == 'ready' && shown.at(-1) == 'Good morning'")
        parts = await page.run("return JSON.stringify(messages.at(-1).parts.filter((it) => /source/.test(it.type)))")
        assert await page.run("return fault ?? null") is None
    assert json.loads(parts) == [
        {"type": "source-url", "sourceId": "s1", "url": "https://example.com/a", "title": "On A"},
        {"type": "source-document", "sourceId": "s2", "mediaType": "text/plain", "title": "b.md"},
    ]


@pytest.mark.parametrize(
    "how",
    [{"stream": True}, {"stream": {"readable": True}}, {"headers": {"Accept": "application/json"}}],
    ids=["events", "readable", "whole"],
)
async def test_deep_chat_draws_the_answer_alone(page: Page, how: dict[str, object]) -> None:
    async with searched() as url:
        await page.open("deep_chat.html")
        await page.run("open_chat(arguments[0])", {"url": url + "/api/chatbot", **how})
        await page.until("return !!chat.shadowRoot?.querySelector('#text-input')")
        await page.run("chat.submitUserMessage({ text: 'Hello' })")
        await page.until("return replies().at(-1) == 'Good morning' && button().classList.contains('disabled-button')")
        assert await page.run("return [replies(), errors()]") == [["Good morning"], []]
        bubbles = "return [...chat.shadowRoot.querySelectorAll('.message-bubble')].map((it) => it.innerText)"
        assert await page.run(bubbles) == ["Hello", "Good morning"]
