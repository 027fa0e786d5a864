"""Send one request to the server under test, and note what comes back and when.

Each request has a connection of its own, by the proxy of HTTPS_PROXY if there is one. Certificates are verified as
browsers do. An Answer keeps what came up to a fault or a deadline: a reply that is cut is a finding, not an error.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence

from cfchat.cli.check_url.address import is_public
from cfchat.errors import ConfigError, ProtocolError, UpstreamError
from cfchat.net.dial import Resolver, dial
from cfchat.net.stream import Stream
from cfchat.secret import Secret
from cfchat.upstream.connect import USUAL, make_ssl_context
from cfchat.upstream.origin import Origin
from cfchat.upstream.proxy import Proxy, find_proxy, open_tunnel
from cfchat.wire.fields import NO_FIELDS, Fields
from cfchat.wire.messages import NEED_DATA, Data, EndOfMessage, ReadLimits, ResponseHead
from cfchat.wire.reader import ResponseReader
from cfchat.wire.writer import encode_request_head

SECONDS = 10.0  # for each step; also until a connection counts as dead that acknowledges nothing
LONGEST = 64 * 1024  # bytes of a body that are looked at


class Answer:
    """What came back on a request. Times are in ms from when it was sent.

    `fault` says why the reply broke off; it is empty if the reply is whole, or was left early on purpose.
    """

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.head_ms = 0.0
        self.pieces: list[tuple[float, bytes]] = []  # of the body
        self.fault = ""
        self.ms = 0.0  # until the end, whatever it was

    @property
    def status(self) -> int:
        """The status; 0 if no head came."""
        return 0 if self.head is None else self.head.status

    @property
    def fields(self) -> Fields:
        """The header fields."""
        return NO_FIELDS if self.head is None else self.head.fields

    @property
    def body(self) -> bytes:
        """As much of the body as came."""
        return b"".join(piece for _, piece in self.pieces)


class Caller:
    """Opens connections and sends requests. The key goes to the origin that it is for, and to no other.

    `until` is the time of the loop at which a request ends, whatever has come of its reply.
    """

    def __init__(self, origin: Origin, key: Secret | None, environ: Mapping[str, str]) -> None:
        self._key_origin = origin._replace(base_path="")
        self._key = key
        self._environ = environ
        self._resolver = Resolver()
        self.until = asyncio.get_running_loop().time() + SECONDS
        self._context = make_ssl_context(verify=USUAL)
        # Only a handshake shows whether HTTP/2 is offered: the requests are sent by HTTP/1.1.
        self.offers_h2 = make_ssl_context(verify=USUAL)
        self.offers_h2.set_alpn_protocols(["h2", "http/1.1"])

    @property
    def secrets(self) -> list[str]:
        """What must not be printed."""
        return [] if self._key is None else [self._key.reveal()]

    def proxy(self, origin: Origin) -> Proxy | None:
        """Return the proxy on the way to an origin; plain http is asked without one.

        Raises:
            ConfigError: HTTPS_PROXY is no proxy's URL.
        """
        try:
            return find_proxy(origin, self._environ)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    async def resolve(self, origin: Origin) -> list[str]:
        """Return the addresses of an origin, or of the proxy before it.

        Raises:
            OSError: there is none.
            UnicodeError: this cannot be a host's name.
        """
        first = self.proxy(origin) or origin
        found = await self._resolver.resolve(first.host, first.port)
        return list(dict.fromkeys(str(address.sockaddr[0]) for address in found))

    async def public(self, origin: Origin) -> bool:
        """Return whether strangers can reach an origin."""
        return is_public(origin.host, [] if self.proxy(origin) else await self.resolve(origin))

    async def connect(self, origin: Origin) -> Stream:
        """Connect by TCP, through the proxy if there is one.

        Raises:
            OSError: that failed.
            UpstreamConnectError: the proxy refused.
        """
        proxy = self.proxy(origin)
        first = proxy or origin
        async with asyncio.timeout_at(self.until):
            stream = await dial(await self._resolver.resolve(first.host, first.port), SECONDS)
            try:
                if proxy is not None:
                    if proxy.tls:
                        await stream.start_tls(self._context, proxy.host)
                    await open_tunnel(proxy, origin.host, origin.port, stream)
            except BaseException:
                stream.abort()
                raise
        return stream

    async def ask(
        self,
        origin: Origin,
        method: str,
        target: str,
        fields: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        with_key: bool = True,
        enough: Callable[[Answer], bool] = lambda answer: False,
    ) -> Answer:
        """Send a request, and read its reply to the end, or until it is `enough`.

        Raises:
            OSError: no connection came about; TimeoutError is one.
            UpstreamConnectError: the proxy refused.
        """
        answer, stream = Answer(), await self.connect(origin)
        try:
            async with asyncio.timeout_at(self.until):
                if origin.tls:
                    await stream.start_tls(self._context, tls_name(origin))
                lines = await self._fields(origin, fields, body, with_key)
                stream.write(encode_request_head(method, target, lines) + body)
                began = time.perf_counter()
            try:
                async with asyncio.timeout_at(self.until):
                    await _read(stream, method, answer, enough, began)
            except TimeoutError:
                answer.fault = f"no {'end' if answer.head else 'answer'} within {_ms(began) / 1000:.0f} s"
            except ProtocolError as error:
                answer.fault = error.message.rstrip(".").lower()
            except OSError as error:
                answer.fault = reason(error)
            answer.ms = _ms(began)
        finally:
            stream.abort()
        return answer

    async def _fields(
        self, origin: Origin, fields: Sequence[tuple[str, str]], body: bytes, with_key: bool
    ) -> list[tuple[str, str]]:
        lines = [("Host", origin.authority), ("User-Agent", "cfchat-check"), ("Connection", "close"), *fields]
        if self._key is not None and with_key and await self.sends_key(origin):
            lines.append(("Authorization", f"Bearer {self._key.reveal()}"))
        if body:
            lines += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        return lines

    async def sends_key(self, origin: Origin) -> bool:
        """Return whether there is a key for this origin, and strangers on the way cannot read it."""
        known = self._key is not None and origin._replace(base_path="") == self._key_origin
        return known and (origin.tls or not await self.public(origin))


async def _read(stream: Stream, method: str, answer: Answer, enough: Callable[[Answer], bool], began: float) -> None:
    wire, size = ResponseReader(ReadLimits(body=None), method), 0
    while size < LONGEST and not (answer.head is not None and enough(answer)):
        event = wire.next_event()
        if event is NEED_DATA:
            data = await stream.read()
            answer.ms = _ms(began)
            if data:
                wire.receive_data(data)
            else:
                wire.receive_eof()
        elif isinstance(event, ResponseHead):
            answer.head, answer.head_ms = event, answer.ms
        elif isinstance(event, Data):
            answer.pieces.append((answer.ms, event.data))
            size += len(event.data)
        else:
            answer.fault = "" if isinstance(event, EndOfMessage) else "the connection ended"
            return


def tls_name(origin: Origin) -> str:
    """Return the name that a certificate must have: without the dot that may end a name."""
    return origin.host.rstrip(".")


def reason(error: OSError | UpstreamError) -> str:
    """Return why a connection failed or broke: in the system's words, or what a proxy has done."""
    if isinstance(error, UpstreamError):
        return error.detail
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if error.errno and not isinstance(error, (ssl.SSLError, socket.gaierror)):
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__


def _ms(began: float) -> float:
    return (time.perf_counter() - began) * 1000
