"""cfchat as a process of its own, its upstream the stand-in: what it prints, and streams through it."""

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
    """A model that answers at once; who asks it to wait gets the first word, and the rest when the gate is open."""

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
    """`log` is what it has said on stderr so far; `banner` what on stdout."""

    process: asyncio.subprocess.Process
    banner: str = ""
    log: list[str] = field(default_factory=list)
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        found = re.search(r"://[^/]+:(\d+)/api", self.banner)
        assert found, self.banner + "".join(self.log)
        return int(found[1])

    async def read(self) -> None:
        assert self.process.stderr
        async for line in self.process.stderr:
            self.log.append(line.decode())
            async with self._more:
                self._more.notify_all()

    async def logged(self, pattern: str, times: int = 1) -> list[str]:
        """The lines that match, once there are so many."""
        async with self._more:
            await self._more.wait_for(lambda: len(self.matching(pattern)) >= times)
        return self.matching(pattern)

    def matching(self, pattern: str) -> list[str]:
        return [line for line in self.log if re.search(pattern, line)]

    def workers(self) -> list[int]:
        """The numbers of the processes that it has started and that are not gone."""
        told = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(number) for number in told.split()]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.send(number)
        return await self.process.wait()


@asynccontextmanager
async def started(
    base_url: str, *flags: str, before: Sequence[str] = (), argv: Sequence[str] = (), **more: str
) -> AsyncIterator[Process]:
    """The command, up to its banner. `before` is what runs it, `argv` what is run instead of the usual."""
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
        told = "".join(this.log)
        assert "Traceback" not in told and "never" not in told and "Error:" not in told, told


class Stream:
    """One conversation on a connection of its own, read as it comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._received = b""

    @property
    def own_port(self) -> int:
        return int(self._writer.get_extra_info("sockname")[1])

    async def first_word(self) -> None:
        self._received = await self._reader.readuntil(b"Hel\r\n")

    async def rest(self) -> Reply:
        """The whole reply, or what came of it."""
        with suppress(ConnectionResetError):
            self._received += await self._reader.read()
        self._writer.close()
        return parse(self._received)


async def ask(port: int, body: bytes = HELLO) -> Stream:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(body))
    return Stream(reader, writer)


async def begun(port: int) -> Stream:
    """A stream whose first word has come, and that waits."""
    stream = await ask(port, WAIT)
    await stream.first_word()
    return stream


def is_whole(answer: Reply) -> bool:
    return (answer.status, answer.body, answer.whole) == (200, b"Hello", True)


def ports_of(pid: int, port: int) -> set[int]:
    """The ports of the clients that a process is connected to by its own `port`."""
    inodes = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(file))
        if found:
            inodes.add(found[1])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {
        int(line[2].partition(":")[2], 16)
        for line in lines
        if line[9] in inodes and line[1].endswith(f":{port:04X}") and line[3] == "01"
    }


async def gone(pid: int) -> None:
    """Until a process has ended, whoever's child it is."""
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
    return StandIn([gate or AT_ONCE], repeat=True)
