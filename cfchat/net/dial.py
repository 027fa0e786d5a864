"""Open TCP connections by name: look the name up, race its addresses (RFC 8305), and notice a peer that is gone.

The system's resolver may take half a minute, and nothing can stop it: it runs in a thread that nothing waits for at the
end. A peer may vanish without a word, and TCP would go on sending to it for minutes. Where the system has the options
for it, the kernel ends such a connection after the time that a connection may take to be made.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from cfchat.net.stream import Stream
from cfchat.net.threads import in_thread

# Seconds from the try of one address of a host to the next one's (RFC 8305 §5).
NEXT_ADDRESS = 0.25
LOOKUPS = 8  # threads that may hang in the resolver
LATE = 1.0  # seconds; a lookup that takes longer may hang, so the next connection begins its own


class Address(NamedTuple):
    """Where to connect: the family, and the address as sockets of this family take it."""

    family: int
    sockaddr: Any


class Resolver:
    """Looks names up. Connections that are made at the same time share one lookup. It belongs to one loop."""

    def __init__(self) -> None:
        self._shared: dict[tuple[str, int], tuple[asyncio.Future[list[Any]], float]] = {}  # and when it began
        self._threads = 0

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host, its families by turns (RFC 8305 §4).

        Raises:
            OSError: there is none, or the resolver fails.
            UnicodeError: this cannot be a host's name.
        """
        found = await self._look_up(host, port)
        families: dict[int, list[Address]] = {}
        for family, *_, sockaddr in found:
            families.setdefault(family, []).append(Address(family, sockaddr))
        return [address for address in chain(*zip_longest(*families.values())) if address is not None]

    async def _look_up(self, host: str, port: int) -> list[Any]:
        key, now = (host, port), asyncio.get_running_loop().time()
        lookup, began = self._shared.get(key, (None, now))
        if lookup is None or now - began > LATE:
            if self._threads == LOOKUPS:
                raise OSError(errno.EAGAIN, "the resolver does not answer")
            lookup = in_thread(partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM))
            self._threads += 1
            self._shared[key] = lookup, now
            lookup.add_done_callback(partial(self._end, key))
        return await asyncio.shield(lookup)

    def _end(self, key: tuple[str, int], lookup: asyncio.Future[list[Any]]) -> None:
        self._threads -= 1
        if key in self._shared and self._shared[key][0] is lookup:  # else a later one has taken its place
            del self._shared[key]


async def dial(addresses: Sequence[Address], silence: float) -> Stream:
    """Connect to the address that answers first: each next one is tried after 0.25 s, or once one has failed.

    The connection ends with an error if the peer acknowledges nothing for `silence` seconds, where the system can
    notice it.

    Raises:
        OSError: none can be connected to.
    """
    loop = asyncio.get_running_loop()
    tries: list[asyncio.Task[Stream]] = []
    pending: set[asyncio.Task[Stream]] = set()
    errors: list[OSError] = []
    winner: Stream | None = None
    try:
        while winner is None:
            if len(tries) < len(addresses):
                tries.append(loop.create_task(_open(addresses[len(tries)], silence)))
                pending.add(tries[-1])
            elif not pending:
                raise _sum_up(errors)
            wait = NEXT_ADDRESS if len(tries) < len(addresses) else None
            done, pending = await asyncio.wait(pending, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                try:
                    winner = task.result()
                except OSError as error:
                    errors.append(error)
        return winner
    finally:
        for task in tries:
            task.cancel()
        try:
            await asyncio.wait(tries)
        except asyncio.CancelledError:
            winner = None  # nobody gets it any more
            raise
        finally:
            for task in tries:
                if task.done() and not task.cancelled() and not task.exception() and task.result() is not winner:
                    task.result().abort()


async def _open(address: Address, silence: float) -> Stream:
    sock, stream = socket.socket(address.family, socket.SOCK_STREAM), Stream()
    try:
        sock.setblocking(False)
        _notice_silence(sock, silence)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, address.sockaddr)
        await loop.create_connection(lambda: stream, sock=sock)
    except BaseException:
        sock.close()
        raise
    return stream


def _notice_silence(sock: socket.socket, seconds: float) -> None:
    """Set how long what is sent may stay without an acknowledgement, and probe a connection on which nothing is sent.

    Three probes fit into that time, so that one that is lost ends no connection.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    between = max(1, int(seconds / 4))
    options = {
        "TCP_USER_TIMEOUT": max(1, int(seconds * 1000)),  # Linux: it also bounds the probes
        "TCP_KEEPIDLE": between,
        "TCP_KEEPALIVE": between,  # what macOS calls TCP_KEEPIDLE
        "TCP_KEEPINTVL": between,
        "TCP_KEEPCNT": 3,
    }
    for name, value in options.items():
        if hasattr(socket, name):
            with suppress(OSError):  # a sandbox may know fewer than its system
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _sum_up(errors: Sequence[OSError]) -> OSError:
    """Return one error for all addresses of a host."""
    if len(errors) == 1:
        return errors[0]
    # A refusal comes from the host. "No route" comes from this machine, often because it has no IPv6.
    refused = any(error.errno == errno.ECONNREFUSED for error in errors)
    return OSError(errno.ECONNREFUSED if refused else errors[0].errno, "; ".join(str(e.strerror) for e in errors))
