"""A server by itself, on real sockets, with a handler that knows no chat; and a client that sees bytes."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from places import CERTS

from cfchat.errors import CfchatError
from cfchat.ops.logs import log_request
from cfchat.server.connection import Connection
from cfchat.server.reply import Handler, Refusal, Reply
from cfchat.server.request import Direct, Limits, Peers, Request
from cfchat.server.server import Certified, Server
from cfchat.wire.fields import Fields

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def refuse(error: CfchatError, request_id: str, fields: Fields | None) -> Refusal:
    return Refusal(error.status, (), json.dumps({"error": {"code": error.code}}).encode())


async def echo(request: Request, reply: Reply) -> None:
    reply.send(200, (), await request.read_body(100) or b"empty")


async def deaf(request: Request, reply: Reply) -> None:
    """Answer without a look at the body."""
    reply.send(200, (), b"deaf")


class Paced:
    """A source of pieces that waits while it is asked to."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.may.set()
        self.pauses = 0

    def pause(self) -> None:
        self.pauses += 1
        self.may.clear()

    def resume(self) -> None:
        self.may.set()


class Localhost:
    """A certificate that is never renewed."""

    def __init__(self) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(CERTS / "localhost.pem")


def trusting() -> ssl.SSLContext:
    """What a client of that certificate needs."""
    return ssl.create_default_context(cafile=str(CERTS / "ca.pem"))


@asynccontextmanager
async def serving(
    handler: Handler = echo, limits: Limits = Limits(), peers: Peers = Direct(), tls: Certified | None = None
) -> AsyncIterator[tuple[Server, int]]:
    server = Server(handler, refuse, limits, peers, log_request)
    if tls is None:
        await server.start("127.0.0.1", 0)
    else:
        await server.start_on([socket.create_server(("127.0.0.1", 0))], tls)
    try:
        yield server, server.address[1]
    finally:
        await server.drain(0.2)


async def talk(port: int, *writes: bytes) -> bytes:
    """Send, read to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for data in writes:
        writer.write(data)
        await writer.drain()
    try:
        return await reader.read()
    finally:
        writer.close()


def codes(received: bytes) -> list[int]:
    """The status of each reply in a row of replies."""
    return [int(part.split()[0]) for part in received.split(b"HTTP/1.1 ")[1:]]


def the_connection(server: Server) -> Connection:
    """The only one that there is."""
    (connection,) = server._connections.values()
    return connection
