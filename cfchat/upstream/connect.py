"""Open a connection to the origin: TCP, a proxy's tunnel if there is one, TLS.

One deadline covers all steps. The step under way is remembered, so that the error can name the one that took too long.
All failures come out as UpstreamTimeout, UpstreamConnectError or NoFreeFile, with the reason in `detail`. A bad
certificate is never worth another try.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl

from cfchat.errors import NoFreeFile, UpstreamConnectError, UpstreamTimeout
from cfchat.net.dial import Resolver, dial
from cfchat.net.stream import Stream
from cfchat.upstream.connection import Connection
from cfchat.upstream.origin import Origin
from cfchat.upstream.proxy import Proxy, open_tunnel

HANDSHAKE = "TLS handshake"
# OpenSSL's X509_V_ERR_...
UNKNOWN_AUTHORITY = (18, 19, 20, 21)  # self-signed, or signed by an unknown authority
NOT_STRICT = tuple(range(80, 94))  # against a rule of RFC 5280 that only a strict look finds
# How strictly certificates are looked at: as Python 3.13 does, or as Python 3.12 did.
STRICT, USUAL = "strict", "usual"


def make_ssl_context(cafile: str | None = None, verify: str | None = None) -> ssl.SSLContext:
    """Return a context that verifies certificates and names, takes TLS 1.2 or newer, and offers http/1.1 by ALPN.

    `cafile` is a PEM file of authorities to trust instead of the system's. `verify` is "strict", "usual", or None for
    what this Python does by itself. Renegotiation is off.

    Raises:
        OSError: the file cannot be read.
    """
    context = ssl.create_default_context(cafile=cafile)
    if verify == STRICT:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    elif verify == USUAL:
        context.verify_flags &= ~(ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


async def connect(
    origin: Origin,
    context: ssl.SSLContext | None,
    seconds: float,
    proxy: Proxy | None = None,
    resolver: Resolver | None = None,
) -> Connection:
    """Connect within `seconds`, including the TLS handshake. The quickest address of the host wins (RFC 8305).

    Where the system can notice it, the connection ends if the other end acknowledges nothing for as long. `resolver`
    is shared by connections of one loop.

    Raises:
        UpstreamTimeout: one of the steps took too long.
        UpstreamConnectError: one of them failed.
        NoFreeFile: this process may open no more files.
    """
    way = _Way(resolver or Resolver(), seconds)
    try:
        async with asyncio.timeout(seconds):
            return await way.go(origin, context if origin.tls else None, proxy)
    except TimeoutError as error:
        raise UpstreamTimeout(
            f"The model's server could not be reached within {seconds:g} s.",
            detail=f"no {way.step}; --connect-timeout sets how long",
        ) from error
    except OSError as error:
        if _is_out_of_files():
            raise NoFreeFile(detail=_reason(error)) from error
        failure = UpstreamConnectError(detail=_reason(error))
        failure.retryable = not isinstance(error, ssl.SSLCertVerificationError)
        raise failure from error
    except UnicodeError as error:  # a label of the name is empty or too long
        detail = f"{way.step}: this cannot be a host's name"
        raise UpstreamConnectError(detail=detail) from error


class _Way:
    """The steps to a Connection. `step` names the step under way."""

    def __init__(self, resolver: Resolver, silence: float) -> None:
        self.step = ""
        self._resolver = resolver
        self._silence = silence

    async def go(self, origin: Origin, context: ssl.SSLContext | None, proxy: Proxy | None) -> Connection:
        """Take all steps. If one fails, close what was opened."""
        first = proxy or origin
        there = f"{first.host}:{first.port}"
        self.step = f"connection to {there}"
        stream = await dial(await self._resolver.resolve(first.host, first.port), self._silence)
        try:
            if proxy is not None:
                if proxy.tls:
                    await self._start_tls(stream, context, proxy.host, there)
                self.step = f"answer from the proxy {there}"
                await open_tunnel(proxy, origin.host, origin.port, stream)
            if context is not None:
                await self._start_tls(stream, context, origin.host, origin.authority)
        except BaseException:
            stream.abort()
            raise
        return Connection(stream)

    async def _start_tls(self, stream: Stream, context: ssl.SSLContext | None, name: str, there: str) -> None:
        self.step = f"{HANDSHAKE} with {there}"
        assert context is not None
        await stream.start_tls(context, name)


def _is_out_of_files() -> bool:
    """Return whether this process may open no more files: not every error that this causes says so."""
    try:
        socket.socket().close()
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def _way_out(verify_code: int) -> str:
    if verify_code in NOT_STRICT:
        return "; --tls-verify usual looks less strictly"
    if verify_code in UNKNOWN_AUTHORITY and not os.environ.get("SSL_CERT_FILE"):
        return "; SSL_CERT_FILE names the authorities to trust"
    return ""


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message.rstrip('.')}{_way_out(error.verify_code)}"
    reason = error.strerror or str(error) or type(error).__name__
    # OpenSSL's and the resolver's numbers are not the system's.
    foreign = isinstance(error, (ssl.SSLError, socket.gaierror))
    # asyncio words a failed connect without its cause: the number has it.
    cause = os.strerror(error.errno) if error.errno and not foreign else reason
    return reason if cause in reason else f"{cause}: {reason}"
