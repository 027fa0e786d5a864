"""The way out through an HTTP proxy: HTTPS_PROXY, NO_PROXY, and CONNECT (RFC 9110 §9.3.6)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from cfchat.errors import ProtocolError, UpstreamConnectError
from cfchat.net.stream import Stream
from cfchat.secret import Secret
from cfchat.wire.messages import NEED_DATA, ReadLimits, ResponseHead
from cfchat.wire.reader import ResponseReader
from cfchat.wire.writer import encode_request_head

_LIMITS = ReadLimits(head=64 * 1024, body=0)


class Proxy(NamedTuple):
    """`tls` is about the connection to the proxy itself; `credentials` are the value of Proxy-Authorization."""

    host: str
    port: int
    tls: bool = False
    credentials: Secret | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_proxy(text: str) -> Proxy:
    """`http://USER:PASSWORD@HOST:PORT`, https, or HOST:PORT alone. Raises ValueError with the reason."""
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        port = url.port
    except ValueError:
        raise ValueError("must be a URL such as http://proxy.example:3128") from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("must be a URL such as http://proxy.example:3128; only http and https proxies can be used")
    credentials = None
    if url.username is not None:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
        credentials = Secret("Basic " + base64.b64encode(pair).decode("ascii"))
    tls = url.scheme == "https"
    return Proxy(url.hostname, port or (443 if tls else 80), tls, credentials)


def proxy_for(host: str, port: int, environ: Mapping[str, str]) -> str | None:
    """The URL of the proxy that goes between us and a host, or None, as curl and urllib understand it."""
    url = environ.get("https_proxy") or environ.get("HTTPS_PROXY")
    if not url:
        return None
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # heavy, rarely needed

    excepted = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return None if proxy_bypass_environment(f"{host}:{port}", {"no": excepted}) else url


async def open_tunnel(proxy: Proxy, host: str, port: int, stream: Stream) -> None:
    """Ask the proxy for a connection to host and port. Raises UpstreamConnectError where it refuses, OSError."""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    fields = [("Host", authority), ("User-Agent", "cfchat")]
    if proxy.credentials is not None:
        fields.append(("Proxy-Authorization", proxy.credentials.reveal()))
    stream.write(encode_request_head("CONNECT", authority, fields))
    wire = ResponseReader(_LIMITS, "CONNECT")
    try:
        while (event := wire.next_event()) is NEED_DATA:
            data = await stream.read()
            if data:
                wire.receive_data(data)
            else:
                wire.receive_eof()
    except ProtocolError as error:
        raise _refused(f"the proxy {proxy} does not speak HTTP: {error.message}") from error
    if not isinstance(event, ResponseHead):
        raise _refused(f"the proxy {proxy} hung up")
    if not 200 <= event.status < 300:
        refusal = _refused(f"the proxy {proxy} answered {event.status} {event.reason}".rstrip())
        refusal.retryable = event.status >= 500
        raise refusal
    if wire.buffered:
        # The origin speaks second in TLS: this would be somebody else's words.
        raise _refused(f"the proxy {proxy} speaks for the origin")


def _refused(detail: str) -> UpstreamConnectError:
    return UpstreamConnectError("The model's server could not be reached.", detail=detail)
