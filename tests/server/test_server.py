"""The server: whom it lets in, how many, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest
from bare_server import GET, LAST, codes, echo, refuse, serving, talk, the_connection
from client import until
from files import no_more_files

from cfchat.server.reply import Reply
from cfchat.server.request import Direct, Limits, Request
from cfchat.server.server import Server


async def test_a_connection_that_closes_by_itself_closes_without_a_fault() -> None:
    """Its last bytes lie here still when it is closed, and are gone when that has been waited for."""
    faults: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(repr(context)))

    async def handler(request: Request, reply: Reply) -> None:
        reply.send(200, (), b"x" * int(request.path[1:]))

    async with serving(handler) as (server, port):
        for size in range(2_000_000, 3_000_000, 100_000):  # of some of them, not all is sent when it is closed
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(client, ("127.0.0.1", port))
                await loop.sock_sendall(client, b"GET /%d HTTP/1.0\r\n\r\n" % size)
                await asyncio.sleep(0.02)  # a reader who is slower than the kernels' buffers are filled
                while await loop.sock_recv(client, 1 << 20):
                    pass
        await until(lambda: not server.connections)
    gc.collect()
    assert faults == []


async def test_too_many_connections_is_503() -> None:
    async with serving(limits=Limits(connections=1)) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        assert codes(await talk(port)) == [503]
        writer.close()


async def test_one_address_cannot_take_all_connections() -> None:
    async with serving(limits=Limits(connections_each=2)) as (server, port):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await until(lambda: len(server._connections) == 2)
        assert codes(await talk(port, LAST)) == [503]
        held[0][1].close()
        await until(lambda: len(server._connections) == 1)
        assert codes(await talk(port, LAST)) == [200]
        held[1][1].close()
        await until(lambda: not server._connections)
        assert not server._counted


async def test_peers_that_are_not_counted() -> None:
    class Uncounted(Direct):
        def counted(self, peer: str) -> str | None:
            return None

    async with serving(limits=Limits(connections_each=1), peers=Uncounted()) as (_, port):
        assert codes(await talk(port, GET, LAST)) == [200, 200]
        first = await asyncio.open_connection("127.0.0.1", port)
        assert codes(await talk(port, LAST)) == [200]
        first[1].close()


@pytest.mark.parametrize("limits", [Limits(connections=1, linger=60), Limits(connections_each=1, linger=60)])
async def test_those_who_are_told_that_there_are_too_many_are_not_too_many(limits: Limits) -> None:
    async with serving(limits=limits) as (server, port):
        held = await asyncio.open_connection("127.0.0.1", port)
        told = await asyncio.open_connection("127.0.0.1", port)
        assert (await told[0].read()).startswith(b"HTTP/1.1 503 ")  # and it stays, for its 60 seconds
        with pytest.raises(ConnectionResetError):
            await talk(port)
        assert len(server._connections) == 2
        for _, writer in (held, told):
            writer.close()
        await until(lambda: not server._connections)
        assert codes(await talk(port, LAST)) == [200]


@pytest.mark.parametrize("made_by", ["asyncio", "socket.create_server"])
async def test_words_do_not_wait_for_the_clients_ack(made_by: str) -> None:
    server = Server(echo, refuse)
    if made_by == "asyncio":
        await server.start("127.0.0.1", 0)
    else:
        await server.start_on([socket.create_server(("127.0.0.1", 0))])
    _, writer = await asyncio.open_connection(*server.address)
    await until(lambda: server.connections == 1)
    transport = the_connection(server)._stream.transport
    assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    writer.close()
    await server.drain(0.2)


async def test_drain_lets_a_reply_finish_and_ends_idle_connections() -> None:
    go, begun = asyncio.Event(), asyncio.Event()

    async def handler(request: Request, reply: Reply) -> None:
        begun.set()
        await go.wait()
        reply.send(200, (), b"done")

    async with serving(handler, limits=Limits(grace=0.1)) as (server, port):
        idle_reader, idle = await asyncio.open_connection("127.0.0.1", port)
        reply = asyncio.create_task(talk(port, GET))
        await begun.wait()
        draining = asyncio.create_task(server.drain(5))
        assert await idle_reader.read() == b""
        go.set()
        received = await reply
        await draining
        idle.close()
    assert received.endswith(b"done") and b"Connection: close" in received
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_connection_made_just_before_a_drain_may_still_ask() -> None:
    async with serving(limits=Limits(grace=20)) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        draining = asyncio.create_task(server.drain(20))
        await until(lambda: server.draining)
        writer.write(GET)
        received = await reader.read()
        assert codes(received) == [200] and b"Connection: close" in received
        writer.close()
        await draining


async def test_whom_the_kernel_has_let_in_before_a_drain_may_ask() -> None:
    async with serving(limits=Limits(grace=20.0)) as (server, port):
        with socket.create_connection(("127.0.0.1", port)) as client:  # the loop has not seen it yet
            draining = asyncio.create_task(server.drain(20))
            await until(lambda: server.connections == 1)
            await asyncio.sleep(0)  # it waits for a request
            client.sendall(GET)
            assert codes(await asyncio.to_thread(client.recv, 4096)) == [200]
        await draining


async def test_drain_ends_what_does_not_finish() -> None:
    begun = asyncio.Event()

    async def handler(request: Request, reply: Reply) -> None:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(handler) as (server, port):
        reply = asyncio.create_task(talk(port, GET))
        await begun.wait()
        await server.drain(0.01)
        assert await reply == b""


async def test_a_connection_that_has_only_just_come_is_ended_too() -> None:
    """Its task has not begun, and closes nothing by itself."""
    come: list[str] = []

    class Watched(Direct):
        def counted(self, peer: str) -> str | None:
            come.append(peer)
            return peer

    async with serving(peers=Watched()) as (server, port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setblocking(False)
            await until(lambda: bool(come))
            await server.abort()
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b""


# --- few files ------------------------------------------------------------------------------------


async def test_without_a_free_file_it_accepts_once_there_is_one(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncio.constants.ACCEPT_RETRY_DELAY", 0.05)
    async with serving() as (server, port):
        _, held = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: server.connections == 1)
        with socket.socket() as client, no_more_files():
            client.connect(("127.0.0.1", port))
            await until(lambda: bool(caplog.records))
            (line,) = caplog.messages
            held.close()
            client.sendall(LAST)
            client.setblocking(False)
            assert codes(await asyncio.get_running_loop().sock_recv(client, 4096)) == [200]
    assert line.startswith("socket.accept() out of system resource")  # asyncio's own


async def test_clients_wait_to_be_accepted_if_files_are_few() -> None:
    most = 0

    async def handler(request: Request, reply: Reply) -> None:
        nonlocal most
        most = max(most, server.connections)
        reply.send(200, (), b"served")

    async with serving(handler, Limits(connections=3, connections_each=2, most=4)) as (server, port):
        received = await asyncio.gather(*(talk(port, LAST) for _ in range(50)))
    statuses = [status for (status,) in map(codes, received)]
    assert {200} < {*statuses} <= {200, 503} and most <= 4


async def test_connections_that_are_refused_take_no_place_of_those_that_are_served() -> None:
    async with serving(limits=Limits(connections=3, connections_each=1, linger=60)) as (_, port):
        greedy = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for number in (2, 3):
            greedy.append(await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.0.{number}", 0)))
            greedy[-1][1].write(GET)
            assert codes(await greedy[-1][0].readuntil(b"empty")) == [200]
        for _, one in greedy:
            one.close()


async def test_those_who_keep_their_refusal_open_do_not_keep_others_out() -> None:
    async with serving(limits=Limits(connections=3, connections_each=1, most=4, linger=60)) as (_, port):
        greedy = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
        writer.write(LAST)
        assert codes(await reader.read()) == [200]
        for _, one in (*greedy, (reader, writer)):
            one.close()
