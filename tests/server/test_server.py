"""The server by itself, on real sockets, with a handler that knows no chat."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from client import parse, until

from cfchat.errors import CfchatError, UpstreamInterrupted
from cfchat.ops.logs import log_request
from cfchat.server.server import READ_AHEAD, READ_SIZE, Direct, Limits, Peers, Request, Response, Server
from cfchat.wire.fields import Fields

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
Handler = Callable[[Request], Awaitable[Response]]


def refuse(error: CfchatError, request_id: str, fields: Fields | None) -> Response:
    return Response(error.status, (), json.dumps({"error": {"code": error.code}}).encode())


async def echo(request: Request) -> Response:
    return Response(200, (), await request.read_body(100) or b"empty")


@asynccontextmanager
async def serving(
    handler: Handler = echo, limits: Limits = Limits(), peers: Peers = Direct()
) -> AsyncIterator[tuple[Server, int]]:
    server = Server(handler, refuse, limits, peers, log_request)
    _, port = await server.start("127.0.0.1", 0)
    try:
        yield server, port
    finally:
        await server.drain(0.2)


async def talk(port: int, *writes: bytes) -> bytes:
    """Send, read to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for data in writes:
        writer.write(data)
        await writer.drain()
    try:
        return await reader.read()
    finally:
        writer.close()


def codes(received: bytes) -> list[int]:
    """The status of each reply in a row of replies."""
    return [int(part.split()[0]) for part in received.split(b"HTTP/1.1 ")[1:]]


async def test_pipelined_requests_are_answered_in_order() -> None:
    def post(body: bytes) -> bytes:
        return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async with serving() as (_, port):
        received = await talk(port, post(b"one") + post(b"two") + LAST)
    assert codes(received) == [200, 200, 200]
    assert received.index(b"one") < received.index(b"two") < received.index(b"empty")


async def test_chunked_request_body_with_trailer() -> None:
    ask = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving() as (_, port):
        received = await talk(port, ask + b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\nX-T: 1\r\n\r\n")
    assert parse(received).body == b"abc"


async def test_every_reply_has_date_id_and_nosniff() -> None:
    async with serving() as (_, port):
        fields = parse(await talk(port, LAST)).fields
    assert fields["date"].endswith(" GMT")
    assert len(fields["x-request-id"]) == 16
    assert fields["x-content-type-options"] == "nosniff"


async def test_body_over_the_limit_is_413_and_is_received() -> None:
    body = b"x" * 2_000_000
    ask = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with serving() as (_, port):
        assert codes(await talk(port, ask + body)) == [413]


async def test_chunked_body_over_the_handlers_limit_is_413() -> None:
    ask = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n"
    async with serving() as (_, port):
        assert codes(await talk(port, ask)) == [413]


@pytest.mark.parametrize(
    ("ask", "status"),
    [
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40000 + b"\r\n\r\n", 431),
    ],
)
async def test_what_is_refused_ends_the_connection(ask: bytes, status: int) -> None:
    async with serving() as (_, port):
        assert codes(await talk(port, ask + GET)) == [status]


async def test_smuggled_request_is_never_answered() -> None:
    ask = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    async with serving() as (_, port):
        assert codes(await talk(port, ask + GET)) == [400]


async def test_unread_body_is_not_the_next_request() -> None:
    async def deaf(request: Request) -> Response:
        return Response(200, (), b"deaf")

    ask = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(GET) + GET
    async with serving(deaf) as (_, port):
        assert codes(await talk(port, ask)) == [200]


async def test_expect_continue() -> None:
    ask = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    async with serving() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ask)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert (await reader.read()).endswith(b"\r\n\r\nok")
        writer.close()


async def test_slow_head_is_408_and_silence_is_silent() -> None:
    async with serving(limits=Limits(head=0.05, keep_alive=0.05)) as (_, port):
        assert codes(await talk(port, b"GET /")) == [408]
        assert await talk(port) == b""


async def test_slow_body_is_408_though_it_drips() -> None:
    async with serving(limits=Limits(body=0.05)) as (_, port):
        ask = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        assert codes(await talk(port, ask, b"a", b"b")) == [408]


async def test_reader_that_does_not_read_is_aborted() -> None:
    closed = asyncio.Event()

    async def flood() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            closed.set()

    async def handler(request: Request) -> Response:
        return Response(200, (), flood())

    async with serving(handler, Limits(write=0.05)) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await closed.wait()
        writer.close()


async def test_a_connection_that_closes_by_itself_closes_without_a_fault() -> None:
    """Its last bytes lie here still when it is closed, and are gone when that has been waited for."""
    faults: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(repr(context)))

    async def handler(request: Request) -> Response:
        return Response(200, (), b"x" * int(request.path[1:]))

    async with serving(handler) as (server, port):
        for size in range(2_000_000, 3_000_000, 50_000):  # of some of them, not all is sent when it is closed
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


async def test_broken_stream_is_cut_and_the_connection_ends() -> None:
    closed: list[str] = []

    async def words() -> AsyncGenerator[bytes, None]:
        yield b"ab"
        raise UpstreamInterrupted("gone")

    async def close() -> None:
        closed.append("yes")

    async def handler(request: Request) -> Response:
        return Response(200, (), words(), close)

    async with serving(handler) as (_, port):
        answer = parse(await talk(port, GET))
    assert (answer.raw, answer.whole, closed) == (b"2\r\nab\r\n", False, ["yes"])


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_fault_of_ours_in_mid_reply_looks_broken(version: bytes) -> None:
    async def words() -> AsyncGenerator[bytes, None]:
        yield b""
        yield b"ab"
        raise ZeroDivisionError("secret")

    async def handler(request: Request) -> Response:
        return Response(200, (), words())

    async with serving(handler) as (_, port):
        if version == b"1.1":
            answer = parse(await talk(port, GET))
            assert (answer.raw, answer.whole) == (b"2\r\nab\r\n", False)
        else:
            # Only a reset says that a close-delimited reply is not whole.
            with pytest.raises(ConnectionResetError):
                await talk(port, GET.replace(b"1.1", version))


async def test_keep_alive_of_1_0_is_said_back() -> None:
    async with serving() as (_, port):
        received = await talk(port, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + LAST)
    assert codes(received) == [200, 200]
    assert b"Connection: keep-alive\r\n" in received


async def test_client_that_leaves_inside_a_body_is_logged_as_499(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cfchat")
    async with serving() as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await server.drain(5)
    assert " POST / 499 " in caplog.text


async def test_fault_of_ours_is_500_without_a_word_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> Response:
        raise ZeroDivisionError("secret")

    async with serving(handler) as (_, port):
        received = await talk(port, LAST)
    assert codes(received) == [500]
    assert b"secret" not in received
    assert any(record.exc_info for record in caplog.records)


async def test_too_many_connections_is_503() -> None:
    async with serving(limits=Limits(connections=1)) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        assert codes(await talk(port)) == [503]
        writer.close()


async def test_drain_lets_a_reply_finish_and_ends_idle_connections() -> None:
    go, begun = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> Response:
        begun.set()
        await go.wait()
        return Response(200, (), b"done")

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

    async def handler(request: Request) -> Response:
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


@pytest.mark.parametrize("made_by", ["asyncio", "socket.create_server"])
async def test_words_do_not_wait_for_the_clients_ack(made_by: str) -> None:
    server = Server(echo, refuse)
    if made_by == "asyncio":
        await server.start("127.0.0.1", 0)
    else:
        await server.start_on([socket.create_server(("127.0.0.1", 0))])
    _, writer = await asyncio.open_connection(*server.address)
    await until(lambda: server.connections == 1)
    (connection,) = server._connections.values()
    assert connection._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    writer.close()
    await server.drain(0.2)


async def test_a_real_client_keeps_its_connection() -> None:
    def converse(port: int) -> list[bytes]:
        client = http.client.HTTPConnection("127.0.0.1", port)
        answers = []
        for word in (b"one", b"two"):
            client.request("POST", "/", word)
            answers.append(client.getresponse().read())
        client.close()
        return answers

    async with serving() as (_, port):
        assert await asyncio.to_thread(converse, port) == [b"one", b"two"]


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


@pytest.mark.parametrize(
    ("expected", "status"),
    [("100-continue", 200), ("100-Continue", 200), ("200-ok", 417), ("100-continue, magic", 417), ("", 200)],
)
async def test_what_can_be_expected(expected: str, status: int) -> None:
    ask = f"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\nExpect: {expected}\r\n\r\n"
    async with serving() as (_, port):
        assert codes(await talk(port, ask.encode() + b"a"))[-1] == status


async def test_a_short_reply_goes_out_to_a_client_that_has_closed_its_half() -> None:
    async with serving() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        writer.write_eof()
        assert (await reader.read()).endswith(b"\r\n\r\nhi")
        writer.close()


async def deaf(request: Request) -> Response:
    """Answers without a look at the body."""
    return Response(200, (), b"deaf")


@pytest.mark.parametrize("ask", [GET, GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 00\r\n\r\n")])
async def test_where_there_is_no_body_nobody_need_read_it(ask: bytes) -> None:
    async with serving(deaf) as (_, port):
        received = await talk(port, ask + ask + LAST)
    assert codes(received) == [200, 200, 200]
    assert received.count(b"Connection: close") == 1


async def test_an_empty_line_behind_a_request_begins_no_other() -> None:
    async with serving(deaf, Limits(head=0.02, keep_alive=0.1)) as (_, port):
        assert codes(await talk(port, GET + b"\r\n")) == [200]
        assert codes(await talk(port, GET, b"\r\n")) == [200]
        assert codes(await talk(port, GET + b"\r\nG")) == [200, 408]


async def test_nothing_follows_the_head_of_a_stream_that_head_asks_for() -> None:
    closed: list[str] = []

    async def words() -> AsyncGenerator[bytes, None]:
        yield b"never asked for"

    async def close() -> None:
        closed.append("yes")

    async def handler(request: Request) -> Response:
        return Response(200, (), words(), close)

    async with serving(handler) as (_, port):
        received = await talk(port, GET.replace(b"GET", b"HEAD") + LAST.replace(b"GET", b"HEAD"))
    assert codes(received) == [200, 200] and received.count(b"Transfer-Encoding: chunked\r\n") == 2
    assert received.endswith(b"\r\n\r\n") and b"never" not in received and closed == ["yes", "yes"]


@pytest.mark.parametrize("ask", [GET, LAST])
async def test_the_end_of_a_reply_that_nobody_reads_is_dropped(ask: bytes) -> None:
    """Less is unread than makes a stream wait: the connection must not stay open for it, nor uncounted."""
    transports: list[asyncio.WriteTransport] = []

    async def handler(request: Request) -> Response:
        transport = next(iter(server._connections.values()))._transport
        transports.append(transport)

        async def words() -> AsyncGenerator[bytes, None]:
            while not transport.get_write_buffer_size():
                yield b"x" * 16384

        return Response(200, (), words())

    async with serving(handler, Limits(write=0.05, keep_alive=0.05)) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(ask)
        await until(lambda: bool(transports) and transports[0].get_extra_info("socket").fileno() < 0)
        await until(lambda: not server._connections)
        writer.transport.abort()


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


async def test_a_last_reply_reaches_a_client_that_goes_on_sending() -> None:
    async with serving() as (_, port):
        assert codes(await talk(port, LAST + b"x" * 3_000_000)) == [200]


async def test_what_is_sent_ahead_waits_its_turn_however_much_it_is() -> None:
    go = asyncio.Event()

    async def words() -> AsyncGenerator[bytes, None]:
        yield b"first"
        await go.wait()

    async def handler(request: Request) -> Response:
        body = await request.read_body()
        return Response(200, (), body or words())

    ahead = b"".join(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n" + b"%050000d" % number for number in range(20)
    )
    async with serving(handler) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        assert (await reader.readuntil(b"first\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(ahead + LAST)
        (connection,) = server._connections.values()
        await until(lambda: connection._wire.buffered > READ_AHEAD)
        go.set()
        for number in range(20):
            assert (await reader.readuntil(b"%050000d" % number)).count(b"HTTP/1.1 200 ") == 1
        assert codes(await reader.read()) == [200]
        writer.close()
        assert connection._wire.buffered < 2 * READ_AHEAD + READ_SIZE


async def test_a_client_that_sends_ahead_takes_turns_with_others() -> None:
    asked, between = 0, [0]

    async def handler(request: Request) -> Response:
        nonlocal asked
        asked += 1
        return Response(200, (), b"")

    async def turns() -> None:
        while True:
            before = asked
            await asyncio.sleep(0)
            between.append(asked - before)

    async with serving(handler) as (_, port):
        turning = asyncio.create_task(turns())
        assert len(codes(await talk(port, GET * 99 + LAST))) == 100
        turning.cancel()
    assert max(between) == 1


async def test_a_body_is_read_in_turns_with_others() -> None:
    turns, taken = 0, list[int]()

    async def handler(request: Request) -> Response:
        (connection,) = server._connections.values()
        await until(lambda: bool(connection._reader._reader._paused))  # type: ignore[attr-defined]
        before = turns
        await request.read_body()
        taken.append(turns - before)
        return Response(200)

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with serving(handler) as (server, port):
        counting = asyncio.create_task(count())
        head = LAST.replace(b"\r\n\r\n", b"\r\nContent-Length: %d\r\n\r\n" % (3 * READ_SIZE))
        assert codes(await talk(port, head, b"x" * 3 * READ_SIZE)) == [200]
        counting.cancel()
    assert taken[0] >= 3


async def test_a_server_that_is_closed_out_of_files_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio would listen again a second later, on a socket that is closed by then."""
    loop = asyncio.get_running_loop()
    async with serving():
        handler = loop.get_exception_handler()
        loop.call_exception_handler({"message": "socket.accept() out of ...", "exception": OSError(24, "Too many")})
    assert loop.get_exception_handler() is handler
    loop.call_exception_handler(
        {"message": "Exception in callback BaseSelectorEventLoop._start_serving(...)", "exception": ValueError(-1)}
    )
    loop.call_exception_handler({"message": "of another", "exception": ValueError()})
    assert [record.message.splitlines()[0] for record in caplog.records] == [
        "no connection can be accepted: Too many; it is tried again each second",
        "of another",
    ]
