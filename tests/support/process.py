"""Run cfchat as a process of its own, with the stand-in as its upstream, and hold streams through it open."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from client import Reply, parse, request
from command import command, surroundings
from standin import Exchange, StandIn, reply

HELLO, WAIT = (b'[{"role":"user","content":"%b"}]' % word for word in (b"Hello", b"Wait"))
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
FIRST, REST = b'data: {"response":"Hel"}\n\n', b'data: {"response":"lo"}\n\ndata: [DONE]\n\n'
AT_ONCE = reply(FIRST + REST)


class Gate:
    """A model that answers at once. A question with `Wait` gets the first word, and the rest when the gate is open."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.send(HEAD + FIRST)
        if b"Wait" in exchange.body:
            await self.open.wait()
        await exchange.send(REST)
        exchange.close()


@dataclass
class Process:
    """A running cfchat. `log` has the lines of its stderr so far, `banner` its stdout."""

    process: asyncio.subprocess.Process
    banner: str = ""
    log: list[str] = field(default_factory=list)
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        match = re.search(r"://[^/]+:(\d+)/api", self.banner)
        assert match, self.banner + "".join(self.log)
        return int(match[1])

    async def read(self) -> None:
        """Collect the log until the process ends."""
        assert self.process.stderr
        async for line in self.process.stderr:
            self.log.append(line.decode())
            async with self._more:
                self._more.notify_all()

    async def logged(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until `times` lines of the log match. Return all that match."""
        async with self._more:
            await self._more.wait_for(lambda: len(self.matching(pattern)) >= times)
        return self.matching(pattern)

    def matching(self, pattern: str) -> list[str]:
        """Return the lines of the log that match so far."""
        return [line for line in self.log if re.search(pattern, line)]

    def workers(self) -> list[int]:
        """Return the pids of its children that are alive."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal and wait for its end. Return the exit code."""
        self.send(number)
        return await self.process.wait()


@asynccontextmanager
async def started(
    base_url: str, *flags: str, before: Sequence[str] = (), argv: Sequence[str] = (), **more: str
) -> AsyncIterator[Process]:
    """Run `argv`, by default the command, within the block, from its banner on. `before` are words before it."""
    pipe = asyncio.subprocess.PIPE
    run, environ = (*before, *(argv or command()), "--port", "0", *flags), surroundings(base_url, **more)
    process = await asyncio.create_subprocess_exec(*run, env=environ, stdout=pipe, stderr=pipe)
    this = Process(process)
    reading = asyncio.create_task(this.read())
    try:
        assert process.stdout
        while line := await process.stdout.readline():
            this.banner += line.decode()
            if "stops it" in this.banner:
                break
        yield this
    finally:
        if process.returncode is None:
            workers = this.workers()
            process.kill()
            for pid in workers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await process.wait()
        await reading
        log = "".join(this.log)
        assert "Traceback" not in log and "never" not in log and "Error:" not in log, log


class Stream:
    """One conversation on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._received = b""

    @property
    def own_port(self) -> int:
        return int(self._writer.get_extra_info("sockname")[1])

    async def first_word(self) -> None:
        """Wait for the first word."""
        self._received = await self._reader.readuntil(b"Hel\r\n")

    async def rest(self) -> Reply:
        """Return the whole reply, or as much of it as came."""
        with suppress(ConnectionResetError):
            self._received += await self._reader.read()
        self._writer.close()
        return parse(self._received)


async def ask(port: int, body: bytes = HELLO) -> Stream:
    """Post a question."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(body))
    return Stream(reader, writer)


async def begun(port: int) -> Stream:
    """Return a stream whose first word has come, and whose rest waits for the gate."""
    stream = await ask(port, WAIT)
    await stream.first_word()
    return stream


def is_whole(answer: Reply) -> bool:
    """Return whether a reply has all its words and its end."""
    return (answer.status, answer.body, answer.whole) == (200, b"Hello", True)


def ports_of(pid: int, port: int) -> set[int]:
    """Return the ports of the clients whose connections to `port` a process has."""
    inodes = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(file))
        if match:
            inodes.add(match[1])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {
        int(line[2].partition(":")[2], 16)
        for line in lines
        if line[9] in inodes and line[1].endswith(f":{port:04X}") and line[3] == "01"
    }


async def gone(pid: int) -> None:
    """Wait until a process has ended, also if it is not our child."""
    try:
        file = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(file, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(file)
        os.close(file)


def standin(gate: Gate | None = None) -> StandIn:
    """Return an upstream that answers at once, or by a gate."""
    return StandIn([gate or AT_ONCE], repeat=True)
