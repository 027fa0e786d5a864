"""The one wiring of the rooms: the command, the ASGI application, embedding and the tests all use it.

A Service is all of cfchat but the door that clients come in by. `serve_on` adds the HTTP/1.1 server; an ASGI server
brings its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

from cfchat.app.health import METRICS, is_from_here, probes, table
from cfchat.app.hooks import Hooks
from cfchat.app.page import admin_pages, pages
from cfchat.app.routes import App, Settings
from cfchat.errors import CfchatError
from cfchat.guard.guard import Guard
from cfchat.net.listen import is_loopback, listen_tcp
from cfchat.ops.logs import count_dropped_lines, log_request
from cfchat.ops.loop_lag import LoopLag
from cfchat.ops.metrics import Metrics, Samples
from cfchat.ops.today import Today
from cfchat.server.reply import Handler, Refusal
from cfchat.server.request import Direct, Limits, Peers
from cfchat.server.server import Certified, Server
from cfchat.upstream.client import Upstream
from cfchat.wire.fields import Fields

log = logging.getLogger("cfchat")


class Service:
    """The rooms, joined. `admin` is an address for /metrics; with `upkeep` connections to Cloudflare are kept warm.

    `server` is the one before it, if it is ours. `of_all` returns what this worker and the others have counted.
    """

    def __init__(
        self,
        upstream: Upstream,
        settings: Settings,
        guard: Guard,
        *,
        hooks: Hooks = Hooks(),
        metrics: Metrics | None = None,
        limits: Limits = Limits(),
        peers: Peers = Direct(),
        page: bool = True,
        demo: bool = False,
        admin: tuple[str, int] | None = None,
    ) -> None:
        self.upstream = upstream
        self.guard = guard
        self.limits = limits
        self.peers = peers
        self.demo = demo
        self.metrics = metrics or Metrics()
        self.loop_lag = LoopLag(self.metrics.lag.observe)
        self._worker = str(os.getpid())
        self._today = Today(self.metrics, self._worker)
        self.server: Server | None = None
        self._local = False  # no other machine can reach the sockets
        self.of_all: Callable[[], Awaitable[Samples]] | None = None
        self._admin_address = admin
        self.admin: Server | None = None

        def images() -> int:
            return settings.images if upstream.sees(self.model) else 0  # as the account's list says by then

        resume = settings.keeping.seconds > 0
        shown = {**(pages(self.model, demo, images, resume) if page else {}), **self._probes(admin is None)}
        self.app = App(upstream, settings, guard, shown, hooks, self.metrics)

    @property
    def model(self) -> str:
        """The model that is asked first."""
        return self.upstream.settings.models[0]

    def fault(self) -> str:
        """Return why no client should be sent here; nothing if all is well."""
        if self.server is not None and self.server.draining:
            return "draining"
        return "" if self.upstream.reachable else "the model's server cannot be reached"

    def count(self) -> Samples:
        """Return what is counted in this process."""
        metrics, pool = self.metrics, self.upstream.pool.state
        for state, number in zip(("running", "waiting"), self.app.streams, strict=True):
            metrics.streams.set(number, state)
        metrics.waiting.set(self.app.waiting.size)
        running, finished, size = self.app.kept
        metrics.kept.set(running, "running")
        metrics.kept.set(finished, "finished")
        metrics.kept_bytes.set(size)
        metrics.clients.set(0 if self.server is None else self.server.connections)
        metrics.pool.set(pool.lent_out, "lent")
        metrics.pool.set(pool.idle, "idle")
        metrics.ready.set(not self.fault())
        metrics.dropped_lines.set(count_dropped_lines())
        metrics.worker_streams.set(self.app.streams[0], self._worker)
        metrics.worker_cpu.set(time.process_time(), self._worker)
        if self.guard.daily_tokens is not None:
            metrics.budget.set(self.guard.daily_tokens, self._worker)
        self._today.update()
        return metrics.samples()

    async def count_all(self) -> Samples:
        """Return what is counted in this process and in all other workers."""
        return self.count() if self.of_all is None else await self.of_all()

    async def start(self) -> None:
        """Begin the upkeep of connections, which the demo does not need, and serve `admin`.

        Raises:
            ConfigError: `admin` cannot be listened on.
        """
        if self._admin_address is not None and self.of_all is None:
            self.admin = await start_admin(self._admin_address, self.fault, self.count_all)
        self.loop_lag.start()
        self._today.start()
        if not self.demo:
            await self.upstream.start()

    async def aclose(self) -> None:
        """End what `start` has begun, and wait for the hooks of replies that are over."""
        self.loop_lag.stop()
        self._today.stop()
        if self.admin is not None:
            await self.admin.drain(1.0)
        await self.app.aclose()

    @asynccontextmanager
    async def serve_on(self, sockets: Sequence[socket.socket], tls: Certified | None = None) -> AsyncIterator[Server]:
        """Start, and serve clients on these sockets for as long as the block.

        At its end replies under way may finish; if it ends by an exception, they are cut at once.
        """
        app = self.app
        self._local = all(map(is_loopback, sockets))
        server = self.server = Server(app.handle, app.refuse, self.limits, self.peers, app.note)
        try:
            await self.start()
            await server.start_on(sockets, tls)
            yield server
            await asyncio.gather(server.drain(), self.app.drain(self.limits.drain))
        except BaseException:
            await server.abort()
            raise

    def _probes(self, with_metrics: bool) -> Mapping[str, Handler]:
        handlers = probes(self.fault, self.count_all, lambda request: self._local and is_from_here(request))
        return {path: handler for path, handler in handlers.items() if path != METRICS or with_metrics}


async def start_admin(
    address: tuple[str, int], fault: Callable[[], str], count: Callable[[], Awaitable[Samples]]
) -> Server:
    """Start a server of the operator's page, /metrics, /healthz and /readyz for anyone who reaches this address.

    Raises:
        ConfigError: it cannot be listened on.
    """
    handlers = {**admin_pages(), **probes(fault, count)}
    admin = Server(table(handlers), refuse_in_text, note=partial(log_request, level=logging.DEBUG))
    await admin.start_on(listen_tcp(*address))
    log.info("admin: http://%s:%d/, /metrics, /healthz, /readyz", *admin.address)
    return admin


def refuse_in_text(error: CfchatError, request_id: str, fields: Fields | None) -> Refusal:
    """Word an error for machines that are no chat clients."""
    return Refusal(error.status, [("Content-Type", "text/plain"), *error.fields], error.message.encode() + b"\n")
