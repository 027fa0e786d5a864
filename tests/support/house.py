"""A whole cfchat on loopback, its upstream the stand-in."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from client import Reply, parse, request
from standin import StandIn

from cfchat.app.hooks import Hooks
from cfchat.app.routes import App
from cfchat.app.routes import Settings as AppSettings
from cfchat.app.service import Service
from cfchat.guard.guard import Guard
from cfchat.secret import Secret
from cfchat.server.request import Direct, Limits, Peers
from cfchat.server.server import Server
from cfchat.upstream.client import Settings, Upstream
from cfchat.upstream.connect import make_ssl_context
from cfchat.upstream.origin import Origin

ACCOUNT = "0123456789abcdef0123456789abcdef"
TOKEN = "test-token-that-no-log-shows"
HELLO = [{"role": "user", "content": "Hello"}]


class House:
    """`port` to connect to; `log` holds every line logged since the start."""

    def __init__(self, server: Server, upstream: Upstream, app: App, port: int, lines: _Lines) -> None:
        self.server = server
        self.app = app
        self.upstream = upstream
        self.port = port
        self._lines = lines

    @property
    def log(self) -> list[str]:
        return self._lines.lines

    async def logged(self, text: str) -> None:
        """Until a log line holds the text."""
        while not any(text in line for line in self.log):
            self._lines.more.clear()
            await self._lines.more.wait()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, data: bytes) -> bytes:
        """Send bytes, read until the server closes."""
        reader, writer = await self.connect()
        writer.write(data)
        received = await reader.read()
        writer.close()
        await writer.wait_closed()
        return received

    async def post(self, messages: object = HELLO, path: str = "/api/chatbot", fields: str = "") -> Reply:
        body = messages if isinstance(messages, bytes) else json.dumps(messages).encode()
        return parse(await self.send(request(body, path, fields)))


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.more = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))
        self.more.set()


@asynccontextmanager
async def house(
    standin: StandIn,
    *,
    app: AppSettings = AppSettings(),
    limits: Limits = Limits(),
    change: Callable[[Settings], Settings] = lambda settings: settings,
    clock: Callable[[], float] = time.monotonic,
    guard: Guard | None = None,
    peers: Peers = Direct(),
    page: bool = True,
    hooks: Hooks = Hooks(),
) -> AsyncIterator[House]:
    """A house whose backoff is zero; all else is as in real life."""
    url = urlsplit(standin.base_url)
    assert url.hostname and url.port
    origin = Origin(url.hostname, url.port, url.scheme == "https", url.path)
    settings = change(Settings(origin, ACCOUNT, Secret(TOKEN)))
    lines, logger = _Lines(), logging.getLogger("cfchat")
    logger.addHandler(lines)
    logger.setLevel(logging.DEBUG)
    upstream = Upstream(settings, make_ssl_context(standin.ca_file), clock=clock, chance=lambda: 0.0)
    service = Service(upstream, app, guard or Guard(), hooks=hooks, limits=limits, peers=peers, page=page)
    rooms = service.app
    server = Server(rooms.handle, rooms.refuse, limits, peers, rooms.note)
    try:
        _, port = await server.start("127.0.0.1", 0)
        yield House(server, upstream, rooms, port, lines)
    finally:
        await server.drain(0.5)
        await rooms.aclose()
        await upstream.aclose()
        logger.removeHandler(lines)
        assert TOKEN not in "\n".join(lines.lines)


def quicker(**seconds: float) -> Callable[[Settings], Settings]:
    """A change of deadlines for `house`."""
    return lambda settings: settings._replace(deadlines=settings.deadlines._replace(**seconds))
