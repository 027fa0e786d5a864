"""What an operator's machines ask: /healthz, /readyz, /metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address

from cfchat.errors import MethodNotAllowed, NotFound
from cfchat.ops.metrics import CONTENT_TYPE, Samples, encode
from cfchat.server.reply import Reply
from cfchat.server.request import Handler, Request

METRICS = "/metrics"
PROBES = ("/healthz", "/readyz", METRICS)
_PLAIN = (("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store"))
# What proxies add, tunnels and caches among them: who comes by one is not on this machine.
_FORWARDED = ("forwarded", "via", "x-real-ip", "cf-connecting-ip", "true-client-ip")
_NAMES = ("localhost", "127.0.0.1", "[::1]")


def probes(
    fault: Callable[[], str], counted: Callable[[], Awaitable[Samples]], open_to_all: bool
) -> Mapping[str, Handler]:
    """Handlers by path. `fault` says why this server is not ready, or nothing; `counted` is what metrics tell.

    Metrics are `open_to_all` on an address of their own; else only to this machine, and 404 to others.
    """

    async def healthz(request: Request, reply: Reply) -> None:
        reply.send(200, _PLAIN, b"alive\n")

    async def readyz(request: Request, reply: Reply) -> None:
        reason = fault()
        reply.send(503 if reason else 200, _PLAIN, (reason or "ready").encode() + b"\n")

    async def metrics_of(request: Request, reply: Reply) -> None:
        if not open_to_all and not is_from_here(request):
            raise NotFound("There is nothing at this path. The chat is at POST /api/chatbot.")
        body = encode(await counted()).encode()
        reply.send(200, [("Content-Type", CONTENT_TYPE), ("Cache-Control", "no-store")], body)

    return dict(zip(PROBES, (healthz, readyz, metrics_of), strict=True))


def is_from_here(request: Request) -> bool:
    """Whether a program on this machine asks, and neither a proxy nor a page in a browser."""
    try:
        loopback = ip_address(request.client.partition("%")[0]).is_loopback
    except ValueError:  # no address, as of a Unix socket, behind which there is a proxy
        return False
    fields = request.fields
    host = (fields.get("host") or "").lower()
    # A name that is made to lead here is a page's trick (DNS rebinding).
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    forwarded = any(field.startswith("x-forwarded") or field in _FORWARDED for field, _ in fields)
    return loopback and name in _NAMES and not forwarded and "origin" not in fields


def table(handlers: Mapping[str, Handler]) -> Handler:
    """A handler for these paths and no others."""

    async def handle(request: Request, reply: Reply) -> None:
        handler = handlers.get(request.path)
        if handler is None:
            raise NotFound(f"Here are {', '.join(handlers)}.")
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("This path takes GET, HEAD.", fields=[("Allow", "GET, HEAD")])
        await handler(request, reply)

    return handle
