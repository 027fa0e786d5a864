"""A proxy on loopback that knows CONNECT and nothing else; written without cfchat's own wire code."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from places import CERTS

OPENED = b"HTTP/1.0 200 Connection established\r\nVia: 1.1 test\r\n\r\n"


class ProxyStandIn:
    """A proxy for `async with`: it opens a tunnel to any host that a CONNECT names, or sends `refusal` instead.

    An empty `refusal` closes the connection. `opened` are the bytes sent before a tunnel begins, `silent` sends
    nothing at all. With `leads_to` each tunnel ends at this port of this machine. `seen` holds the head of each
    CONNECT, `asked` is set at the first one.
    """

    def __init__(
        self,
        refusal: bytes | None = None,
        *,
        opened: bytes = OPENED,
        tls: bool = False,
        silent: bool = False,
        leads_to: int = 0,
    ) -> None:
        self.seen: list[str] = []
        self.asked = asyncio.Event()
        self._refusal = refusal
        self._opened = opened
        self._silent = silent
        self._leads_to = leads_to
        self._context = None
        if tls:
            self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._context.load_cert_chain(CERTS / "localhost.pem")
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://localhost:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.seen.append(head)
            self.asked.set()
            if self._silent:
                await reader.read()
            elif self._refusal is not None:
                writer.write(self._refusal)
            else:
                await self._tunnel(head, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _tunnel(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, authority, _ = head.split(" ", 2)
        assert method == "CONNECT"
        there = urlsplit(f"//{authority}")
        place = ("127.0.0.1", self._leads_to) if self._leads_to else (there.hostname, there.port)
        far_reader, far_writer = await asyncio.open_connection(*place)
        writer.write(self._opened)
        pumps = [
            asyncio.get_running_loop().create_task(pump(*ends)) for ends in ((reader, far_writer), (far_reader, writer))
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            far_writer.close()
            for task in pumps:
                task.cancel()
            await asyncio.wait(pumps)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
