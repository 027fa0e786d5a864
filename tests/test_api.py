"""cfchat inside another program: the public names as their examples say, servers side by side, questions."""

from __future__ import annotations

import asyncio
import doctest
import gc
import json
import logging
import os
import pydoc
import signal
import socket
import subprocess
import sys
from contextlib import aclosing
from dataclasses import replace

import pytest
from client import get, parse, request, until
from standin import STREAM_TYPE, Exchange, Model, Script, StandIn, head_of, json_error, partial, reply

import cfchat
from cfchat.app.kept.replies import Keeping
from cfchat.app.routes import Settings
from cfchat.errors import BadChatRequest, BadOption, ConfigError, UpstreamAuthError, UpstreamInterrupted
from cfchat.server.request import Limits

DEMO = cfchat.load_config(demo=True, port=0, environ={})
WORDS = b'data: {"response":"Hel"}\n\ndata: {"response":"lo"}\n\ndata: [DONE]\n\n'
HALF = b'data: {"response":"Hel"}\n\n'
BODY = b'[{"role": "user", "content": "I am unhappy"}]'


def config(standin: StandIn) -> cfchat.Config:
    return cfchat.load_config(
        account_id="0123456789abcdef" * 2,
        api_token="test-token",
        base_url=standin.base_url,
        port=0,
        warm=0,
        environ={},
    )


async def post(port: int, body: bytes = BODY, fields: str = "") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(body, fields=fields))
    received = await reader.read()
    writer.close()
    return received


async def hold(exchange: Exchange) -> None:
    """The beginning of a reply, and no more of it until the client leaves; nothing for what is no question."""
    if exchange.method == "GET":
        await json_error(403, 10000, "Authentication error")(exchange)
        return
    await exchange.send(head_of(200, [STREAM_TYPE]) + HALF)
    await exchange.closed_by_peer.wait()


# --- the names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in cfchat.__all__ if name != "__version__"])
def test_every_public_name_has_an_example_that_is_true(name: str) -> None:
    found = doctest.DocTestFinder(recurse=False).find(getattr(cfchat, name), name)
    assert sum(len(test.examples) for test in found), f"{name} has no example"
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in found:
        runner.run(test, out=told.append)
    assert told == []


def test_importing_cfchat_imports_little() -> None:
    check = "import sys, cfchat; print(sorted(n for n in sys.modules if n.startswith('cfchat') or n == 'asyncio'))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "['cfchat', 'cfchat.errors']\n"


def test_help_shows_every_name() -> None:
    told = pydoc.plain(pydoc.render_doc(cfchat))
    assert [name for name in cfchat.__all__ if name not in told] == ["__version__"]  # it is given as VERSION
    assert "stream_chat(" in told


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cfchat.nonsense  # noqa: B018


# --- settings -------------------------------------------------------------------------------------


def test_settings_of_every_kind() -> None:
    made = cfchat.load_config(
        demo=True,
        environ={"CFCHAT_PORT": "99", "CFCHAT_HOST": "::1"},
        port=1,
        trim=True,
        no_page=False,
        fallback_models=[],
        alias={"gpt": "@cf/a/b"},
        allow_origin=["https://a.example", "https://b.example"],
        drain_timeout=2.5,
        rate_limit=None,
    )
    assert (made.where.host, made.where.port, made.page, made.server.drain) == ("::1", 1, True, 2.5)
    assert (made.app.aliases, made.guard.rate) == ({"gpt": "@cf/a/b"}, None)
    assert made.guard.origins.allowed == ("https://a.example", "https://b.example")


def test_all_that_is_wrong_is_said_by_the_names_of_keywords() -> None:
    with pytest.raises(ConfigError) as caught:
        cfchat.load_config(environ={}, port="many", max_body=0, tempo=1)
    told = caught.value.message.split("\n")
    assert [line.split()[0] for line in told[1:3]] == ["port", "max_body"]
    assert told[0] == "there is no setting tempo"
    assert "CLOUDFLARE_ACCOUNT_ID" in told[3]


# --- serve ----------------------------------------------------------------------------------------


async def test_the_demo_has_an_ai_search_of_its_own_pages() -> None:
    base = "https://example.com/cfchat"
    config = cfchat.load_config(demo=True, port=0, ai_search="demo", source_base_url=base, environ={})
    async with cfchat.serve(config) as serving:
        reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
        writer.write(request(b'{"messages":[{"role":"user","content":"What is a rate?"}]}'))
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert await reader.readuntil(b"*"), "an answer begins"
        writer.transport.abort()  # it takes seconds, at the pace of a model
        offered = json.loads((await get(serving.port, "/v1/models")).body)["data"]
    assert "X-Model: ai-search/demo" in head and f'"url":"{base}/cfchat/' in head
    assert [model["id"] for model in offered] == ["ai-search/demo", "@cf/demo/eliza-1966"]


async def test_two_servers_in_one_loop_leave_nothing_behind(capfd: pytest.CaptureFixture[str]) -> None:
    loop = asyncio.get_running_loop()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    loggers, tasks = list(logging.getLogger("cfchat").handlers), asyncio.all_tasks()
    async with cfchat.serve(DEMO) as one:
        async with cfchat.serve(DEMO) as two:
            assert one.port != two.port
            answers = [parse(await post(serving.port)) for serving in (one, two)]
        answers.append(parse(await post(one.port)))
        with pytest.raises(OSError):
            await post(two.port)
    assert [(answer.status, answer.whole) for answer in answers] == [(200, True)] * 3
    assert loop.get_exception_handler() is None
    assert handlers == {number: signal.getsignal(number) for number in handlers}
    assert (list(logging.getLogger("cfchat").handlers), logging.getLogger("cfchat").propagate) == (loggers, True)
    assert asyncio.all_tasks() == tasks
    assert capfd.readouterr() == ("", "")


async def test_the_exception_handler_of_the_host_comes_back_whichever_server_ends_first() -> None:
    loop, told = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda loop, context: told.append(context["message"]))
    host = loop.get_exception_handler()
    one, two = cfchat.serve(DEMO), cfchat.serve(DEMO)
    await one.__aenter__()
    await two.__aenter__()
    await one.__aexit__(None, None, None)
    loop.call_exception_handler({"message": "of the host"})
    await two.__aexit__(None, None, None)
    assert loop.get_exception_handler() is host
    assert told == ["of the host"]


async def test_the_end_of_the_block_lets_replies_finish() -> None:
    async with cfchat.serve(DEMO) as serving:
        reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
        writer.write(request(BODY))
        await reader.readuntil(b"\r\n\r\n")
    received = await reader.read()
    writer.close()
    assert received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("whole", [True, False])
async def test_the_end_of_the_block_lets_kept_replies_finish(whole: bool) -> None:
    """Also one that has lost its client; in the time that all replies have."""
    model, finished = Model(), list[cfchat.Reply]()

    async def note(reply: cfchat.Reply) -> None:
        finished.append(reply)

    async def script(exchange: Exchange) -> None:
        await (json_error(403, 10000, "no list of models") if exchange.method == "GET" else model)(exchange)

    chat = b'{"id":"0123456789abcdef","messages":[{"role":"user","content":"Hello"}]}'
    async with StandIn([script], repeat=True, certificate=None) as standin:
        drain = Limits(drain=10 if whole else 0.1)
        settings = replace(config(standin), app=Settings(keeping=Keeping(60)), server=drain)
        async with cfchat.serve(settings, cfchat.Hooks(after_reply=note)) as serving:
            reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
            writer.write(request(chat, "/api/chat"))
            model.say("Hel")
            await reader.readuntil(b"Hel")
            writer.transport.abort()
            await until(lambda: not serving.server.connections)
            if whole:
                asyncio.get_running_loop().call_later(0.02, model.end)
    assert [reply.whole for reply in finished] == [whole]


async def test_a_host_that_fails_ends_replies_at_once() -> None:
    async with StandIn([hold], repeat=True, certificate=None) as standin:
        with pytest.raises(ZeroDivisionError):
            async with cfchat.serve(config(standin)) as serving:
                reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
                writer.write(request(BODY))
                await reader.readuntil(b"Hel")
                raise ZeroDivisionError
        received = await reader.read()
        writer.close()
    assert not received.endswith(b"0\r\n\r\n")


async def test_an_address_in_use_is_a_config_error() -> None:
    async with cfchat.serve(DEMO) as serving:
        with pytest.raises(ConfigError, match="in use"):
            async with cfchat.serve(cfchat.load_config(demo=True, environ={}, port=serving.port)):
                pass


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "a..b:1", "nowhere.invalid:1"])
async def test_an_admin_address_that_cannot_be_had_leaves_nothing_behind(address: str) -> None:
    loop, tasks = asyncio.get_running_loop(), asyncio.all_tasks()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = address.format(port=taken.getsockname()[1])
        files = len(os.listdir("/proc/self/fd"))
        with pytest.raises(cfchat.ConfigError, match=f"cannot listen on {address.partition(':')[0]} port"):
            async with cfchat.serve(cfchat.load_config(demo=True, environ={}, port=0, admin=address)):
                pass
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == files
    assert (loop.get_exception_handler(), asyncio.all_tasks()) == (None, tasks)


# --- questions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("messages", ["Hello", [{"role": "user", "content": "Hello"}]])
async def test_stream_chat_gives_words_as_they_come(messages: str | list[dict[str, object]]) -> None:
    async with StandIn([reply(WORDS)], certificate=None) as standin:
        words = [text async for text in cfchat.stream_chat(messages, config(standin), temperature=0.5)]
        (seen,) = standin.requests
    assert "".join(words) == "Hello"
    assert b'"temperature": 0.5' in seen.body.replace(b":0.5", b": 0.5")
    assert b"You are a friendly assistant" in seen.body


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        (partial(HALF, then="close"), UpstreamInterrupted, ["Hel"]),
        (json_error(401, 10000, "Authentication error"), UpstreamAuthError, []),
    ],
)
async def test_stream_chat_says_what_breaks(script: Script, error: type[Exception], words: list[str]) -> None:
    seen = []
    async with StandIn([script], certificate=None) as standin:
        with pytest.raises(error):
            async for text in cfchat.stream_chat("Hello", config(standin)):
                seen.append(text)  # noqa: PERF401
    assert seen == words


async def test_leaving_stream_chat_closes_the_call() -> None:
    async with StandIn([hold], certificate=None) as standin:
        async with aclosing(cfchat.stream_chat("Hello", config(standin))) as words:
            assert await anext(words) == "Hel"
        await standin.wait_closed_by_peer()


@pytest.mark.parametrize(
    ("messages", "options", "error"),
    [
        ([{"role": "user"}], {}, BadChatRequest),
        ([], {}, BadChatRequest),
        ("Hello", {"temperature": 99}, BadOption),
        ("Hello", {"tempo": 1}, TypeError),
    ],
)
async def test_what_cannot_be_asked(
    messages: str | list[dict[str, object]], options: dict[str, float], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await anext(cfchat.stream_chat(messages, DEMO, **options))


def test_help_prints_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default in a signature is printed by `help`: `os.environ` would show the token."""
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "token-that-nobody-may-see")
    assert "token-that-nobody-may-see" not in pydoc.render_doc(cfchat)


async def test_chat_does_not_block_a_loop() -> None:
    with pytest.raises(RuntimeError, match="stream_chat"):
        cfchat.chat("Hello", DEMO)


async def test_a_program_that_is_ended_in_the_drain_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    draining = asyncio.Event()

    async def run() -> None:
        async with cfchat.serve(DEMO) as serving:
            _, writer = await asyncio.open_connection("127.0.0.1", serving.port)
            writers.append(writer)
            writer.write(b"POST /api/chatbot HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n[")
            await until(lambda: bool(serving.server.connections))
            asyncio.get_running_loop().call_later(0.1, draining.set)

    writers: list[asyncio.StreamWriter] = []
    task = asyncio.create_task(run())
    await draining.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before
    writers[0].close()
