"""Images as clients send them: each arrives at the model in one shape, or its user reads why it does not."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pages
import pytest
from pages import Page
from pictures import PNG
from places import ROOT
from sdks import GEMMA, LLAMA, STREAMED, WHOLE, Client, asked, each, each_of, each_way
from standin import StandIn, words

from cfchat.app.routes import Settings
from cfchat.conversation.images import Image

# Where a client connects just as the house closes, asyncio (3.11) leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

ASKED = "What is this?"
ARRIVES = [{"type": "text", "text": ASKED}, {"type": "image_url", "image_url": {"url": PNG}}]
ELSEWHERE = "https://example.com/a.png"


def shown(client: Client, way: str, url: str = PNG) -> dict[str, object]:
    """The part of a job that shows an image, in the shape that this client's reference has for it."""
    if client.name.startswith("ai-"):
        file = {"type": "file", "mediaType": "image/png", "filename": "a.png", "url": url}
        return {"messages": [{"role": "user", "content": ASKED}], "files": [file]}
    parts: list[dict[str, object]] = [
        {"type": "text", "text": ASKED},
        {"type": "image_url", "image_url": {"url": url, "detail": "auto"}},
    ]
    if way.startswith("response_") and client.name != "langchain":
        parts = [
            {"type": "input_text", "text": ASKED},
            {"type": "input_image", "image" if client.name == "agents-node" else "image_url": url, "detail": "auto"},
        ]
    return {"messages": [{"role": "user", "content": parts}]}


def seen(standin: StandIn) -> object:
    return json.loads(standin.requests[-1].body)["messages"][-1]["content"]


@each_way
async def test_an_image_arrives(client: Client, way: str) -> None:
    async with asked(client, words("A cat"), images=1) as standin:
        client.ask(way, **shown(client, way))
        end = await client.end()
        assert end.get("end", {}).get("text") == "A cat", end
        assert seen(standin) == ARRIVES


async def refused(client: Client, way: str, said: str, url: str = PNG, images: int = 1, **job: object) -> None:
    async with asked(client, images=images) as standin:
        client.ask(way, **shown(client, way, url), **job)
        end, known = await client.end(), client.way(way)
        assert end.get("error") == known.errors[400] and said in end["message"], end
        assert standin.requests == []


@each_way
async def test_an_image_is_refused_if_images_are_off(client: Client, way: str) -> None:
    await refused(client, way, "Images are not accepted here: send text.", images=0)


# The AI SDK's provider of compatible models would fetch it by itself.
@each_of(*(pair for pair in (*STREAMED, *WHOLE) if pair[0][:3] != "ai-" or pair[1] not in ("provider", "whole")))
async def test_an_image_of_another_host_is_refused(client: Client, way: str) -> None:
    await refused(client, way, "Send the image itself as a data: URL", ELSEWHERE)


@each("openai-python")
async def test_an_image_for_a_model_that_does_not_see_is_refused(client: Client) -> None:
    await refused(client, "sync", f"These do: {GEMMA}.", model=LLAMA)


# --- deep-chat --------------------------------------------------------------------------------------

# With a file it sends a form, unless the page makes JSON of it, as our README says.
README = (ROOT / "cfchat/conversation/README.md").read_text()
INTERCEPTOR = re.findall(r"^```js\n(.*?)^```", README, re.DOTALL | re.MULTILINE)[0]


# Its field is no part of the page, so a click on its button shows a dialog that no driver can use.
FIELD = """
HTMLInputElement.prototype.click = function () { document.body.append(this); };
chat.shadowRoot.querySelector(".input-button.outside-end").click();
return document.querySelector("input[type=file]");
"""


async def drop_into_deep_chat(page: Page, picture: Path, script: str = "") -> None:
    """Choose a picture in its own dialog, and send it with a question."""
    picture.write_bytes(Image(PNG).read())
    await page.open("deep_chat.html")
    connect = {"url": page.house + "/api/chatbot", "stream": True}
    shows = {"images": True, "errorMessages": {"displayServiceErrorMessages": True}}
    await page.run("open_chat(arguments[0], arguments[1])", connect, shows)
    await page.until("return !!chat.shadowRoot?.querySelector('#text-input')")
    await page.run(f"{script}\nif (window.toJSON) chat.requestInterceptor = toJSON")
    (reference,) = (await page.run(FIELD)).values()
    await page.upload(reference, picture)
    await page.until("return !!chat.shadowRoot.querySelector('#file-attachment-container img')")
    await page.run("chat.shadowRoot.querySelector('#text-input').focus()")
    await asyncio.to_thread(page.driver.keys, ASKED)
    await page.run("button().click()")


async def test_deep_chat_sends_images_with_the_interceptor_of_the_readme(page: Page, tmp_path: Path) -> None:
    async with pages.asked(page, words("A cat"), words("Black"), app=Settings(images=1)) as standin:
        await drop_into_deep_chat(page, tmp_path / "a.png", INTERCEPTOR + "window.toJSON = toJSON;")
        await page.until("return replies()[0] == 'A cat'")
        assert seen(standin) == ARRIVES
        await page.run("chat.submitUserMessage({ text: 'Which colour?' })")
        await page.until("return replies()[1] == 'Black'")
        assert await page.run("return errors()") == []
    first, answer, second = json.loads(standin.requests[1].body)["messages"][1:]
    assert (first["content"], answer["content"], second["content"]) == (ARRIVES, "A cat", "Which colour?")


async def test_deep_chat_shows_why_a_picture_is_refused(page: Page, tmp_path: Path) -> None:
    for script, said in (("", "JSON"), (INTERCEPTOR + "window.toJSON = toJSON;", "Images are not accepted here")):
        async with pages.asked(page):
            await drop_into_deep_chat(page, tmp_path / "a.png", script)
            (told,) = await page.until("return errors().length && errors()")
            assert said in told
