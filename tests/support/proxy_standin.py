"""A proxy on loopback that knows CONNECT and nothing else; written without cfchat's own wire code."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from on_loopback import OnLoopback, pump
from standin import server_context

OPENED = b"HTTP/1.0 200 Connection established\r\nVia: 1.1 test\r\n\r\n"


class ProxyStandIn(OnLoopback):
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
        super().__init__(server_context() if tls else None)
        self.seen: list[str] = []
        self.asked = asyncio.Event()
        self._refusal = refusal
        self._opened = opened
        self._silent = silent
        self._leads_to = leads_to

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
