"""One connection to the upstream: connect, one exchange at a time, deadlines."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import SupportsIndex

from cfchat.errors import (
    Incomplete,
    ProtocolError,
    UpstreamConnectError,
    UpstreamInterrupted,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from cfchat.wire.http11 import (
    NEED_DATA,
    Data,
    EndOfMessage,
    ReadLimits,
    ResponseHead,
    ResponseReader,
)

READ_SIZE = 64 * 1024
RESPONSE_LIMITS = ReadLimits(head=64 * 1024, body=None)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the API lives: scheme, host, port of `CFCHAT_BASE_URL` and the path before its own."""

    host: str
    port: int
    tls: bool
    base_path: str

    @property
    def authority(self) -> str:
        """The value of `Host` (RFC 9110 §7.2): no port where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class UpstreamStale(UpstreamInterrupted):
    """The connection died before any byte of the reply: a pooled one is replaced, free."""


class Deadline:
    """One timer for a whole exchange. Moving it is an assignment, so it may move with every token."""

    def __init__(self, on_expiry: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_expiry = on_expiry
        self._when = inf
        self._timer: asyncio.TimerHandle | None = None
        self.seconds = 0.0
        self.waiting_for = ""
        self.expired = False

    def move(self, seconds: float, waiting_for: str) -> None:
        """Expire `seconds` from now, unless moved again before."""
        self.seconds, self.waiting_for = seconds, waiting_for
        self._when = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._when:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._when, self._fire)

    def pause(self) -> None:
        """Whoever waits now, it is not for the upstream."""
        self._when = inf

    def cancel(self) -> None:
        self._when = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        if self._loop.time() >= self._when:
            self.expired = True
            self._on_expiry()
        elif self._when != inf:
            self._timer = self._loop.call_at(self._when, self._fire)


class _Reader(asyncio.StreamReader):
    """Remembers whether the peer said anything, its end included, while nobody had asked."""

    idle = False
    disturbed = False

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self.disturbed |= self.idle
        super().feed_data(data)

    def feed_eof(self) -> None:
        self.disturbed |= self.idle
        super().feed_eof()


class Connection:
    """An HTTP/1.1 connection of the client's role. One exchange at a time: `send`, `head`, `next_event`."""

    def __init__(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._wire = ResponseReader(RESPONSE_LIMITS)
        self._exchanges = 0
        self._answered = False
        self.deadline = Deadline(self.close)

    @property
    def usable(self) -> bool:
        """Still open, and the last message read to its end with nothing behind it."""
        return not self._reader.disturbed and not self._writer.transport.is_closing() and self._wire.reusable

    def send(self, request: bytes) -> None:
        """Send a whole request. It is not waited for: a reply may come before the last byte is out."""
        if self._exchanges:
            self._wire.start_next("POST")
        self._exchanges += 1
        self._answered = False
        self._reader.idle = False
        self._writer.write(request)

    async def head(self) -> ResponseHead:
        """The final head of the reply. Raises UpstreamStale, and whatever `next_event` raises."""
        event = await self.next_event()
        if isinstance(event, ResponseHead):
            return event
        raise UpstreamStale("The model's server closed the connection before it answered.")

    async def next_event(self) -> ResponseHead | Data | EndOfMessage | object:
        """The next event of the reply.

        Raises UpstreamTimeout, UpstreamInterrupted (EOF or reset inside the message) and
        UpstreamProtocolError.
        """
        try:
            while (event := self._wire.next_event()) is NEED_DATA:
                data = await self._read()
                if data:
                    self._answered = True
                    self._wire.receive_data(data)
                else:
                    self._wire.receive_eof()
        except Incomplete as error:
            raise UpstreamInterrupted("The connection to the model was lost.", detail=error.message) from error
        except ProtocolError as error:
            raise UpstreamProtocolError("The model's server sent nonsense.", detail=error.message) from error
        return event

    async def _read(self) -> bytes:
        try:
            data = await self._reader.read(READ_SIZE)
        except OSError as error:
            if not self.deadline.expired:
                kind = UpstreamInterrupted if self._answered else UpstreamStale
                raise kind("The connection to the model was lost.", detail=str(error)) from error
            data = b""
        if not data and self.deadline.expired:
            raise UpstreamTimeout(
                "The model took too long to answer.",
                detail=f"no {self.deadline.waiting_for} for {self.deadline.seconds:g} s",
            )
        return data

    def rest(self) -> None:
        """Between two exchanges: whatever comes now makes the connection unusable."""
        self.deadline.cancel()
        self._reader.idle = True

    def close(self) -> None:
        self.deadline.cancel()
        # abort, not close: a reply nobody waits for must stop costing tokens now, and a TLS
        # close_notify handshake would wait for the peer.
        self._writer.transport.abort()


def make_ssl_context(cafile: str | None = None) -> ssl.SSLContext:
    """Certificates and names verified, TLS 1.2 or newer, ALPN http/1.1.

    `cafile` is a PEM file of authorities to trust in place of the system's. Raises OSError.
    """
    context = ssl.create_default_context(cafile=cafile)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


async def connect(origin: Origin, context: ssl.SSLContext | None, seconds: float) -> Connection:
    """Connect within `seconds`, TLS handshake included.

    Raises UpstreamTimeout or UpstreamConnectError.
    """
    loop = asyncio.get_running_loop()
    reader = _Reader(limit=READ_SIZE, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    try:
        async with asyncio.timeout(seconds):
            transport, _ = await loop.create_connection(
                lambda: protocol, origin.host, origin.port, ssl=context if origin.tls else None
            )
    except TimeoutError as error:
        raise UpstreamTimeout(
            "The model's server could not be reached in time.", detail=f"no connection within {seconds:g} s"
        ) from error
    except OSError as error:
        failure = UpstreamConnectError("The model's server could not be reached.", detail=_reason(error))
        failure.retryable = not isinstance(error, ssl.SSLCertVerificationError)
        raise failure from error
    return Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    return error.strerror or str(error) or type(error).__name__
