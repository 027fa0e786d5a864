"""Images on their way from a client to the model: through real sockets, to the byte that Cloudflare gets."""

from __future__ import annotations

import asyncio
import json
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from account import listed, listing
from client import request, until
from house import HELLO, house
from pictures import GIF, PNG, asked, url_of_size
from standin import Exchange, StandIn, event, json_error, reply, silence

import cfchat as package
from cfchat import Conversation, Hooks, Image, Message, Request
from cfchat.app.kept.replies import Keeping
from cfchat.app.routes import Settings
from cfchat.guard.guard import Guard
from cfchat.guard.guard import Settings as GuardSettings
from cfchat.upstream import client
from cfchat.upstream.cloudflare.account import Gateway
from cfchat.upstream.cloudflare.models import DEFAULT_MODEL, FALLBACK_MODELS

SEES, BLIND = "@cf/meta/llama-4-scout-17b-16e-instruct", FALLBACK_MODELS[0]
APP = Settings(images=2, models=(DEFAULT_MODEL, SEES, BLIND))
WORDS = reply(event("A cat") + b"data: [DONE]\n\n")
BUSY = json_error(429, 3040, "Capacity temporarily exceeded, please try again.")
HOME = Path(package.__file__).parent
CONTENT = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PNG}}]


def sent(exchange: Exchange) -> Any:
    return json.loads(exchange.body)["messages"][-1]["content"]


def model_of(exchange: Exchange) -> str:
    return exchange.target.partition("/ai/run/")[2]


WIRES: dict[str, object] = {
    "/api/chatbot": {"messages": [{"role": "user", "text": "What is this?", "files": [{"src": PNG, "type": "image"}]}]},
    "/api/chat": {
        "messages": [
            {
                "role": "user",
                "parts": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "file", "mediaType": "image/png", "url": PNG},
                ],
            }
        ]
    },
    "/v1/chat/completions": {"messages": asked(PNG)},
    "/v1/responses": {
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": PNG, "detail": "auto"},
                ],
            }
        ]
    },
}


@pytest.mark.parametrize("path", WIRES)
async def test_each_wire_sends_the_same_to_cloudflare_and_logs_the_number(path: str) -> None:
    async with StandIn([WORDS]) as standin, house(standin, app=APP) as cfchat:
        answer = await cfchat.post(WIRES[path], path)
        assert answer.status == 200 and b"A cat" in answer.body
        assert sent(standin.requests[0]) == CONTENT
        assert "images=1" in cfchat.log[-1].split()
        assert PNG[30:] not in "\n".join(cfchat.log)


@pytest.mark.parametrize("path", WIRES)
async def test_images_are_off_unless_the_operator_wants_them(path: str) -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        answer = await cfchat.post(WIRES[path], path)
        assert (answer.status, answer.error["code"]) == (400, "invalid_image")
        assert str(answer.error["param"]).startswith(("messages[0].", "input[0].content[1]"))
        for seen in (answer.body.decode(), "\n".join(cfchat.log)):
            assert PNG[30:] not in seen and "--" not in answer.error["message"]


async def test_a_message_without_images_stays_a_string() -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, *asked(GIF, "")]
    async with StandIn([WORDS]) as standin, house(standin, app=APP) as cfchat:
        await cfchat.post(talk)
    messages = json.loads(standin.requests[0].body)["messages"]
    assert [message["content"] for message in messages[1:3]] == ["Hi", "Hello"]
    assert messages[3]["content"] == [{"type": "image_url", "image_url": {"url": GIF}}]


async def test_through_the_gateway_too() -> None:
    change: Callable[[client.Settings], client.Settings] = lambda it: it._replace(gateway=Gateway("g"))  # noqa: E731
    async with StandIn([WORDS]) as standin, house(standin, app=APP, change=change) as cfchat:
        assert (await cfchat.post(asked(PNG))).status == 200
    assert sent(standin.requests[0]) == CONTENT and standin.requests[0].fields["cf-aig-gateway-id"] == "g"


# --- which models ---------------------------------------------------------------------------------


async def test_a_model_that_does_not_see_is_refused_with_those_that_do() -> None:
    async with StandIn([WORDS]) as standin, house(standin, app=APP) as cfchat:
        for path, error in (("/api/chatbot", 400), ("/v1/chat/completions", 400)):
            answer = await cfchat.post({"model": BLIND, "messages": asked(PNG)}, path)
            assert (answer.status, answer.error["code"], answer.error["param"]) == (error, "invalid_option", "model")
            assert answer.error["message"].endswith(f"These do: {DEFAULT_MODEL}, {SEES}.")
        assert not standin.requests
        assert (await cfchat.post({"model": SEES, "messages": asked(PNG)})).status == 200
    assert model_of(standin.requests[0]) == SEES


@pytest.mark.parametrize(
    ("chain", "models"),
    [
        ((DEFAULT_MODEL, BLIND, SEES), [DEFAULT_MODEL, SEES, SEES]),
        ((DEFAULT_MODEL, BLIND), [DEFAULT_MODEL] * 3),
    ],
)
async def test_only_models_that_see_are_fallen_back_on(chain: tuple[str, ...], models: list[str]) -> None:
    change: Callable[[client.Settings], client.Settings] = lambda it: it._replace(models=chain)  # noqa: E731
    async with StandIn([BUSY] * 3) as standin, house(standin, app=APP, change=change) as cfchat:
        answer = await cfchat.post(asked(PNG))
    assert (answer.status, answer.error["code"]) == (503, "upstream_overloaded")
    assert set(map(model_of, standin.requests)) == set(models) and BLIND not in models


async def test_where_no_model_sees_the_error_says_so() -> None:
    app = Settings(images=2, model=BLIND, models=(BLIND,))
    change: Callable[[client.Settings], client.Settings] = lambda it: it._replace(models=(BLIND,))  # noqa: E731
    async with StandIn([]) as standin, house(standin, app=app, change=change) as cfchat:
        answer = await cfchat.post(asked(PNG))
    assert (answer.status, answer.error["code"]) == (400, "invalid_option")
    assert "None does that is offered here" in answer.error["message"]


async def test_the_accounts_list_says_which_models_see() -> None:
    new = "@cf/new/model"
    models = listing(listed(DEFAULT_MODEL), listed(new, vision="true"), listed(BLIND, vision="false"))

    async def script(exchange: Exchange) -> None:
        await (models if exchange.method == "GET" else WORDS)(exchange)

    app = Settings(images=1, models=(DEFAULT_MODEL, new, BLIND))
    async with StandIn([script], repeat=True) as standin, house(standin, app=app) as cfchat:
        assert (await cfchat.post({"model": new, "messages": asked(PNG)})).status == 400
        await cfchat.upstream.start()
        await until(lambda: cfchat.upstream.sees(new))
        assert (await cfchat.post({"model": new, "messages": asked(PNG)})).status == 200
        assert (await cfchat.post({"model": BLIND, "messages": asked(PNG)})).status == 400


# --- what it costs --------------------------------------------------------------------------------


async def test_an_image_is_part_of_what_a_reply_may_cost() -> None:
    guard = Guard(GuardSettings(daily_tokens=8000))
    async with StandIn([WORDS] * 2) as standin, house(standin, app=APP, guard=guard) as cfchat:
        assert (await cfchat.post(asked(PNG))).status == 200  # 4,096 and 2,048 for the reply
        answer = await cfchat.post(asked(PNG))
        assert (answer.status, answer.error["code"]) == (429, "daily_tokens_spent")


async def test_trim_counts_images() -> None:
    change: Callable[[client.Settings], client.Settings] = lambda it: it._replace(trim=True, window=8000)  # noqa: E731
    talk = [*asked(PNG), {"role": "assistant", "content": "A cat"}, *asked(GIF)]
    async with StandIn([WORDS]) as standin, house(standin, app=APP, change=change) as cfchat:
        answer = await cfchat.post(talk)
    assert answer.fields["x-messages-left-out"] == "2"
    assert standin.requests[0].body.count(b"data:image/") == 1 and GIF.encode() in standin.requests[0].body


async def test_turns_that_are_joined_keep_their_images() -> None:
    mistral = "@cf/mistralai/mistral-small-3.1-24b-instruct"
    app = Settings(images=2, models=(mistral,))
    async with StandIn([WORDS]) as standin, house(standin, app=app) as cfchat:
        await cfchat.post({"model": mistral, "messages": [*asked(PNG, "a"), *asked(GIF, "b")]})
    text, *images = sent(standin.requests[0])
    assert text == {"type": "text", "text": "a\n\nb"}
    assert [image["image_url"]["url"] for image in images] == [PNG, GIF]


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("", "parse encode send"),
        ("Idempotency-Key: 8e03978e-40d5-43dd-bc93-6894a57f9324\r\n", "parse hash encode send"),
    ],
)
async def test_others_get_a_turn_between_the_steps(key: str, order: str) -> None:
    """Each of these takes a while for megabytes; `tests/conversation/test_images.py` says how long."""
    steps = {"parse_messages": "parse", "encode_question": "encode", "Connection.send": "send", "Resume._hash": "hash"}
    seen = [""]

    def note(frame: FrameType, what: str, _: object) -> None:
        name = frame.f_code.co_qualname
        step = "turn" if name == "BaseEventLoop._run_once" else steps.get(name, "")
        if what == "call" and step and step != seen[-1]:
            seen.append(step)

    app = APP._replace(keeping=Keeping(1.0 if key else 0.0))
    async with StandIn([WORDS] * 2) as standin, house(standin, app=app) as cfchat:
        await cfchat.post()  # makes the connection
        sys.setprofile(note)
        try:
            assert (await cfchat.post(asked(PNG), fields=key)).status == 200
        finally:
            sys.setprofile(None)
    assert " ".join(seen).replace("turn", "").split() == order.split()
    assert all("turn" in seen[seen.index(step) : seen.index(later)] for step, later in pairwise(order.split()))


async def test_what_waits_is_bounded_with_images_too() -> None:
    """Many send an image at once, of which a few fit: at a hundredth of the real sizes."""
    most = 500_000
    app = Settings(images=1, max_waiting=most, max_streams=100, max_streams_each=100)
    body = json.dumps(asked(url_of_size(40_000))).encode()
    answers: list[bytes] = []
    async with StandIn([silence()], repeat=True) as standin, house(standin, app=app) as cfchat:

        async def ask(number: int) -> None:
            address = (f"127.0.0.{number + 1}", 0)
            reader, writer = await asyncio.open_connection("127.0.0.1", cfchat.port, local_addr=address)
            try:
                writer.write(request(body))
                answers.append(await reader.read(12))
            finally:
                writer.transport.abort()

        tracemalloc.start()
        try:
            tasks = [asyncio.create_task(ask(number)) for number in range(30)]
            await until(lambda: len(answers) + len(standin.requests) == 30)
            # What cfchat has made, or the JSON decoder for it.
            places = [tracemalloc.Filter(True, f"{folder}/*") for folder in (HOME, Path(json.__file__).parent)]
            kept = tracemalloc.take_snapshot().filter_traces(places)
        finally:
            tracemalloc.stop()
        assert len(standin.requests) >= 7 and set(answers) == {b"HTTP/1.1 503"}
        assert len(body) * len(standin.requests) * 0.9 < cfchat.app.waiting.size <= most
        # No second copy. What else a connection takes is small, but there is more of it on a Python that debugs.
        assert sum(trace.size for trace in kept.traces if trace.size > 10_000) < 1.4 * most
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await until(lambda: not cfchat.app.waiting.size)


# --- programs that embed cfchat -----------------------------------------------------------------------


async def test_a_hook_sees_and_changes_images() -> None:
    seen: list[Message] = []

    async def before_call(conversation: Conversation, request: Request) -> Conversation:
        *others, last = conversation.messages
        seen.append(last)
        images: tuple[Image, ...] = () if request.fields.get("x-images") is None else (*last.images, Image(GIF))
        return replace(conversation, messages=(*others, replace(last, images=images)))

    async with StandIn([WORDS] * 2) as standin, house(standin, app=APP, hooks=Hooks(before_call=before_call)) as cfchat:
        await cfchat.post(asked(PNG))
        await cfchat.post(asked(PNG), fields="X-Images: more\r\n")
        assert "images=2" in cfchat.log[-1].split()
    assert seen[0] == Message("user", "What is this?", images=(Image(PNG),))
    assert seen[0].images[0].read().startswith(b"\x89PNG")
    assert sent(standin.requests[0]) == "What is this?"
    assert sent(standin.requests[1]) == [*CONTENT, {"type": "image_url", "image_url": {"url": GIF}}]


@pytest.mark.parametrize(
    "message",
    [
        Message("user", "x", images=(PNG,)),  # type: ignore[arg-type]
        Message("user", "x", images=None),  # type: ignore[arg-type]
        Message("assistant", "x", images=(Image(PNG),)),
    ],
)
async def test_a_hook_cannot_send_what_is_no_image(message: Message) -> None:
    async def before_call(conversation: Conversation, request: Request) -> Conversation:
        return Conversation((message,))

    async with StandIn([]) as standin, house(standin, hooks=Hooks(before_call=before_call)) as cfchat:
        assert (await cfchat.post()).status == 500
        await cfchat.logged("before_call failed")


def test_the_demo_sees_that_images_come() -> None:
    demo = package.load_config(demo=True, environ={}, images=2)
    large = url_of_size(1_500_000)  # more than a body may have without images
    assert package.chat(asked(large, "I am unhappy"), demo, max_tokens=6) == "I see 1 image. I"
    two = [*asked(PNG), {"role": "assistant", "content": "A cat."}, {"role": "user", "files": [{"src": GIF}]}]
    assert package.chat(two, demo, max_tokens=5) == "I see 1 image."
    assert package.chat([*two, *HELLO], demo, max_tokens=1) != "I"
    with pytest.raises(package.CfchatError, match="Images are not accepted here"):
        package.chat(asked(PNG), package.load_config(demo=True, environ={}))


async def test_a_program_cannot_show_images_to_a_model_that_does_not_see() -> None:
    account = {"account_id": "0" * 32, "api_token": "x"}
    config = package.load_config(**account, environ={}, images=1, model=BLIND)  # type: ignore[arg-type]
    with pytest.raises(package.CfchatError, match="does not take images"):
        async for _ in package.stream_chat(asked(PNG), config):
            pass
