"""`ask` as an operator runs it: a process of its own, against the stand-in on real TLS."""

from __future__ import annotations

import asyncio
import json

import pytest
from account import ANSWER, DONE, HELLO, OTHER, THOUGHTS
from command import cfchat, finish, run, running
from standin import Exchange, StandIn, json_error, partial, reply


async def test_ask_prints_the_words_as_they_come() -> None:
    go_on = asyncio.Event()

    async def slowly(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + HELLO)
        await go_on.wait()
        await exchange.send(DONE)
        exchange.close()

    async with StandIn([slowly]) as standin, running(standin.base_url, "ask", "Hello?") as process:
        assert process.stdout
        first = await process.stdout.readexactly(len("Hello there"))
        go_on.set()
        done = await finish(process)
    assert first == b"Hello there", "before the reply is whole"
    assert (done.code, done.out, done.err) == (0, "\n", "")


@pytest.mark.parametrize("words", [[], ["-"]])
async def test_ask_reads_the_question_from_standard_input(words: list[str]) -> None:
    async with StandIn([ANSWER]) as standin:
        flags = ("--system", "Be short.", "--model", OTHER)
        done = await cfchat(standin.base_url, "ask", *flags, *words, stdin="Grüß Gott?\n".encode())
    assert (done.code, done.out) == (0, "Hello there\n")
    asked = json.loads(standin.requests[0].body)
    assert asked["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Grüß Gott?\n"},
    ]
    assert standin.requests[0].target.endswith(OTHER)


async def test_ask_takes_its_words_with_or_without_quotes() -> None:
    async with StandIn([ANSWER]) as standin:
        done = await cfchat(standin.base_url, "ask", "what", "is", "this")
    assert done.code == 0 and json.loads(standin.requests[0].body)["messages"][-1]["content"] == "what is this"


@pytest.mark.parametrize("stdin", [b"", b" \n", b"\xff\xfe?"])
async def test_ask_of_nothing(stdin: bytes) -> None:
    done = await cfchat("https://localhost:1/client/v4", "ask", stdin=stdin)
    assert done.code == 2 and len(done.err.splitlines()) == 1


async def test_ask_shows_that_it_tries_again() -> None:
    busy = json_error(429, 3040, "No capacity", headers=[("retry-after", "0")])
    async with StandIn([busy, ANSWER]) as standin:
        done = await cfchat(standin.base_url, "ask", "Hello?")
    assert (done.code, done.out) == (0, "Hello there\n")
    assert "3040" in done.err and "retrying" in done.err


async def test_ask_of_a_reply_that_breaks_off() -> None:
    async with StandIn([partial(HELLO, then="abort")]) as standin:
        done = await cfchat(standin.base_url, "ask", "Hello?")
    assert (done.code, done.out) == (1, "Hello there\n")
    assert len(done.err.splitlines()) == 1 and "broke off" in done.err and "; next: " in done.err


async def test_ask_notes_that_the_answer_was_cut() -> None:
    cut = b'data: {"choices":[{"index":0,"delta":{"content":"Once"},"finish_reason":"length"}]}\n\ndata: [DONE]\n\n'
    async with StandIn([reply(cut)]) as standin:
        done = await cfchat(standin.base_url, "ask", "Hello?", "--max-tokens", "7")
    assert (done.code, done.out) == (0, "Once\n")
    assert "7 tokens" in done.err and "--max-tokens" in done.err


async def test_ask_of_a_model_that_only_thinks() -> None:
    async with StandIn([reply(THOUGHTS)]) as standin:
        done = await cfchat(standin.base_url, "ask", "Hello?", "--log-level", "error")
    assert done.code == 1 and "thinking" in done.err and "--max-tokens" in done.err


async def test_ask_names_the_sources_behind_the_answer() -> None:
    pages = [{"score": 1, "item": {"key": "https://example.com/a", "metadata": {"title": "\x1b[31mA"}}}]
    pages.append({"score": 0.5, "item": {"key": "b.md"}})
    found = b"event: chunks\ndata: " + json.dumps(pages).encode() + b"\n\n"
    async with StandIn([reply(found + HELLO + DONE)]) as standin:
        done = await cfchat(standin.base_url, "ask", "--ai-search", "docs", "Hello?")
    assert (done.code, done.out) == (0, "Hello there\n")
    assert done.err.splitlines() == ["cfchat: source 1: [31mA, https://example.com/a", "cfchat: source 2: b.md"]
    assert json.loads(standin.requests[0].body) == {"stream": True, "messages": [{"role": "user", "content": "Hello?"}]}


def test_ask_of_the_demo() -> None:
    done = run("ask", "--demo", "I am unhappy")
    assert done.returncode == 0 and "unhappy" in done.stdout and done.stderr == ""
