"""Reach the origin through an HTTP proxy: HTTPS_PROXY, NO_PROXY and CONNECT (RFC 9110 §9.3.6).

The environment is read as curl and Go read it. The proxy opens a tunnel, and TLS with the origin runs inside it,
so the proxy sees neither the token nor the conversation. A proxy that sends bytes behind its reply is refused, because
they would be taken for the origin's.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from cfchat.errors import ProtocolError, UpstreamConnectError
from cfchat.net.stream import Stream
from cfchat.secret import Secret
from cfchat.upstream.origin import Origin
from cfchat.wire.messages import NEED_DATA, ReadLimits, ResponseHead
from cfchat.wire.reader import ResponseReader
from cfchat.wire.writer import encode_request_head

_LIMITS = ReadLimits(head=64 * 1024, body=0)


class Proxy(NamedTuple):
    """A proxy. `tls`: whether to speak TLS with the proxy itself. `credentials`: the value of Proxy-Authorization."""

    host: str
    port: int
    tls: bool = False
    credentials: Secret | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_proxy(text: str) -> Proxy:
    """Parse `http://USER:PASSWORD@HOST:PORT`, the same with https, or HOST:PORT.

    Raises:
        ValueError: its message says what the text must be.
    """
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
    """Return the URL of the proxy for a host, or None if the host is reached without one.

    NO_PROXY holds `*`, names (for their subdomains, too), addresses and networks, each perhaps with a port, between
    commas or blanks.
    """
    url = environ.get("https_proxy") or environ.get("HTTPS_PROXY")
    if not url:
        return None
    exceptions = re.split(r"[,\s]+", environ.get("no_proxy") or environ.get("NO_PROXY") or "")
    return None if any(_covers(item.lower(), host.lower().rstrip("."), port) for item in exceptions if item) else url


def find_proxy(origin: Origin, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy on the way to an origin; None without one. Plain http is asked without one.

    Raises:
        ValueError: the variable that names it does not hold a proxy's URL.
    """
    url = proxy_for(origin.host, origin.port, environ) if origin.tls else None
    try:
        return parse_proxy(url) if url else None
    except ValueError as error:
        raise ValueError(f"HTTPS_PROXY {error}") from None


def _covers(exception: str, host: str, port: int) -> bool:
    """Return whether one item of NO_PROXY, in lower case, stands for this host and port."""
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*):([0-9]+)", exception)
    if match is not None and int(match[2]) != port:
        return False
    covered = (match[1] if match else exception).strip("[]")
    if covered == "*":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        name = covered.removeprefix("*").strip(".")
        return name != "" and f".{host}".endswith(f".{name}")
    try:
        return address in ip_network(covered, strict=False)
    except ValueError:
        return False


async def open_tunnel(proxy: Proxy, host: str, port: int, stream: Stream) -> None:
    """Ask the proxy at the other end of `stream` for a tunnel to host and port.

    Raises:
        UpstreamConnectError: the proxy refuses, or does not speak HTTP.
        OSError: the connection to the proxy broke.
    """
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
        refusal = _refused(f"the proxy {proxy} answered {event.status}")  # its reason phrase may be any text
        refusal.retryable = event.status >= 500
        raise refusal
    if wire.buffered:
        # In TLS the client speaks first, so these bytes cannot be the origin's.
        raise _refused(f"the proxy {proxy} speaks for the origin")


def _refused(detail: str) -> UpstreamConnectError:
    return UpstreamConnectError(detail=detail)
