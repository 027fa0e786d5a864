"""What a command shows on the terminal, and its exit code, however it ends."""

from __future__ import annotations

import asyncio
import os
import pty
import signal

from account import DONE, HELLO
from command import cfchat, command, finish, running, surroundings
from standin import Exchange, StandIn, json_error, partial, reply, silence


async def test_ctrl_c_ends_ask_and_the_reply() -> None:
    async with (
        StandIn([partial(HELLO, then="silence")]) as standin,
        running(standin.base_url, "ask", "Hello?") as process,
    ):
        assert process.stdout
        assert await process.stdout.readexactly(11) == b"Hello there"
        process.send_signal(signal.SIGINT)
        await standin.wait_closed_by_peer()
        done = await finish(process)
    assert (done.code, done.out, done.err) == (130, "\n", "")


async def test_ctrl_c_before_the_first_words() -> None:
    async with StandIn([silence()]) as standin, running(standin.base_url, "ask", "Hello?") as process:
        await standin.wait_requests()
        process.send_signal(signal.SIGINT)
        done = await finish(process)
    assert (done.code, done.out, done.err) == (130, "", "")


async def test_ask_ends_quietly_when_its_reader_leaves() -> None:
    gone = asyncio.Event()

    async def endlessly(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + HELLO)
        await gone.wait()
        while not exchange.closed_by_peer.is_set():
            await exchange.send(HELLO)
            await asyncio.sleep(0)  # a write that the kernel takes at once gives no other task a turn

    reading, writing = os.pipe()
    async with StandIn([endlessly]) as standin:
        process = await asyncio.create_subprocess_exec(
            *command(), "ask", "Hello?",
            env=surroundings(standin.base_url), stdout=writing, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        os.close(writing)
        await asyncio.to_thread(os.read, reading, 1)
        os.close(reading)
        gone.set()
        _, err = await process.communicate()
    assert (process.returncode, err) == (141, b"")


async def test_no_model_writes_control_sequences_to_a_terminal() -> None:
    said = b'data: {"response":"\\u001b]0;owned\\u0007Hi\\u009b2J\\ttab \\u202eabc\\u2066\\u2028."}\n\n' + DONE
    async with StandIn([reply(said), reply(said)]) as standin:
        keyboard, terminal = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *command(), "ask", "Hello?", env=surroundings(standin.base_url), stdout=terminal
        )
        await process.wait()
        shown = os.read(keyboard, 4096).decode()
        os.close(keyboard)
        os.close(terminal)
        piped = await cfchat(standin.base_url, "ask", "Hello?")
    assert shown.strip() == "\ufffd]0;owned\ufffdHi\ufffd2J\ttab \ufffdabc\ufffd\ufffd."
    assert piped.out == "\x1b]0;owned\x07Hi\x9b2J\ttab \u202eabc\u2066\u2028.\n", "a file gets the words as they are"


async def test_ask_says_what_went_wrong_and_what_to_do() -> None:
    async with StandIn([json_error(401, 10000, "Authentication error")]) as standin:
        done = await cfchat(standin.base_url, "ask", "Hello?", "--log-level", "error")
    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1
    assert "10000" in done.err and "; next: " in done.err and "CLOUDFLARE_API_TOKEN" in done.err
