"""A proxy on loopback that spoils what comes through it; written without cfchat's own wire code."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from on_loopback import OnLoopback, pump
from standin import server_context

# Gets what the server sends, and writes what the client gets.
Treat = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Between(OnLoopback):
    """A proxy for `async with` before a server on `behind`. `seen` holds the head of each request."""

    def __init__(self, behind: int, treat: Treat, certificate: str | None = None) -> None:
        super().__init__(server_context(certificate) if certificate else None)
        self.seen: list[str] = []
        self._behind = behind
        self._treat = treat

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.seen.append(head.decode("latin-1"))
            far_writer.write(head)
            up = asyncio.get_running_loop().create_task(pump(reader, far_writer))
            up.add_done_callback(lambda _: far_writer.close())  # a client that leaves ends both ways
            try:
                await self._treat(far_reader, writer)
            finally:
                up.cancel()
                await asyncio.wait([up])
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            far_writer.close()
            writer.close()


async def passes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Leave all as it is."""
    await pump(reader, writer)


class Line:
    """Leave all as it is, until the test cuts the connections that are open."""

    def __init__(self) -> None:
        self._open: set[asyncio.Task[None]] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passing = asyncio.get_running_loop().create_task(pump(reader, writer))
        self._open.add(passing)
        try:
            await asyncio.wait([passing])
        finally:
            passing.cancel()
            self._open.discard(passing)

    def cut(self) -> None:
        for passing in self._open:
            passing.cancel()


async def holds(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hold a reply back until it is whole."""
    writer.write(await reader.read())


async def cuts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Cut a stream behind its first event."""
    writer.write(await reader.readuntil(b"\n\n"))
    await writer.drain()
    writer.transport.abort()


def adds(lines: bytes) -> Treat:
    """Add field lines to each head."""

    async def treat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(head[:-2] + lines + b"\r\n")
        await pump(reader, writer)

    return treat
