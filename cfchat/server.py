"""An HTTP/1.1 server on asyncio.start_server: connections, keep-alive, limits, watcher, drain. Knows no chat."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from math import inf
from typing import Any, Protocol

from cfchat.errors import BodyTooLarge, CfchatError, ExpectationFailed, Incomplete, Overloaded, RequestTimeout
from cfchat.observe import Exchange, log_exchange
from cfchat.wire.bodies import LAST_CHUNK, encode_chunk
from cfchat.wire.http11 import (
    CLOSED,
    NEED_DATA,
    Data,
    EndOfMessage,
    Fields,
    ReadLimits,
    RequestHead,
    RequestReader,
    encode_response_head,
)

log = logging.getLogger("cfchat.server")

BACKLOG = 1024
READ_SIZE = 64 * 1024
READ_AHEAD = 64 * 1024
WRITE_AHEAD = 64 * 1024

UNIX = "unix"  # the address of every peer on a unix socket


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, and all of them, may cost. Deadlines are in seconds and for the whole thing named."""

    read: ReadLimits = field(default_factory=ReadLimits)
    connections: int = 4096
    connections_each: int = 256  # of one address
    head: float = 10.0
    body: float = 30.0
    write: float = 30.0
    keep_alive: float = 75.0
    drain: float = 30.0
    grace: float = 1.0  # to send a request, on a connection that was made just before a drain
    heartbeat: float = 15.0  # of silence in a reply that has one
    linger: float = 2.0
    linger_bytes: int = 4 << 20


@dataclass(slots=True)
class Response:
    """What a handler answers. `body` is bytes, or an async generator of bytes that is sent as it comes.

    A generator that raises cuts the reply: its last chunk is never sent, unless `fail` has words to end it with.
    `heartbeat` is sent between its pieces where none has come for a while. `aclose` is awaited when the reply is
    over, however it ended, even if the body was never begun.
    """

    status: int
    fields: Sequence[tuple[str, str]] = ()
    body: bytes | AsyncGenerator[bytes, None] = b""
    aclose: Callable[[], Awaitable[None]] | None = None
    fail: Callable[[CfchatError], bytes] = lambda error: b""
    heartbeat: bytes = b""


class Request:
    """One request, its head read. `notes` is for what the handler wants in the log line."""

    __slots__ = ("_read_body", "bodiless", "client", "fields", "id", "method", "notes", "path")

    def __init__(
        self, head: RequestHead, client: str, request_id: str, read_body: Callable[[int], Awaitable[bytes]]
    ) -> None:
        self.method = head.method
        self.path = head.path
        self.fields: Fields = head.fields
        self.bodiless = head.bodiless
        self.client = client
        self.id = request_id
        self.notes: dict[str, object] = {}
        self._read_body = read_body

    async def read_body(self, limit: int = 1 << 20) -> bytes:
        """The whole body, at most `limit` bytes.

        Raises BodyTooLarge, RequestTimeout, and other ProtocolErrors where its framing is broken.
        """
        return await self._read_body(limit)


Handler = Callable[[Request], Awaitable[Response]]
Refusal = Callable[[CfchatError, str], Response]


class Peers(Protocol):
    """Who is behind the address that a connection comes from."""

    def client(self, peer: str, fields: Fields) -> str:
        """The address of the client that sent these fields."""

    def counted(self, peer: str) -> str | None:
        """The name under which the peer's connections are counted; None where they are not."""


class Direct:
    """Peers that are the clients themselves."""

    def client(self, peer: str, fields: Fields) -> str:
        return peer

    def counted(self, peer: str) -> str | None:
        return peer


class Server:
    """Serves `handler` until drained. `refuse(error, request_id)` words every error as a Response.
"""

    def __init__(
        self,
        handler: Handler,
        refuse: Refusal,
        limits: Limits = Limits(),
        peers: Peers = Direct(),
    ) -> None:
        self.handler = handler
        self.refuse = refuse
        self.peers = peers
        self.limits = limits
        self.draining = False
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._counted: Counter[str] = Counter()
        self._servers: list[asyncio.Server] = []

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address listened on (port 0 becomes a real one). Raises OSError."""
        _tell_once_of_too_many_files(asyncio.get_running_loop())
        server = await asyncio.start_server(self._accept, host, port, limit=READ_SIZE, backlog=BACKLOG)
        self._servers.append(server)
        address = server.sockets[0].getsockname()
        return address[0], address[1]

    async def start_on(self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None = None) -> None:
        """Listen on sockets that were bound elsewhere, TCP or unix. They are closed with the server."""
        _tell_once_of_too_many_files(asyncio.get_running_loop())
        options: dict[str, Any] = {"limit": READ_SIZE, "backlog": BACKLOG}
        if tls is not None:
            waits = {"ssl_handshake_timeout": self.limits.head, "ssl_shutdown_timeout": self.limits.linger}
            options |= {"ssl": tls, **waits}
        for plug in sockets:
            self._servers.append(await asyncio.start_server(self._accept, sock=plug, **options))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain function: a coroutine would be wrapped in a task that asyncio owns, and not we.
        peer = writer.get_extra_info("peername")
        connection = _Connection(self, reader, writer, peer[0] if isinstance(peer, tuple) else UNIX)
        name = self.peers.counted(connection.peer)
        if len(self._connections) >= self.limits.connections:
            connection.refusal = Overloaded("Too many connections. Please try again later.", retry_after=1)
        elif name is not None and self._counted[name] >= self.limits.connections_each:
            connection.refusal = Overloaded("Too many connections from your address.", retry_after=1)
        task = asyncio.get_running_loop().create_task(connection.run())
        connection.task = task
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)
        if name is not None:
            self._counted[name] += 1
            task.add_done_callback(lambda _: self._forget(name))

    def _forget(self, name: str) -> None:
        self._counted[name] -= 1
        if not self._counted[name]:
            del self._counted[name]

    async def drain(self, seconds: float | None = None) -> None:
        """Stop accepting, let replies under way finish for `seconds`, then end what is left."""
        loop = asyncio.get_running_loop()
        end = loop.time() + (self.limits.drain if seconds is None else seconds)
        self.draining = True
        await _settle()
        for server in self._servers:
            for plug in server.sockets:
                loop.remove_reader(plug.fileno())
        await _settle()  # before the close: asyncio drops whom it has accepted and not yet given us
        self._stop_accepting()
        self._end_idle(fresh=False)
        # In two steps: where this process was held up itself, what has come meanwhile is read between them.
        for _ in range(2):
            await self._until_over(min(end, loop.time() + self.limits.grace / 2))
        self._end_idle(fresh=True)
        await self._until_over(end)
        await self.abort()

    def _end_idle(self, fresh: bool) -> None:
        for connection in self._connections.values():
            connection.end_if_idle(fresh)

    async def _until_over(self, end: float) -> None:
        """Wait for all connections: again and again, since a TLS handshake may end, and become one, meanwhile."""
        loop = asyncio.get_running_loop()
        while self._connections and (left := end - loop.time()) > 0:
            await asyncio.wait(set(self._connections), timeout=left)

    async def abort(self) -> None:
        """End every connection now."""
        self._stop_accepting()
        tasks = set(self._connections)
        for task in tasks:
            task.cancel()
        if tasks:
            log.warning("ended %d connections that were still busy", len(tasks))
            await asyncio.wait(tasks)

    def _stop_accepting(self) -> None:
        self.draining = True
        for server in self._servers:
            server.close()


class _ClientGone(Exception):
    """The client closed the connection, or does not take what it is sent."""


class _Connection:
    """One client: requests in order, one at a time, until either side has had enough."""

    task: asyncio.Task[None]
    refusal: Overloaded | None = None  # to be told at once, whatever is asked

    def __init__(
        self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str
    ) -> None:
        self._server = server
        self.limits = server.limits
        self._reader = reader
        self._writer = writer
        self._transport = writer.transport
        self._wire = RequestReader(server.limits.read)
        self._watcher: asyncio.Task[None] | None = None
        self._idle = False
        self._fresh = True  # nothing was asked yet
        self.peer = peer
        self.gone = False  # the client is

    def end_if_idle(self, fresh: bool) -> None:
        """Close where no request is under way; one that has asked nothing yet only if `fresh`."""
        if self._idle and (fresh or not self._fresh):
            self._transport.close()

    async def run(self) -> None:
        try:
            if self.refusal is not None:
                await self._refuse(self.refusal)
            else:
                while await self._exchange():
                    pass
        except (_ClientGone, OSError):
            self._transport.abort()
        except asyncio.CancelledError:
            self._transport.abort()
            if not self.gone or self.task.uncancel():
                raise
        except Exception:
            log.exception("connection from %s failed", self.peer)
            self._transport.abort()
        finally:
            await self._stop_watching()
            self._transport.close()
            await self._until_closed()

    async def _until_closed(self) -> None:
        """The last bytes, and TLS's own end, must have gone out before this process may end."""
        try:
            with suppress(OSError):  # a deadline's TimeoutError is one
                async with asyncio.timeout(self.limits.write):
                    await self._writer.wait_closed()
        finally:
            self._transport.abort()

    # --- one exchange -------------------------------------------------------------------------

    async def _exchange(self) -> bool:
        """One request and its reply; whether another may follow."""
        try:
            head = await self._read_head()
        except CfchatError as error:
            await self._refuse(error)
            return False
        if head is None:
            return False
        client = self._server.peers.client(self.peer, head.fields)
        request = Request(head, client, _new_id(), lambda limit: self._read_body(head, limit))
        entry = Exchange(request.id, client, head.method, head.path, request.notes)
        try:
            keep = await self._reply(head, request, entry)
        except BaseException as error:
            gone = self.gone or isinstance(error, (_ClientGone, OSError))
            entry.status = 499 if gone else entry.status or 503
            entry.fault = "client gone" if gone else "ended by this server"
            raise
        finally:
            log_exchange(entry)
        await self._stop_watching()
        return keep

    async def _reply(self, head: RequestHead, request: Request, entry: Exchange) -> bool:
        response = await self._handle(head, request)
        try:
            if self._wire.body_pending and head.bodiless:
                self._wire.next_event()  # its end, which nobody had to wait for
            keep = head.keep_alive and not self._wire.body_pending and not self._server.draining
            whole = await self._send(head, response, entry, keep)
            if self._wire.body_pending:
                await self._linger()
            return keep and whole
        finally:
            if response.aclose is not None:
                await response.aclose()

    async def _handle(self, head: RequestHead, request: Request) -> Response:
        try:
            if head.expects_something_else:
                raise ExpectationFailed("Nothing but `Expect: 100-continue` can be expected of this server.")
            return await self._server.handler(request)
        except CfchatError as error:
            if isinstance(error, Incomplete):
                raise _ClientGone from error
            return self._server.refuse(error, request.id)
        except (OSError, _ClientGone):
            raise
        except Exception:
            log.exception("%s handler failed", request.id)
            return self._server.refuse(CfchatError("Something went wrong in this server."), request.id)

    async def _refuse(self, error: CfchatError) -> None:
        """Answer what never became a request. Nothing behind it is ever answered."""
        entry = Exchange(_new_id(), self.peer, "-", "-", {})
        try:
            await self._send(None, self._server.refuse(error, entry.id), entry, keep=False)
            await self._linger()
        finally:
            log_exchange(entry)

    # --- reading ------------------------------------------------------------------------------

    async def _read_head(self) -> RequestHead | None:
        """The next request's head; None where the client left, or never began."""
        self._idle = not self._wire.buffered
        patience = self.limits.keep_alive if self._idle else self.limits.head
        if self._idle and self._server.draining:
            if not self._fresh:
                return None
            patience = self.limits.head
        try:
            async with asyncio.timeout(patience) as deadline:
                while (event := self._wire.next_event()) is NEED_DATA:
                    await self._receive()
                    if self._idle and self._wire.buffered:
                        self._idle = False
                        deadline.reschedule(asyncio.get_running_loop().time() + self.limits.head)
        except TimeoutError:
            if self._idle:
                return None
            raise RequestTimeout("The request's head did not arrive in time.") from None
        except Incomplete:
            return None
        finally:
            self._idle = False
        if event is CLOSED:
            return None
        assert isinstance(event, RequestHead)
        self._fresh = False
        return event

    async def _read_body(self, head: RequestHead, limit: int) -> bytes:
        pieces: list[bytes] = []
        expects, size = head.expects_continue, 0
        try:
            async with asyncio.timeout(self.limits.body):
                while type(event := self._wire.next_event()) is not EndOfMessage:
                    if type(event) is Data:
                        size += len(event.data)
                        if size > limit:
                            raise BodyTooLarge(f"The body is over {limit} bytes.")
                        pieces.append(event.data)
                        continue
                    if expects and not pieces and not self._wire.buffered:
                        self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    expects = False
                    await self._receive()
        except TimeoutError:
            raise RequestTimeout("The request's body did not arrive in time.") from None
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return b"".join(pieces)

    async def _receive(self) -> None:
        data = await self._reader.read(READ_SIZE)
        if data:
            self._wire.receive_data(data)
        else:
            self._wire.receive_eof()

    async def _watch(self) -> None:
        """Read the client while it is answered: EOF means gone (as in Go's net/http, and nginx)."""
        with suppress(OSError):
            while data := await self._reader.read(READ_SIZE):
                self._wire.receive_data(data)
                if self._wire.buffered > READ_AHEAD:
                    return
        self.gone = True
        self.task.cancel()

    async def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
            self._watcher = None

    # --- writing ------------------------------------------------------------------------------

    async def _send(self, head: RequestHead | None, response: Response, entry: Exchange, keep: bool) -> bool:
        """Write the reply; whether it is whole."""
        entry.status = response.status
        body = response.body
        fields = [*response.fields, ("Date", _date()), ("X-Request-Id", entry.id)]
        fields.append(("X-Content-Type-Options", "nosniff"))
        bare = head is not None and head.method == "HEAD"
        if isinstance(body, bytes):
            if response.status not in (204, 304):  # a 304 could only tell the length of what it leaves out
                fields.append(("Content-Length", str(len(body))))
            self.write(self._encode_head(response.status, fields, keep, head) + (b"" if bare else body))
            entry.began()
            entry.sent += 0 if bare else len(body)
            await self.flush()
            return True
        chunked = head is None or head.minor >= 1
        if chunked:
            fields.append(("Transfer-Encoding", "chunked"))
        prefix = self._encode_head(response.status, fields, keep and chunked, head)
        stream = _Stream(self, response, entry, prefix, chunked)
        async with aclosing(body):
            return await stream.send(body) and chunked

    def reset(self) -> None:
        """End with RST: FIN would make a close-delimited reply look whole (RFC 9112 §8)."""
        plug = self._transport.get_extra_info("socket")
        if plug is not None:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _encode_head(
        self, status: int, fields: list[tuple[str, str]], keep: bool, head: RequestHead | None
    ) -> bytes:
        if not keep:
            fields.append(("Connection", "close"))
        elif head is not None and head.minor == 0:
            fields.append(("Connection", "keep-alive"))
        return encode_response_head(status, fields)

    def write(self, data: bytes) -> None:
        if self._transport.is_closing():
            raise _ClientGone
        self._writer.write(data)

    async def flush(self) -> None:
        """Backpressure: wait while the client has too much unread, but not for ever."""
        if self._transport.get_write_buffer_size() < WRITE_AHEAD:
            return
        try:
            async with asyncio.timeout(self.limits.write):
                await self._writer.drain()
        except TimeoutError:
            raise _ClientGone from None

    async def _linger(self) -> None:
        """Let the client read its refusal before the kernel's RST destroys it (RFC 9112 §9.6)."""
        left = self.limits.linger_bytes
        with suppress(TimeoutError, OSError):
            if self._writer.can_write_eof():
                self._writer.write_eof()
            async with asyncio.timeout(self.limits.linger):
                while left > 0 and (data := await self._reader.read(READ_SIZE)):
                    left -= len(data)


class _Stream:
    """A reply that goes out as it comes."""

    def __init__(
        self, connection: _Connection, response: Response, entry: Exchange, prefix: bytes, chunked: bool
    ) -> None:
        self._connection = connection
        self._response = response
        self._entry = entry
        self._prefix = prefix
        self._chunked = chunked
        self._loop = asyncio.get_running_loop()
        self._written = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def send(self, body: AsyncGenerator[bytes, None]) -> bool:
        """Write all of it; whether it is whole."""
        try:
            async for piece in body:
                if piece:
                    self._write(piece)
                    await self._connection.flush()
        except CfchatError as error:
            return self._fail(error)
        except asyncio.CancelledError:
            if not self._connection.gone:
                self._fail(Overloaded("This server is stopping."))
            raise
        except (OSError, _ClientGone):
            raise
        except Exception:
            log.exception("%s reply failed", self._entry.id)
            return self._fail(CfchatError("Something went wrong in this server."))
        finally:
            if self._timer is not None:
                self._timer.cancel()
        self._end()
        await self._connection.flush()
        return True

    def _write(self, piece: bytes) -> None:
        entry = self._entry
        if not entry.sent:
            entry.began()
            if self._response.heartbeat:
                self._beat_after(self._connection.limits.heartbeat)
        entry.sent += len(piece)
        self._written = self._loop.time()
        self._connection.write(self._prefix + (encode_chunk(piece) if self._chunked else piece))
        self._prefix = b""

    def _end(self) -> None:
        self._connection.write(self._prefix + (LAST_CHUNK if self._chunked else b""))

    def _fail(self, error: CfchatError) -> bool:
        """After the head only the form's own words, or a missing end, can say that something went wrong."""
        self._entry.fault = f"interrupted: {error}"
        words = self._response.fail(error)
        if words:
            self._write(words)
            self._end()
            return True
        if not self._chunked:
            self._connection.reset()
        return False

    def _beat_after(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._beat)

    def _beat(self) -> None:
        """One timer a reply, never moved: it looks for how long nothing was written."""
        pause = self._connection.limits.heartbeat
        silent = self._loop.time() - self._written
        if silent >= pause:
            with suppress(_ClientGone):
                self._write(self._response.heartbeat)
            silent = 0.0
        self._beat_after(pause - silent)


def _tell_once_of_too_many_files(loop: asyncio.AbstractEventLoop) -> None:
    """Where accept() finds no file descriptor left, asyncio tries again each second, and logs a thousand lines."""
    previous, told = loop.get_exception_handler(), -inf

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal told
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _NO_FILES or "accept" not in context["message"]:
            (loop.default_exception_handler if previous is None else partial(previous, loop))(context)
        elif loop.time() - told >= 1:
            told = loop.time()
            log.error("no connection can be accepted: %s; it is tried again each second", error.strerror)

    loop.set_exception_handler(handle)


_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


async def _settle() -> None:
    """Let whom the kernel has let in become a connection here: accept, a task, a transport, a protocol, a turn each."""
    for _ in range(5):
        await asyncio.sleep(0)


def _new_id() -> str:
    return os.urandom(8).hex()


_dated: tuple[int, str] = (0, "")


def _date() -> str:
    """IMF-fixdate (RFC 9110 §5.6.7), made once a second."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = (now, formatdate(now, usegmt=True))
    return _dated[1]
