"""An HTTP/1.1 server: it accepts, counts, reloads its certificate and drains. Knows no chat.

It listens on TCP or unix sockets. It counts each connection as soon as it is accepted, before any TLS, and gives it a
`net.Stream`, which speaks TLS if there is a certificate. Each connection is a task of this server's own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from cfchat.errors import Overloaded
from cfchat.net.listen import UNIX, listen_tcp
from cfchat.net.stream import Stream
from cfchat.server.accept import Acceptor
from cfchat.server.connection import Connection
from cfchat.server.record import Record
from cfchat.server.reply import Handler, Refuse
from cfchat.server.request import Direct, Limits, Peers
from cfchat.server.rules import Rules

log = logging.getLogger("cfchat.server")

READING = 0.1  # seconds to read a refusal while other clients wait to be accepted


class Certified(Protocol):
    """A certificate that may be renewed: `context` is what connections from now on shake hands with."""

    @property
    def context(self) -> ssl.SSLContext: ...


class Server:
    """Serves `handler` until it is drained. See `Rules` for what the arguments are."""

    def __init__(
        self,
        handler: Handler,
        refuse: Refuse,
        limits: Limits = Limits(),
        peers: Peers = Direct(),
        note: Callable[[Record], None] = lambda record: None,
    ) -> None:
        self.rules = Rules(handler, refuse, limits, peers, note)
        self.draining = False
        self.address = ("", 0)  # listened on
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._refused = 0  # of these
        self._counted: Counter[str] = Counter()
        self._acceptor = Acceptor(self._take)
        self._tls: Certified | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen on an address; return it, with a real port in place of 0.

        Raises:
            ConfigError: it cannot be listened on.
        """
        await self.start_on(listen_tcp(host, port))
        return self.address

    async def start_on(self, sockets: Sequence[socket.socket], tls: Certified | None = None) -> None:
        """Listen on sockets that were bound elsewhere, TCP or unix. They are closed with the server."""
        self._tls = tls
        for sock in sockets:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                # Accepted sockets inherit it. asyncio sets it only if a socket knows that its protocol is TCP, and one
                # of socket.create_server does not: each write would wait up to 40 ms for the client's ACK.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            await self._acceptor.listen(sock)
        address = sockets[0].getsockname()
        self.address = address[:2] if isinstance(address, tuple) else (os.fsdecode(address), 0)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client, refuse it, or have nothing to do with it."""
        stream = Stream(half_open=True)
        transport = writer.transport
        transport.set_protocol(stream)
        stream.connection_made(transport)
        address = transport.get_extra_info("peername")
        peer = address[0] if isinstance(address, tuple) else UNIX
        limits, name = self.rules.limits, self.rules.peers.counted(peer)
        here, there = len(self._connections), 0 if name is None else self._counted[name]
        served = here - self._refused
        if limits.most is None and (here >= 2 * limits.connections or there >= 2 * limits.connections_each):
            # A 503 keeps its connection open a little longer. Beyond twice the limit, reset without a reply.
            stream.reset()
            return
        refusal = None
        if served >= limits.connections:
            refusal = Overloaded("Too many connections. Please try again later.", retry_after=1)
        elif there >= limits.connections_each:
            refusal = Overloaded("Too many connections from your address.", retry_after=1)
        connection = Connection(self.rules, stream, peer, refusal, self.draining)
        tls = None if self._tls is None else self._tls.context
        connection.task = task = asyncio.get_running_loop().create_task(connection.run(tls))
        self._connections[task] = connection
        self._refused += connection.refused
        if name is not None:
            self._counted[name] += 1
        if limits.most is not None and here + 1 >= limits.most:
            self._acceptor.pause(READING, self._cut_refused)

        def over(task: asyncio.Task[None]) -> None:
            del self._connections[task]
            self._refused -= connection.refused
            # A task that is cancelled before its first step closes nothing by itself. (A StreamWriter that is forgotten
            # closes its transport: this closure holds it for as long as the connection lives.)
            writer.transport.close()
            if name is not None:
                self._counted[name] -= 1
                if not self._counted[name]:
                    del self._counted[name]
            if limits.most is None or len(self._connections) < limits.most:
                self._acceptor.resume()

        task.add_done_callback(over)

    def _cut_refused(self) -> None:
        """Make room: end the connections of clients that have not read their refusal, or keep it open."""
        for task, connection in self._connections.items():
            if connection.refused:
                task.cancel()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    # --- the end ------------------------------------------------------------------------------

    async def drain(self, seconds: float | None = None) -> None:
        """Stop accepting, let replies under way finish for `seconds` (by default `Limits.drain`), then end the rest."""
        loop, limits = asyncio.get_running_loop(), self.rules.limits
        end = loop.time() + (limits.drain if seconds is None else seconds)
        await self._stop_accepting()
        self._end_idle(fresh=False)
        # In two steps: where this process was held up itself, what has come meanwhile is read between them.
        for _ in range(2):
            await self._wait_over(min(end, loop.time() + limits.grace / 2))
        self._end_idle(fresh=True)
        await self._wait_over(end)
        await self.abort()

    def _end_idle(self, fresh: bool) -> None:
        for connection in self._connections.values():
            connection.end_if_idle(fresh)

    async def _wait_over(self, end: float) -> None:
        loop = asyncio.get_running_loop()
        while self._connections and (left := end - loop.time()) > 0:
            await asyncio.wait(set(self._connections), timeout=left)

    async def abort(self) -> None:
        """End every connection now."""
        await self._stop_accepting()
        tasks = set(self._connections)
        for task in tasks:
            task.cancel()
        if tasks:
            log.warning("ended %d connections that were still busy", len(tasks))
            await asyncio.wait(tasks)

    async def _stop_accepting(self) -> None:
        self.draining = True
        for connection in self._connections.values():
            connection.draining = True
        await self._acceptor.close()
