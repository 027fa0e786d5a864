"""Bytes over one socket, for both doors: clients come in by it, and Cloudflare is asked by it. Knows no HTTP.

asyncio's own TLS holds a buffer of 256 KiB for each connection. Here OpenSSL works on memory (`Layer`): records from
the socket go in, plain bytes come out, and nothing is kept that has been taken. To asyncio a Stream is plain TCP. Each
`start_tls` adds a layer of TLS: one for an origin or a client, a second one inside the tunnel of an HTTPS proxy.

What comes is either pulled (`read`) or pushed (`push`): a Stream that pushes calls its receiver in the very call in
which asyncio delivers the bytes. `pause` and `resume` are the backpressure, in both cases.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable

from cfchat.net.tls import Layer

READ_SIZE = 64 * 1024  # also how much may wait unread before the socket is left alone
# What waits to be sent before the writer is asked to pause.
WRITE_AHEAD = 32 * 1024
SIOCOUTQNSD = 0x894B  # of Linux: bytes not yet sent


_own = threading.local()


def _shared_buffer() -> memoryview:
    """Return the one read buffer of this thread. All streams of a loop share it, because each copies its bytes at once.

    asyncio gives a plain Protocol a new buffer of 256 KiB for each read, whose pages the kernel must make and free.
    """
    if not hasattr(_own, "buffer"):
        _own.buffer = memoryview(bytearray(READ_SIZE))
    buffer: memoryview = _own.buffer
    return buffer


class Stream(asyncio.BufferedProtocol):
    """One connection. `half_open`: our side may go on writing after the peer has ended its own.

    A stream that is `idle` expects nothing. If bytes come, or the end, it is `disturbed` and closes. It is `disturbed`,
    too, if bytes were unread or unsent when it became idle. `on_pressure(True)` is called once the peer takes less than
    is written, and `on_pressure(False)` once it has caught up.
    """

    transport: asyncio.Transport

    def __init__(self, half_open: bool = False) -> None:
        self.idle = False
        self.disturbed = False
        self.on_pressure: Callable[[bool], None] | None = None
        self.full = False  # the peer takes less than is written
        self._half_open = half_open
        self._lost = False
        self._sent_end = False  # of our half
        self._buffer = _shared_buffer()
        self._layers: list[Layer] = []  # the first is next to TCP
        self._unread = b""
        self._receive: Callable[[bytes], None] | None = None
        self._on_end: Callable[[], None] | None = None
        self._paused = False
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._closed: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def closing(self) -> bool:
        """Whether the connection is lost, or about to be."""
        return self._lost or self.transport.is_closing()

    @property
    def peername(self) -> tuple[str, int] | None:
        """Address and port, and whatever else the family has; None once the connection is lost."""
        return None if self._lost else self.transport.get_extra_info("peername")

    @property
    def tls_version(self) -> str | None:
        """`TLSv1.3` for one; None for plain TCP."""
        return self._layers[-1].tls.version() if self._layers else None

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The innermost TLS, which knows certificate and protocol; None for plain TCP."""
        return self._layers[-1].tls if self._layers else None

    # --- reading ------------------------------------------------------------------------------

    async def read(self) -> bytes:
        """Return all that is there, at least a byte; nothing at the end, with or without close_notify.

        Raises:
            OSError: the connection broke.
        """
        if not self._unread and not self._ended:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data, self._unread = self._unread, b""
        if self._paused:
            self.resume()
        if not data and self._error is not None:
            raise self._error
        return data

    def push(self, receive: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        """Give `receive` what waits unread and whatever comes, until `pull`; call `on_end` when no more can come.

        `on_end` is called in a turn of the loop of its own: a reply that is ready still goes to a client that has
        closed its sending half.
        """
        self._receive, self._on_end = receive, on_end
        if self._paused:
            self.resume()
        if self._unread:
            data, self._unread = self._unread, b""
            receive(data)
        if self._ended:
            self._tell_end_soon()

    def pull(self) -> None:
        """Keep what comes for `read`, from now on."""
        self._receive = self._on_end = None

    def pause(self) -> None:
        """Leave what comes to the kernel, which slows the peer down."""
        if not self._paused and not self.closing:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            if not self.closing:
                self.transport.resume_reading()

    @property
    def error(self) -> Exception | None:
        """Why the stream ended; None for a plain end."""
        return self._error

    # --- writing ------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send these bytes. Nothing is waited for, and nothing is raised if the connection is lost."""
        self._send(data, len(self._layers))

    @property
    def unsent(self) -> int:
        """How many bytes wait for the peer to take them."""
        return 0 if self._lost else self.transport.get_write_buffer_size()

    def end_sending(self) -> None:
        """End our half: close_notify and FIN, behind what was written."""
        if not self.closing:
            for depth in range(len(self._layers) - 1, -1, -1):
                self._send(self._layers[depth].end(), depth)
            self._sent_end = True  # TLS may still want to answer a key update: nothing can be written any more
            if self.transport.can_write_eof():
                self.transport.write_eof()

    def rest(self) -> None:
        """Be idle until somebody writes again."""
        self._receive = self._on_end = None
        if self._paused:
            self.resume()
        self.idle = True
        unsent = not self._lost and (self.transport.get_write_buffer_size() or self._unsent_by_kernel())
        self.disturbed |= bool(self._unread or unsent) or self._ended

    def _unsent_by_kernel(self) -> int:
        """Return how many bytes the kernel still keeps because the peer reads too little; 0 if it does not say."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or sys.platform != "linux":
            return 0
        try:
            from fcntl import ioctl  # here, because not every Python has it

            size = ioctl(sock.fileno(), SIOCOUTQNSD, bytes(4))
        except (ImportError, OSError):
            return 0
        return int.from_bytes(size, sys.byteorder)

    def close(self) -> None:
        """End the connection once all that was written has gone out."""
        if not self.closing:
            for depth in range(len(self._layers) - 1, -1, -1):
                self._send(self._layers[depth].end(), depth)
            self.transport.close()

    def abort(self) -> None:
        """End the connection now: what is not sent yet never is."""
        if not self._lost:  # a transport that both ends have closed has no loop any more to abort it
            self.transport.abort()

    def reset(self) -> None:
        """End the connection with RST: FIN would make a close-delimited reply look whole (RFC 9112 §8)."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self._lost:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection is lost: all is sent, or never will be."""
        if not self._lost:
            self._closed = self._loop.create_future()
            await self._closed

    # --- TLS ----------------------------------------------------------------------------------

    async def start_tls(self, context: ssl.SSLContext, name: str | None, server_side: bool = False) -> None:
        """Speak TLS from here on, inside whatever is spoken already.

        Bytes that wait unread count as TLS records. So nobody can slip in plain bytes that are then read as protected.

        Raises:
            OSError: the handshake failed, or the connection broke; ssl.SSLError is one.
        """
        layer, below = Layer(context, name, server_side), len(self._layers)
        data, self._unread = self._unread, b""
        try:
            while not layer.shake(data):
                self._send(layer.outgoing.read(), below)
                data = await self.read()
                if not data:
                    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        finally:
            self._send(layer.outgoing.read(), below)
        self._layers.append(layer)
        self._deliver(b"", below)

    # --- asyncio.BufferedProtocol -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(high=WRITE_AHEAD)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = self._buffer[:nbytes]
        self._deliver(data if self._layers else bytes(data), 0)

    def eof_received(self) -> bool:
        self._end(None)
        return self._half_open

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._end(error)
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        self.full = True
        if self.on_pressure is not None:
            self.on_pressure(True)

    def resume_writing(self) -> None:
        self.full = False
        if self.on_pressure is not None:
            self.on_pressure(False)

    # --- within -------------------------------------------------------------------------------

    def _deliver(self, data: bytes | memoryview, start: int) -> None:
        """Pass bytes up through the layers from `start` on, to the receiver or the reader."""
        layers = self._layers
        for depth in range(start, len(layers)):
            layer = layers[depth]
            data = layer.receive(data)
            if layer.outgoing.pending:
                self._send(layer.outgoing.read(), depth)
        if data and not self._ended:
            if self.idle:
                self._disturb()
            elif self._receive is not None:
                self._receive(data)  # type: ignore[arg-type]
            else:
                self._keep(data)  # type: ignore[arg-type]
        for layer in layers:
            if layer.ended or layer.fault:
                self._end(layer.fault)

    def _keep(self, data: bytes) -> None:
        self._unread = self._unread + data if self._unread else data
        if len(self._unread) > READ_SIZE:
            self.pause()
        self._wake()

    def _send(self, data: bytes, depth: int) -> None:
        """Write what the layer at this depth gives, through the layers below it; the top is `len(self._layers)`."""
        try:
            for layer in reversed(self._layers[:depth]):
                data = layer.protect(data)
        except ssl.SSLError:  # the layer has failed: what was to be sent must not go out in any other way
            self.abort()
            return
        if data and not (self._lost or self._sent_end):
            self.transport.write(data)

    def _end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended, self._error = True, error
            if self.idle:
                self._disturb()
            self._wake()
            if self._on_end is not None:
                self._tell_end_soon()

    def _disturb(self) -> None:
        """An idle connection on which something came serves nobody any more, and may not cost any memory."""
        self.disturbed = True
        self.abort()

    def _tell_end_soon(self) -> None:
        self._loop.call_soon(self._tell_end)

    def _tell_end(self) -> None:
        if self._on_end is not None:
            self._on_end()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
