"""A whole cfchat on loopback, its upstream the stand-in; and a client that sees bytes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from standin import StandIn

from cfchat.app import App
from cfchat.app import Settings as AppSettings
from cfchat.server import Limits, Server
from cfchat.upstream.client import Secret, Settings, Upstream
from cfchat.upstream.connection import Origin, make_ssl_context

ACCOUNT = "0123456789abcdef0123456789abcdef"
TOKEN = "test-token-that-no-log-shows"
HELLO = [{"role": "user", "content": "Hello"}]


@dataclass
class Reply:
    status: int
    fields: dict[str, str]
    raw: bytes  # everything behind the head
    whole: bool

    @property
    def body(self) -> bytes:
        return unchunk(self.raw) if "transfer-encoding" in self.fields else self.raw

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


def unchunk(raw: bytes) -> bytes:
    """The data of the complete chunks in `raw`; written for tests, knows no extensions."""
    data = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        length = int(size, 16)
        data += raw[:length]
        raw = raw[length + 2 :]
    return data


class House:
    """`port` to connect to; `log` holds every line logged since the start."""

    def __init__(self, server: Server, port: int, log: list[str]) -> None:
        self.server = server
        self.port = port
        self.log = log

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


def request(body: bytes, path: str = "/api/chatbot", fields: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
    return head.encode() + body


def parse(received: bytes) -> Reply:
    head, _, raw = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    chunked = fields.get("transfer-encoding") == "chunked"
    return Reply(int(lines[0].split()[1]), fields, raw, raw.endswith(b"0\r\n\r\n") if chunked else True)


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@asynccontextmanager
async def house(
    standin: StandIn,
    *,
    app: AppSettings = AppSettings(),
    limits: Limits = Limits(),
    change: Callable[[Settings], Settings] = lambda settings: settings,
) -> AsyncIterator[House]:
    """A house whose backoff is nought, all else as in real life."""
    url = urlsplit(standin.base_url)
    assert url.hostname and url.port
    origin = Origin(url.hostname, url.port, url.scheme == "https", url.path)
    settings = change(Settings(origin, ACCOUNT, Secret(TOKEN)))
    lines: list[str] = []
    handler, logger = _Lines(lines), logging.getLogger("cfchat")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    upstream = Upstream(settings, make_ssl_context(standin.ca_file), chance=lambda: 0.0)
    rooms = App(upstream, app)
    server = Server(rooms.handle, rooms.refuse, limits)
    try:
        _, port = await server.start("127.0.0.1", 0)
        yield House(server, port, lines)
    finally:
        await server.drain(0.5)
        upstream.close()
        logger.removeHandler(handler)
        assert TOKEN not in "\n".join(lines)


def quicker(**seconds: float) -> Callable[[Settings], Settings]:
    """A change of deadlines for `house`."""
    return lambda settings: replace(settings, deadlines=replace(settings.deadlines, **seconds))
