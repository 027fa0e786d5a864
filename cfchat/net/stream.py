"""Bytes to and from a host: TCP, and as many layers of TLS over it as are asked for.

asyncio's own TLS holds a buffer of 256 KiB for each connection, and hands a read on in many calls. Here OpenSSL works
on memory: what the socket gives goes in, what it means comes out, and nothing is kept that the reader has taken.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
import threading
from collections.abc import Callable

READ_SIZE = 64 * 1024  # also what may lie unread before the socket is left alone
# Of one record (RFC 8446 §5.1): a read with more room takes a record whole, and leaves nothing inside OpenSSL.
assert READ_SIZE > 1 << 14


class Layer:
    """TLS without a socket (`ssl.MemoryBIO`): records in, their meaning out, and the other way round."""

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()  # also what TLS says for itself: alerts, the answer to a key update
        self.tls = context.wrap_bio(self._incoming, self.outgoing, server_hostname=name)
        self.ended = False  # by close_notify
        self.fault: ssl.SSLError | None = None  # behind all that was given

    def shake(self, data: bytes) -> bool:
        """A step of the handshake, whether it was the last. Raises ssl.SSLError."""
        self._incoming.write(data)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def receive(self, data: bytes | memoryview) -> bytes:
        """What the records say that are complete with these bytes. See `ended` and `fault`."""
        self._incoming.write(data)
        pieces = []
        try:
            while self._incoming.pending:
                piece = self.tls.read(READ_SIZE)
                if not piece:
                    self.ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.fault = error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def protect(self, data: bytes) -> bytes:
        """The records for these bytes. They never wait for the peer: it may not ask to negotiate anew."""
        self.tls.write(data)
        return self.outgoing.read()

    def take(self) -> bytes:
        return self.outgoing.read()


_own = threading.local()


def _shared_buffer() -> memoryview:
    """One for all streams of a thread: its loop reads one after the other, and what was read is taken at once.

    A plain Protocol is given new bytes of 256 KiB for each read, and has the kernel make and take back their pages.
    """
    if not hasattr(_own, "buffer"):
        _own.buffer = memoryview(bytearray(READ_SIZE))
    buffer: memoryview = _own.buffer
    return buffer


class Stream(asyncio.BufferedProtocol):
    """A connection as asyncio's create_connection makes it. One reader at a time.

    While it is `idle` nothing is expected: what comes then or is left from before, the end, too, makes it `disturbed`.
    `taker` is offered what comes while `read` is awaited, and says whether it took it: then nobody is woken. What it
    raises ends the connection.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.idle = False
        self.disturbed = False
        self.taker: Callable[[bytes], bool] | None = None
        self._lost = False
        self._buffer = _shared_buffer()
        self._layers: list[Layer] = []  # the first is next to TCP
        self._unread = b""
        self._paused = False
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def closing(self) -> bool:
        """Whether it is lost, or about to be."""
        return self._lost or self.transport.is_closing()

    @property
    def peername(self) -> tuple[str, int] | None:
        """Address and port, and whatever else the family has; None once the connection is lost."""
        return None if self._lost else self.transport.get_extra_info("peername")

    @property
    def tls_version(self) -> str | None:
        """`TLSv1.3` for one; None for plain TCP."""
        return self._layers[-1].tls.version() if self._layers else None

    async def read(self) -> bytes:
        """All that is there, at least a byte; empty at the end, with or without close_notify. Raises OSError."""
        if not self._unread and not self._ended:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data, self._unread = self._unread, b""
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if not data and self._error is not None:
            raise self._error
        return data

    def write(self, data: bytes) -> None:
        """Send; nothing is waited for, and nothing raised where the connection is lost."""
        self._send(data, len(self._layers))

    def rest(self) -> None:
        """Be idle, until somebody sets it otherwise."""
        self.taker = None
        self.idle = True
        self.disturbed |= bool(self._unread) or self._ended

    def abort(self) -> None:
        """End now: what is not sent yet never is."""
        if not self._lost:  # a transport that is closed by both ends has no loop any more to abort it
            self.transport.abort()

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Speak TLS from here on, inside whatever is spoken already.

        What came before is taken for TLS, too: nothing that was not protected is ever read as what TLS gave.
        Raises OSError, among them ssl.SSLError.
        """
        layer, below = Layer(context, name), len(self._layers)
        data, self._unread = self._unread, b""
        try:
            while not layer.shake(data):
                self._send(layer.take(), below)
                data = await self.read()
                if not data:
                    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        finally:
            self._send(layer.take(), below)
        self._layers.append(layer)
        self._deliver(b"", below)

    # --- of asyncio.BufferedProtocol --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = self._buffer[:nbytes]
        self._deliver(data if self._layers else bytes(data), 0)

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._end(error)

    # --- within -----------------------------------------------------------------------------------

    def _deliver(self, data: bytes | memoryview, start: int) -> None:
        """Pass bytes up through the layers from `start` on, and wake the reader."""
        layers = self._layers
        for depth in range(start, len(layers)):
            layer = layers[depth]
            data = layer.receive(data)
            if layer.outgoing.pending:
                self._send(layer.take(), depth)
        if data:
            assert isinstance(data, bytes)
            self.disturbed |= self.idle
            awaited = self._waiter is not None and not self._waiter.done()
            if self.taker is None or not awaited or not self.taker(data):
                self._keep(data)
        for layer in layers:
            if layer.ended or layer.fault:
                self._end(layer.fault)

    def _keep(self, data: bytes) -> None:
        self._unread = self._unread + data if self._unread else data
        if len(self._unread) > READ_SIZE and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def _send(self, data: bytes, layers: int) -> None:
        for depth in range(layers - 1, -1, -1):
            data = self._layers[depth].protect(data)
        if data:
            self.transport.write(data)

    def _end(self, error: Exception | None) -> None:
        self.disturbed |= self.idle
        if not self._ended:
            self._ended, self._error = True, error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
