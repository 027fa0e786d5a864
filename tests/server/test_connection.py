"""One client's connection: heads, bodies, keep-alive, deadlines, and how it ends."""

from __future__ import annotations

import asyncio
import http.client
from itertools import pairwise

import pytest
from bare_server import GET, LAST, codes, deaf, serving, talk, the_connection
from client import parse, until

from cfchat.errors import BodyTooLarge
from cfchat.net.stream import READ_SIZE
from cfchat.server.connection import READ_AHEAD
from cfchat.server.reply import Reply
from cfchat.server.request import Limits, Request


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


async def test_a_body_in_many_chunks_is_read_a_few_at_a_time() -> None:
    """A chunk costs time however short it is, and a read may bring tens of thousands of them."""
    sizes: list[int] = []

    async def other() -> None:
        """Stand for another client, which is served in each turn of the loop."""
        while True:
            sizes.append(0)
            await asyncio.sleep(0)

    async def handler(request: Request, reply: Reply) -> None:
        request.on_body = sizes.append
        beside = asyncio.create_task(other())
        reply.send(200, (), b"%d" % len(await request.read_body()))
        beside.cancel()

    ask = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(handler) as (_, port):
        received = await talk(port, ask + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
    assert parse(received).body == b"20000"
    grown = [size for size in sizes if size]
    assert max(map(int.__sub__, grown, [0, *grown])) < 1000
    assert not any(first and second for first, second in pairwise(sizes))


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
    ask = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(GET) + GET
    async with serving(deaf) as (_, port):
        assert codes(await talk(port, ask)) == [200]


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


async def test_expect_continue() -> None:
    ask = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    async with serving() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ask)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert (await reader.read()).endswith(b"\r\n\r\nok")
        writer.close()


@pytest.mark.parametrize(
    ("expected", "status"),
    [("100-continue", 200), ("100-Continue", 200), ("200-ok", 417), ("100-continue, magic", 417), ("", 200)],
)
async def test_what_can_be_expected(expected: str, status: int) -> None:
    ask = f"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\nExpect: {expected}\r\n\r\n"
    async with serving() as (_, port):
        assert codes(await talk(port, ask.encode() + b"a"))[-1] == status


async def test_slow_head_is_408_and_silence_is_silent() -> None:
    async with serving(limits=Limits(head=0.05, keep_alive=0.05)) as (_, port):
        assert codes(await talk(port, b"GET /")) == [408]
        assert await talk(port) == b""


async def test_slow_body_is_408_though_it_drips() -> None:
    async with serving(limits=Limits(body=0.05)) as (_, port):
        ask = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        assert codes(await talk(port, ask, b"a", b"b")) == [408]


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


async def test_a_short_reply_goes_out_to_a_client_that_has_closed_its_half() -> None:
    async with serving() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        writer.write_eof()
        assert (await reader.read()).endswith(b"\r\n\r\nhi")
        writer.close()


async def test_a_last_reply_reaches_a_client_that_goes_on_sending() -> None:
    async with serving() as (_, port):
        assert codes(await talk(port, LAST + b"x" * 3_000_000)) == [200]


async def test_what_is_sent_ahead_waits_its_turn_however_much_it_is() -> None:
    go = asyncio.Event()

    async def handler(request: Request, reply: Reply) -> None:
        body = await request.read_body()
        if body:
            reply.send(200, (), body)
        else:
            reply.start(200, ())
            reply.write(b"first")
            await go.wait()
            reply.end()

    ahead = b"".join(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n" + b"%050000d" % number for number in range(20)
    )
    async with serving(handler) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        assert (await reader.readuntil(b"first\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(ahead + LAST)
        connection = the_connection(server)
        await until(lambda: connection._wire.buffered > READ_AHEAD)
        go.set()
        for number in range(20):
            assert (await reader.readuntil(b"%050000d" % number)).count(b"HTTP/1.1 200 ") == 1
        assert codes(await reader.read()) == [200]
        writer.close()
        assert connection._wire.buffered < 2 * READ_AHEAD + READ_SIZE


async def test_a_client_that_sends_ahead_takes_turns_with_others() -> None:
    asked, between = 0, [0]

    async def handler(request: Request, reply: Reply) -> None:
        nonlocal asked
        asked += 1
        reply.send(200)

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


async def test_a_body_over_its_limit_is_over_it_each_time_it_is_asked_for() -> None:
    asked: list[type[Exception]] = []

    async def handler(request: Request, reply: Reply) -> None:
        for _ in range(2):
            try:
                await request.read_body(3)
            except BodyTooLarge as error:
                asked.append(type(error))
        reply.send(200, (), await request.read_body(4))

    async with serving(handler) as (_, port):
        received = await talk(port, LAST.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\nfour"))
    assert parse(received).body == b"four" and asked == [BodyTooLarge] * 2


async def test_a_body_is_read_in_turns_with_others() -> None:
    turns, taken = 0, list[int]()

    async def handler(request: Request, reply: Reply) -> None:
        stream = the_connection(server)._stream
        await until(lambda: stream._paused)
        before = turns
        await request.read_body()
        taken.append(turns - before)
        reply.send(200)

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
