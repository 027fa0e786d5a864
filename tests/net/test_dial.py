"""Looking names up, and racing their addresses."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from client import until

from cfchat.net import dial as room
from cfchat.net.dial import Address, Resolver, dial

V4, V6 = socket.AF_INET, socket.AF_INET6


class Names:
    """Stands for the system's resolver: `host` N has N addresses, and a lookup of a host that is closed hangs."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = threading.Event()
        self.begun = threading.Semaphore(0)

    def __call__(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        self.begun.release()
        if host == "hangs" and not self.open.wait(20):
            raise socket.gaierror(socket.EAI_AGAIN, "later")
        if host == "none":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        found = [(V4, "192.0.2.1"), (V4, "192.0.2.2"), (V4, "192.0.2.3"), (V6, "::1"), (V6, "::2")]
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.open.set()


async def test_the_families_come_by_turns(names: Names) -> None:
    found = await Resolver().resolve("host", 443)
    assert [address.sockaddr[0] for address in found] == ["192.0.2.1", "::1", "192.0.2.2", "::2", "192.0.2.3"]


async def test_those_who_ask_at_the_same_time_share_a_lookup(names: Names) -> None:
    resolver = Resolver()
    first, *others = await asyncio.gather(*(resolver.resolve("host", 443) for _ in range(100)))
    assert all(other == first for other in others) and names.asked == ["host"]
    await resolver.resolve("host", 443)
    assert names.asked == ["host"] * 2, "nothing is kept"


async def test_all_who_ask_learn_that_there_is_no_such_name(names: Names) -> None:
    resolver = Resolver()
    results = await asyncio.gather(*(resolver.resolve("none", 443) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [socket.gaierror] * 3
    with pytest.raises(socket.gaierror):
        await resolver.resolve("none", 443)


async def test_a_lookup_is_shared_also_if_one_of_those_who_wait_for_it_leaves(names: Names) -> None:
    """Clients that come and leave must not use up the threads."""
    resolver = Resolver()
    asking = [asyncio.create_task(resolver.resolve("hangs", 443)) for _ in range(room.LOOKUPS + 2)]
    for one in asking[1:]:
        await asyncio.sleep(0)
        one.cancel()
    await asyncio.wait(asking[1:])
    last = asyncio.create_task(resolver.resolve("hangs", 443))
    await asyncio.sleep(0)
    names.open.set()
    assert await last == await asking[0] and names.asked == ["hangs"]


async def test_a_lookup_that_hangs_holds_up_nobody_else(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """But the threads that hang are few."""
    monkeypatch.setattr(room, "LATE", 0.0)
    resolver = Resolver()
    for _ in range(room.LOOKUPS):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await resolver.resolve("hangs", 443)
    with pytest.raises(BlockingIOError, match="the resolver does not answer"):
        await resolver.resolve("host", 443)
    names.open.set()
    while True:
        try:
            found = await resolver.resolve("hangs", 443)
        except BlockingIOError:
            await asyncio.sleep(0)  # the threads end one by one
        else:
            break
    assert len(found) == 5


async def test_the_first_of_many_that_answers_wins_and_the_others_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """-W error turns a socket that is left open into a failure."""
    monkeypatch.setattr(room, "NEXT_ADDRESS", 0.0)  # all at once
    came = left = 0

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came, left
        came += 1
        with suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        left += 1

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        refused, good = Address(V4, ("127.0.0.8", port)), Address(V4, ("127.0.0.1", port))
        stream = await dial([refused, good, refused, good, good], 5.0)
        assert stream.peername == ("127.0.0.1", port) and not stream.closing
        await until(lambda: left == came - 1)
        stream.abort()
        await until(lambda: left == came)


async def test_it_may_be_cancelled_at_every_turn_of_the_loop_and_leaves_no_connection() -> None:
    come, gone = 0, 0

    async def stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal come, gone
        come += 1
        with suppress(ConnectionError):
            await reader.read()
        gone += 1
        writer.close()

    async with await asyncio.start_server(stay, "127.0.0.1", 0) as server:
        address = Address(V4, server.sockets[0].getsockname())
        for turns in range(20):
            dialling = asyncio.create_task(dial([address], 5.0))
            for _ in range(turns):
                await asyncio.sleep(0)
            dialling.cancel()
            with suppress(asyncio.CancelledError):
                (await dialling).abort()
        before = come
        last = await dial([address], 5.0)
        await until(lambda: come > before)  # all that came before it have been accepted
        await until(lambda: gone == come - 1)
        last.abort()
        await until(lambda: gone == come)
