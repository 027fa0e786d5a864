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
from asyncio.constants import ACCEPT_RETRY_DELAY
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from types import coroutine
from typing import Any, NamedTuple, Protocol, SupportsIndex

from cfchat.errors import BodyTooLarge, CfchatError, ExpectationFailed, Incomplete, Overloaded, RequestTimeout
from cfchat.net.deadline import Alarm
from cfchat.server.record import Exchange
from cfchat.wire.bodies import LAST_CHUNK, encode_chunk
from cfchat.wire.fields import Fields
from cfchat.wire.messages import CLOSED, NEED_DATA, Data, EndOfMessage, ReadLimits, RequestHead
from cfchat.wire.reader import RequestReader
from cfchat.wire.writer import encode_fields, encode_response_head

log = logging.getLogger("cfchat.server")

BACKLOG = 1024
READ_SIZE = 64 * 1024
READ_AHEAD = 64 * 1024
WRITE_AHEAD = 32 * 1024  # what a client may have unread, give or take as much again

UNIX = "unix"  # the address of every peer on a unix socket


class Limits(NamedTuple):
    """What one client, and all of them, may cost. Deadlines are in seconds and for the whole thing named."""

    read: ReadLimits = ReadLimits()
    connections: int = 4096
    connections_each: int = 256  # of one address
    head: float = 10.0
    body: float = 30.0
    write: float = 30.0
    keep_alive: float = 75.0
    drain: float = 30.0
    grace: float = 5.0  # to send a request, on a connection that was made just before a drain
    heartbeat: float = 15.0  # of silence in a reply that has one
    linger: float = 2.0
    linger_bytes: int = 4 << 20


class Sink(Protocol):
    """Where pieces of a body may go the moment they are there, while the next one is awaited."""

    def ready(self) -> bool:
        """Whether one may go now: the client's backpressure was looked at not long ago."""

    def take(self, piece: bytes) -> None:
        """Send a piece, when ready."""


@dataclass(slots=True)
class Response:
    """What a handler answers. `body` is bytes, or an async generator of bytes that is sent as it comes.

    A generator that raises cuts the reply: its last chunk is never sent, unless `fail` has words to end it with.
    `heartbeat` is sent between its pieces where none has come for a while. `aclose` is awaited when the reply is
    over, however it ended, even if the body was never begun. `attach` may get a sink before the body is begun, for
    pieces that need not wait for a turn of their task.
    """

    status: int
    fields: Sequence[tuple[str, str]] = ()
    body: bytes | AsyncGenerator[bytes, None] = b""
    aclose: Callable[[], Awaitable[None]] | None = None
    fail: Callable[[CfchatError], bytes] = lambda error: b""
    heartbeat: bytes = b""
    attach: Callable[[Sink], None] = lambda sink: None


class Request:
    """One request, its head read. `notes` is for what the handler wants in the log line.

    `client` is its address, behind trusted proxies, too; `id` is what the log and `X-Request-Id` call it.

    >>> import cfchat
    >>> async def authenticate(request: cfchat.Request) -> str:
    ...     request.notes["agent"] = "app" if request.fields.get("x-app") else "page"
    ...     return ""
    """

    __slots__ = ("_read_body", "client", "fields", "id", "method", "notes", "path")

    def __init__(
        self, head: RequestHead, client: str, request_id: str, read_body: Callable[[int], Awaitable[bytes]]
    ) -> None:
        self.method = head.method
        self.path = head.path
        self.fields: Fields = head.fields
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
Refusal = Callable[[CfchatError, str, Fields | None], Response]


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
    """Serves `handler` until drained; `note` gets what is over.

    `refuse(error, request_id, fields)` words every error; the fields are the request's, None where none was read.
    """

    def __init__(
        self,
        handler: Handler,
        refuse: Refusal,
        limits: Limits = Limits(),
        peers: Peers = Direct(),
        note: Callable[[Exchange], None] = lambda entry: None,
    ) -> None:
        self.handler = handler
        self.note = note
        self.refuse = refuse
        self.peers = peers
        self.limits = limits
        self.draining = False
        self.address = ("", 0)  # listened on
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._counted: Counter[str] = Counter()
        self._servers: list[asyncio.Server] = []
        self._files: _FilesRunOut | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address listened on (port 0 becomes a real one). Raises OSError."""
        self._watch_files()
        server = await asyncio.start_server(self._accept, host, port, limit=READ_SIZE, backlog=BACKLOG)
        self._servers.append(server)
        self.address = server.sockets[0].getsockname()[:2]
        return self.address

    async def start_on(self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None = None) -> None:
        """Listen on sockets that were bound elsewhere, TCP or unix. They are closed with the server."""
        self._watch_files()
        options: dict[str, Any] = {"limit": READ_SIZE, "backlog": BACKLOG}
        if tls is not None:
            waits = {"ssl_handshake_timeout": self.limits.head, "ssl_shutdown_timeout": self.limits.linger}
            options |= {"ssl": tls, **waits}
        for plug in sockets:
            if plug.family in (socket.AF_INET, socket.AF_INET6):
                # For those that it accepts, too. asyncio does so only where a socket knows that its protocol is TCP,
                # which one of socket.create_server does not: words would wait 40 ms for the client's ACK.
                plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            self._servers.append(await asyncio.start_server(self._accept, sock=plug, **options))
        address = sockets[0].getsockname()
        self.address = address[:2] if isinstance(address, tuple) else (os.fsdecode(address), 0)

    def _watch_files(self) -> None:
        if self._files is None:
            self._files = _FilesRunOut.watched(asyncio.get_running_loop())

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain function: a coroutine would be wrapped in a task that asyncio owns, and not we.
        peer = writer.get_extra_info("peername")
        connection = _Connection(self, _Inbound(reader), writer, peer[0] if isinstance(peer, tuple) else UNIX)
        name = self.peers.counted(connection.peer)
        here, there = len(self._connections), 0 if name is None else self._counted[name]
        if here >= 2 * self.limits.connections or there >= 2 * self.limits.connections_each:
            # Those who are told so are still connections, for a while: beyond as many again nobody is told.
            connection.reset()
            return
        if here >= self.limits.connections:
            connection.refusal = Overloaded("Too many connections. Please try again later.", retry_after=1)
        elif there >= self.limits.connections_each:
            connection.refusal = Overloaded("Too many connections from your address.", retry_after=1)
        task = asyncio.get_running_loop().create_task(connection.run())
        connection.task = task
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)
        # A task that is cancelled before its first step closes nothing by itself.
        task.add_done_callback(lambda _: writer.transport.close())
        if name is not None:
            self._counted[name] += 1
            task.add_done_callback(lambda _: self._forget(name))

    def _forget(self, name: str) -> None:
        self._counted[name] -= 1
        if not self._counted[name]:
            del self._counted[name]

    @property
    def connections(self) -> int:
        return len(self._connections)

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
        if self._files is not None:
            self._files.release()
            self._files = None


class _ClientGone(Exception):
    """The client closed the connection, or does not take what it is sent."""


class _Inbound:
    """What the client sends. While it is answered nobody reads: then what comes is handed on as it comes.

    A task that reads would do the same, at the price of a task for each request. The reader is start_server's own, so
    its three ways in are led through here.
    """

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._feed_data, self._feed_eof, self._fail = reader.feed_data, reader.feed_eof, reader.set_exception
        reader.feed_data = self.feed_data  # type: ignore[method-assign]
        reader.feed_eof = self.feed_eof  # type: ignore[method-assign]
        reader.set_exception = self.set_exception  # type: ignore[method-assign]
        self._take: Callable[[bytes], bool] | None = None
        self._leave: Callable[[], None] | None = None
        self._ended = False
        self._kept = False  # bytes are waiting for `read`, so what comes now must wait behind them

    def watch(self, take: Callable[[bytes], bool], leave: Callable[[], None]) -> None:
        """Call `take` with what comes until it says that this is enough, `leave` when the client has left.

        `leave` never before the loop's next turn: a reply that is ready still goes to whoever closed its half.
        """
        self._take, self._leave = take, leave
        if self._ended:
            self._end()

    def stop_watching(self) -> None:
        self._take = self._leave = None

    def release(self) -> None:
        """Give the reader back as it was: two that hold each other are freed late."""
        del self._reader.feed_data, self._reader.feed_eof, self._reader.set_exception

    async def read(self) -> bytes:
        """Some of what is there, at most READ_SIZE; empty at the end. Raises OSError."""
        data = await self._reader.read(READ_SIZE)
        self._kept = len(data) == READ_SIZE
        return data

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        if self._take is not None and not self._kept:
            self._kept = not self._take(bytes(data))
        else:
            self._kept = True
            self._feed_data(data)

    def feed_eof(self) -> None:
        self._feed_eof()
        self._end()

    def set_exception(self, exc: Exception) -> None:
        self._fail(exc)
        self._end()

    def _end(self) -> None:
        self._ended = True
        if self._leave is not None:
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        if self._leave is not None:
            self._leave()


class _Connection:
    """One client: requests in order, one at a time, until either side has had enough."""

    task: asyncio.Task[None]
    refusal: Overloaded | None = None  # to be told at once, whatever is asked

    def __init__(
        self, server: Server, reader: _Inbound, writer: asyncio.StreamWriter, peer: str
    ) -> None:
        self._server = server
        self.limits = server.limits
        self._reader = reader
        self._writer = writer
        self._transport = writer.transport
        self._wire = RequestReader(server.limits.read)
        self._idle = False
        self._fresh = True  # nothing was asked yet
        self.peer = peer
        self.gone = False  # the client is

    def end_if_idle(self, fresh: bool) -> None:
        """Close where no request is under way; one that has asked nothing yet only if `fresh`."""
        if self._idle and (fresh or not self._fresh):
            self._transport.close()

    def reset(self) -> None:
        """End with RST: FIN would make a close-delimited reply look whole (RFC 9112 §8)."""
        plug = self._transport.get_extra_info("socket")
        if plug is not None:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def run(self) -> None:
        self._alarm = Alarm(self.task.cancel)
        try:
            if self.refusal is not None:
                await self._refuse(self.refusal)
            else:
                while await self._exchange():
                    if self._wire.buffered:
                        # Requests sent ahead would all be answered in one turn of the loop.
                        await asyncio.sleep(0)
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
            self._alarm.cancel()
            self._reader.stop_watching()
            self._transport.close()
            await self._until_closed()
            self._reader.release()

    async def _until_closed(self) -> None:
        """The last bytes, and TLS's own end, must have gone out before this process may end; but not for ever."""
        try:
            async with asyncio.timeout(self.limits.write):
                await self._writer.wait_closed()
        except BaseException as error:
            # Not where it has closed by itself: such a transport has no loop any more to abort it.
            self._transport.abort()
            if not isinstance(error, OSError):  # a deadline's TimeoutError is one
                raise

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
        request = Request(head, client, new_id(), lambda limit: self._read_body(head, limit))
        entry = Exchange(request.id, client, head.method, request.path, request.notes)
        try:
            keep = await self._reply(head, request, entry)
        except BaseException as error:
            gone = self.gone or isinstance(error, (_ClientGone, OSError))
            entry.status = 499 if gone else entry.status or 503
            entry.fault = "client gone" if gone else "ended by this server"
            raise
        finally:
            self._server.note(entry)
        self._reader.stop_watching()
        return keep

    async def _reply(self, head: RequestHead, request: Request, entry: Exchange) -> bool:
        response = await self._handle(head, request)
        try:
            if self._wire.body_pending and not head.has_body:
                self._wire.next_event()  # the end of a body that is not there, so nobody need have read it
            keep = head.keep_alive and not self._wire.body_pending and not self._server.draining
            whole = await self._send(head, response, entry, keep)
            if self._wire.body_pending or (not keep and self._wire.buffered):
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
            return self._server.refuse(error, request.id, request.fields)
        except (OSError, _ClientGone):
            raise
        except Exception:
            log.exception("%s handler failed", request.id)
            return self._server.refuse(CfchatError("Something went wrong in this server."), request.id, request.fields)

    async def _refuse(self, error: CfchatError) -> None:
        """Answer what never became a request. Nothing behind it is ever answered."""
        entry = Exchange(new_id(), self.peer, "-", "-", {})
        try:
            await self._send(None, self._server.refuse(error, entry.id, None), entry, keep=False)
            await self._linger()
        finally:
            self._server.note(entry)

    # --- reading ------------------------------------------------------------------------------

    async def _read_head(self) -> RequestHead | None:
        """The next request's head; None where the client left, or never began."""
        try:
            event = self._wire.next_event()
            self._idle = event is NEED_DATA and not self._wire.begun
            patience = self.limits.keep_alive if self._idle else self.limits.head
            if self._idle and self._server.draining:
                if not self._fresh:
                    return None
                patience = self.limits.head
            self._alarm.set(patience)
            while event is NEED_DATA:
                await self._receive()
                event = self._wire.next_event()
                if event is NEED_DATA and self._idle and self._wire.begun:
                    self._idle = False
                    self._alarm.set(self.limits.head)
        except asyncio.CancelledError:
            if not self._alarm.expired or self.task.uncancel():
                raise
            if self._idle:
                return None
            raise RequestTimeout("The request's head did not arrive in time.") from None
        except Incomplete:
            return None
        finally:
            self._alarm.stop()
            self._idle = False
        if event is CLOSED:
            return None
        assert isinstance(event, RequestHead)
        self._fresh = False
        return event

    async def _read_body(self, head: RequestHead, limit: int) -> bytes:
        body = bytearray()
        if not self._take_body(body, limit):
            if head.expects_continue and not body and not self._wire.buffered:
                self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            try:
                async with asyncio.timeout(self.limits.body):
                    whole = False
                    while not whole:
                        await self._receive()
                        await asyncio.sleep(0)  # what has come already is read without a wait: take turns here, too
                        whole = self._take_body(body, limit)
            except TimeoutError:
                raise RequestTimeout("The request's body did not arrive in time.") from None
        # From here on EOF means gone (as in Go's net/http, and nginx).
        self._reader.watch(self._take_ahead, self._leave)
        return bytes(body)

    def _take_body(self, body: bytearray, limit: int) -> bool:
        """Take what is there of the body; whether that is all of it."""
        while type(event := self._wire.next_event()) is Data:
            body += event.data
            if len(body) > limit:
                raise BodyTooLarge(f"The body is over {limit} bytes.")
        return type(event) is EndOfMessage

    async def _receive(self) -> None:
        data = await self._reader.read()
        if data:
            self._wire.receive_data(data)
        else:
            self._wire.receive_eof()

    def _take_ahead(self, data: bytes) -> bool:
        """Keep what belongs to the next request; whether more may come."""
        self._wire.receive_data(data)
        return self._wire.buffered <= READ_AHEAD

    def _leave(self) -> None:
        self.gone = True
        self.task.cancel()

    # --- writing ------------------------------------------------------------------------------

    async def _send(self, head: RequestHead | None, response: Response, entry: Exchange, keep: bool) -> bool:
        """Write the reply; whether it is whole."""
        entry.status = response.status
        body = response.body
        fields = [*response.fields, _NO_SNIFFING]
        bare = head is not None and head.method == "HEAD"
        if isinstance(body, bytes):
            if response.status not in (204, 304):  # a 304 could only tell the length of what it leaves out
                fields.append(("Content-Length", str(len(body))))
            self.write(self._encode_head(entry, fields, keep, head) + (b"" if bare else body))
            entry.began()
            entry.sent += 0 if bare else len(body)
            await self.flush()
            return True
        chunked = head is None or head.minor >= 1
        if chunked:
            fields.append(("Transfer-Encoding", "chunked"))
        prefix = self._encode_head(entry, fields, keep and (chunked or bare), head)
        stream = _Stream(self, response.fail, response.heartbeat, entry, prefix, chunked)
        response.attach(stream)
        async with aclosing(body):
            if bare:
                self.write(prefix)
                return True
            return await stream.send(body) and chunked

    def _encode_head(
        self, entry: Exchange, fields: list[tuple[str, str]], keep: bool, head: RequestHead | None
    ) -> bytes:
        if not keep:
            fields.append(("Connection", "close"))
        elif head is not None and head.minor == 0:
            fields.append(("Connection", "keep-alive"))
        return encode_response_head(entry.status, fields, b"%bX-Request-Id: %b\r\n" % (_date(), entry.id.encode()))

    def write(self, data: bytes) -> None:
        if self._transport.is_closing():
            raise _ClientGone
        self._transport.write(data)

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
        self._reader.stop_watching()
        left = self.limits.linger_bytes
        with suppress(TimeoutError, OSError):
            if self._writer.can_write_eof():
                self._writer.write_eof()
            async with asyncio.timeout(self.limits.linger):
                while left > 0 and (data := await self._reader.read()):
                    left -= len(data)


class _Stream:
    """A reply that goes out as it comes."""

    def __init__(
        self,
        connection: _Connection,
        fail: Callable[[CfchatError], bytes],
        heartbeat: bytes,
        entry: Exchange,
        prefix: bytes,
        chunked: bool,
    ) -> None:
        # Not the response itself: what it has attached holds this stream.
        self._connection = connection
        self._last_words = fail
        self._heartbeat = heartbeat
        self._entry = entry
        self._chunked = chunked
        self._held = [prefix]  # goes out in one write before anything is waited for
        self._pushed = 0  # bytes of the body that are not held any more
        self._flushed = 0  # those behind which the client's backpressure was looked at
        self._loop = asyncio.get_running_loop()
        self._written = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def ready(self) -> bool:
        """See Sink."""
        return self._entry.sent - self._flushed < WRITE_AHEAD

    def take(self, piece: bytes) -> None:
        """See Sink."""
        if piece:
            self._hold(piece)
            try:
                self._push()
            except _ClientGone:
                return  # it stays held, and the task is about to be cancelled

    async def send(self, body: AsyncGenerator[bytes, None]) -> bool:
        """Write all of it; whether it is whole."""
        try:
            await _before_each_wait(self._hold_pieces(body), self._push)
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

    async def _hold_pieces(self, body: AsyncGenerator[bytes, None]) -> None:
        async for piece in body:
            if piece:
                self._hold(piece)
                if self._entry.sent - self._flushed >= WRITE_AHEAD:
                    self._flushed = self._entry.sent
                    self._push()
                    await self._connection.flush()

    def _hold(self, piece: bytes) -> None:
        entry = self._entry
        if self._heartbeat:
            self._written = self._loop.time()
            if not entry.sent:
                self._beat_after(self._connection.limits.heartbeat)
        if not entry.sent:
            entry.began()
        entry.sent += len(piece)
        self._held.append(encode_chunk(piece) if self._chunked else piece)

    def _push(self) -> None:
        """Send what is held. A head alone waits for the first piece."""
        if self._pushed != self._entry.sent:
            self._pushed = self._entry.sent
            self._connection.write(b"".join(self._held))
            self._held.clear()

    def _end(self) -> None:
        self._held.append(LAST_CHUNK if self._chunked else b"")
        self._connection.write(b"".join(self._held))

    def _fail(self, error: CfchatError) -> bool:
        """After the head only the form's own words, or a missing end, can say that something went wrong."""
        self._entry.fault = f"interrupted: {error}"
        words = self._last_words(error)
        if words:
            self._hold(words)
            self._end()
            return True
        self._push()
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
                self._hold(self._heartbeat)
                self._push()
            silent = 0.0
        self._beat_after(pause - silent)


@coroutine
def _before_each_wait(awaitable: Awaitable[None], do: Callable[[], None]) -> Generator[Any, Any, None]:
    """Await it, and `do` something each time before that means to wait. What `do` raises, it gets to see."""
    steps = awaitable.__await__()
    with suppress(StopIteration):
        waits_for = next(steps)
        while True:
            try:
                do()
                sent = yield waits_for
            except BaseException as error:
                waits_for = steps.throw(error)
            else:
                waits_for = steps.send(sent)


class _FilesRunOut:
    """Where accept() finds no file descriptor left, asyncio tries again each second, and logs a thousand lines.

    One exception handler for all servers of a loop tells it once; with the last of them it goes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._previous = loop.get_exception_handler()
        self._servers = 0
        self._told = -inf

    @classmethod
    def watched(cls, loop: asyncio.AbstractEventLoop) -> _FilesRunOut:
        """The handler of the loop, for one server more."""
        found = loop.get_exception_handler()
        handler = found if isinstance(found, cls) else cls(loop)
        handler._servers += 1
        loop.set_exception_handler(handler)
        return handler

    def release(self) -> None:
        self._servers -= 1
        if self._loop.time() - self._told > 2 * ACCEPT_RETRY_DELAY:
            self._restore()
        else:
            self._loop.call_later(2 * ACCEPT_RETRY_DELAY, self._restore)

    def _restore(self) -> None:
        if not self._servers and self._loop.get_exception_handler() is self:
            self._loop.set_exception_handler(self._previous)

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, ValueError) and "_start_serving" in context["message"]:
            return  # it would listen again on what has been closed meanwhile
        if not isinstance(error, OSError) or error.errno not in _NO_FILES or "accept" not in context["message"]:
            (loop.default_exception_handler if self._previous is None else partial(self._previous, loop))(context)
        elif loop.time() - self._told >= ACCEPT_RETRY_DELAY:
            self._told = loop.time()
            log.error("no connection can be accepted: %s; it is tried again each second", error.strerror)


_NO_SNIFFING = ("X-Content-Type-Options", "nosniff")
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


async def _settle() -> None:
    """Let whom the kernel has let in become a connection here: accept, a task, a transport, a protocol, a turn each."""
    for _ in range(5):
        await asyncio.sleep(0)


def new_id() -> str:
    return os.urandom(8).hex()


# Never the locale's. (email.utils knows this, too, and takes as long to import as this whole module.)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_dated: tuple[int, bytes] = (0, b"")


def _date() -> bytes:
    """The Date field, as IMF-fixdate (RFC 9110 §5.6.7); made once a second."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        year, month, day, hour, minute, second, weekday, *_ = time.gmtime(now)
        date = f"{_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year} {hour:02}:{minute:02}:{second:02} GMT"
        _dated = (now, encode_fields([("Date", date)]))
    return _dated[1]
