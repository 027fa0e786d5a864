"""One request as a handler gets it, and what is known of its client: limits, and the peers before it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from cfchat.errors import BodyTooLarge, Incomplete
from cfchat.wire.fields import Fields
from cfchat.wire.messages import ReadLimits, RequestHead


class Limits(NamedTuple):
    """What one client, and all of them, may cost. Deadlines are in seconds, and for the whole thing they name."""

    read: ReadLimits = ReadLimits()
    connections: int = 4096
    connections_each: int = 256  # of one address
    most: int | None = None  # connections of all kinds, if files are few: others wait to be accepted
    head: float = 10.0  # a TLS handshake before it included
    body: float = 30.0
    write: float = 30.0
    keep_alive: float = 75.0
    drain: float = 30.0
    grace: float = 5.0  # to send a request, on a connection that was made just before a drain
    heartbeat: float = 15.0  # of silence in a reply that has heartbeats
    linger: float = 2.0
    linger_bytes: int = 4 << 20


class Request:
    """One request, its head read. `notes` is for what the handler wants in the log line.

    `client` is the client's address, also behind trusted proxies; `id` is what the log and `X-Request-Id` call it;
    `secure` says whether it came over TLS, and `max_body` is the limit of the body in bytes. `on_body` is called with
    the number of bytes that are kept of the body, whenever it changes; it may raise an error to refuse more of them.

    >>> import cfchat
    >>> async def authenticate(request: cfchat.Request) -> str:
    ...     request.notes["agent"] = "app" if request.fields.get("x-app") else "page"
    ...     return ""
    """

    __slots__ = (
        *("_body", "_read_body", "_received", "_target", "_turn", "awaits_body", "client", "fields", "goes_on"),
        *("id", "max_body", "method", "notes", "on_body", "path", "secure"),
    )

    def __init__(
        self,
        head: RequestHead,
        client: str,
        request_id: str,
        read_body: Callable[[Callable[[bytes], None]], Awaitable[None]],
        secure: bool = False,
    ) -> None:
        """`read_body(take)` calls `take` with each further piece of the body, until its end."""
        self.method = head.method
        self.path = head.path
        self._target = head.target
        self.fields: Fields = head.fields
        self.client = client
        self.id = request_id
        self.secure = secure
        self.notes: dict[str, object] = {}
        self.max_body = 1 << 20
        self.awaits_body = False  # it was asked for, and has not come
        self.goes_on = False  # what it asks is kept beyond the handler, also if the client leaves
        self.on_body: Callable[[int], None] | None = None
        self._read_body = read_body
        self._received: bytearray | None = bytearray()  # None once `_body` is whole
        self._body = b""
        self._turn = asyncio.Lock()

    @property
    def query(self) -> str:
        """The query of the target, as it was sent; empty if there is none."""
        return self._target.partition("?")[2]

    async def read_body(self, limit: int | None = None) -> bytes:
        """Return the whole body, at most `limit` bytes (default: `max_body`); the same each time it is asked for.

        A caller that is cancelled loses none of it, and several may wait for it together.

        Raises:
            BodyTooLarge: it is over the limit.
            RequestTimeout: it did not come in time.
            ProtocolError: its framing is broken, or the client left (Incomplete).
        """
        limit = self.max_body if limit is None else limit
        async with self._turn:
            if (received := self._received) is not None:
                self.awaits_body = True

                def take(piece: bytes) -> None:
                    nonlocal received
                    received += piece
                    size = len(received)
                    if size > limit:
                        raise BodyTooLarge(f"The body is over {limit} bytes.")
                    if self.on_body is not None:
                        self.on_body(size)

                try:
                    await self._read_body(take)
                except OSError as error:
                    raise Incomplete("The client left.") from error
                self._body, self._received = bytes(received), None
                self.awaits_body = False
            if self._body[limit:]:
                raise BodyTooLarge(f"The body is over {limit} bytes.")
            return self._body

    def keep(self, size: int) -> None:
        """Let the body go, because so many bytes are kept in its place. Nobody may read it again."""
        self._body, self._received = b"", None
        if self.on_body is not None:
            self.on_body(size)


class ClientGone(Exception):
    """The client closed the connection, or does not take what it is sent."""


def new_id() -> str:
    """Return a name for one request: 16 hex digits."""
    return os.urandom(8).hex()


class Peers(Protocol):
    """Which client is behind the address that a connection comes from."""

    def client(self, peer: str, fields: Fields) -> str:
        """Return the address of the client that sent these fields."""

    def counted(self, peer: str) -> str | None:
        """Return the name under which the peer's connections are counted; None if they are not."""


class Direct:
    """Peers that are the clients themselves."""

    def client(self, peer: str, fields: Fields) -> str:
        """Return the peer's own address."""
        return peer

    def counted(self, peer: str) -> str | None:
        """Return the peer's own address."""
        return peer
