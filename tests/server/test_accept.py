"""Accepting connections, with pauses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from cfchat.net.listen import listen_tcp
from cfchat.server.accept import Acceptor


@asynccontextmanager
async def accepting() -> AsyncIterator[tuple[Acceptor, tuple[str, int]]]:
    """An Acceptor that closes what it accepts, and its address."""
    acceptor = Acceptor(lambda reader, writer: writer.transport.abort())
    (sock,) = listen_tcp("127.0.0.1", 0)
    await acceptor.listen(sock)
    try:
        yield acceptor, sock.getsockname()
    finally:
        await acceptor.close()


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_nothing_is_accepted_again_behind_a_close(caplog: pytest.LogCaptureFixture) -> None:
    """A pause may end at any turn of the loop while connections that have come already are taken."""
    for number in range(25):
        async with accepting() as (acceptor, address):
            clients = [socket.create_connection(address) for _ in range(2)]
            closing = asyncio.create_task(acceptor.close())
            await turns(number)
            acceptor.pause(60, lambda: None)
            acceptor.resume()
            await closing
            await turns(15)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            for client in clients:
                client.close()
    assert not caplog.records


async def test_a_close_that_is_cancelled_can_be_done_again() -> None:
    for number in range(25):
        async with accepting() as (acceptor, address):
            acceptor.pause(60, lambda: None)
            acceptor.resume()
            closing = asyncio.create_task(acceptor.close())
            await turns(number)
            closing.cancel()
            with suppress(asyncio.CancelledError):
                await closing
            await acceptor.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
