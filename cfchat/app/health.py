"""Answer an operator's machines: /healthz, /readyz, /metrics.

/healthz says that the process answers at all, /readyz that clients should be sent here. Metrics say more than a
stranger should read. `--admin` opens a second address for them, which only operators should reach. Without it the
chat's own address has them for programs on this machine alone, and only if no other machine can reach that address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address

from cfchat.errors import MethodNotAllowed, NotFound
from cfchat.ops.metrics import CONTENT_TYPE, Samples, encode
from cfchat.server.reply import Handler, Reply
from cfchat.server.request import Request

METRICS = "/metrics"
PROBES = ("/healthz", "/readyz", METRICS)
_PLAIN = (("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store"))
# Fields that proxies, tunnels and caches add: the client behind one is not on this machine.
_FORWARDED = ("forwarded", "via", "x-real-ip", "cf-connecting-ip", "true-client-ip")
_NAMES = ("localhost", "127.0.0.1", "[::1]")


def probes(
    fault: Callable[[], str],
    counted: Callable[[], Awaitable[Samples]],
    may_read: Callable[[Request], bool] = lambda request: True,
) -> Mapping[str, Handler]:
    """Return the handlers by path.

    `fault` returns why this server is not ready, or an empty text; `counted` returns the metrics, which are only for
    requests that `may_read` them.
    """

    async def healthz(request: Request, reply: Reply) -> None:
        reply.send(200, _PLAIN, b"alive\n")

    async def readyz(request: Request, reply: Reply) -> None:
        reason = fault()
        reply.send(503 if reason else 200, _PLAIN, (reason or "ready").encode() + b"\n")

    async def metrics_of(request: Request, reply: Reply) -> None:
        if not may_read(request):
            raise NotFound()
        body = encode(await counted()).encode()
        reply.send(200, [("Content-Type", CONTENT_TYPE), ("Cache-Control", "no-store")], body)

    return dict(zip(PROBES, (healthz, readyz, metrics_of), strict=True))


def is_from_here(request: Request) -> bool:
    """Return whether the client is a program on this machine, and neither a proxy nor a page in a browser."""
    try:
        loopback = ip_address(request.client.partition("%")[0]).is_loopback
    except ValueError:  # a unix socket's peer has no address, and is a proxy
        return False
    fields = request.fields
    host = (fields.get("host") or "").lower()
    # A page may have a name of its own lead to this machine (DNS rebinding), but cannot change the Host field.
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    forwarded = any(field.startswith("x-forwarded") or field in _FORWARDED for field, _ in fields)
    return loopback and name in _NAMES and not forwarded and "origin" not in fields


def table(handlers: Mapping[str, Handler]) -> Handler:
    """Return a handler for these paths and no others."""

    async def handle(request: Request, reply: Reply) -> None:
        handler = handlers.get(request.path)
        if handler is None:
            raise NotFound(f"The paths here are {', '.join(handlers)}.")
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("This path takes GET, HEAD.", fields=[("Allow", "GET, HEAD")])
        await handler(request, reply)

    return handle
