"""The reply that a handler writes into: its pieces, its end, and what breaks."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from bare_server import GET, LAST, Paced, codes, serving, talk, the_connection
from client import parse, until
from hypothesis import given
from hypothesis import strategies as st
from standin import TURNS

from cfchat.errors import CfchatError, UpstreamInterrupted
from cfchat.server.reply import Reply
from cfchat.server.request import Limits, Request


async def test_every_reply_has_date_id_and_nosniff() -> None:
    async with serving() as (_, port):
        fields = parse(await talk(port, LAST)).fields
    assert fields["date"].endswith(" GMT")
    assert len(fields["x-request-id"]) == 16
    assert fields["x-content-type-options"] == "nosniff"


async def test_reader_that_does_not_read_is_aborted() -> None:
    """Its reply's source is paused, and the task of the handler cancelled."""
    ended, paced = asyncio.Event(), Paced()

    async def flood(request: Request, reply: Reply) -> None:
        reply.start(200, ())
        reply.follow(paced)
        try:
            while True:
                await paced.may.wait()
                reply.write(b"x" * 65536)
                await asyncio.sleep(0)
        finally:
            ended.set()

    async with serving(flood, Limits(write=0.05)) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await ended.wait()
        assert paced.pauses and not paced.may.is_set()
        writer.close()


@pytest.mark.parametrize("ask", [GET, LAST])
async def test_the_end_of_a_reply_that_nobody_reads_is_dropped(ask: bytes) -> None:
    """Less is unread than makes a stream wait: the connection must not stay open for it, nor uncounted."""
    transports: list[asyncio.Transport] = []

    async def handler(request: Request, reply: Reply) -> None:
        transport = the_connection(server)._stream.transport
        transports.append(transport)
        reply.start(200, ())
        while not transport.get_write_buffer_size():
            reply.write(b"x" * 16384)
            await asyncio.sleep(0)
        reply.end()

    async with serving(handler, Limits(write=0.05, keep_alive=0.05)) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(ask)
        await until(lambda: bool(transports) and transports[0].get_extra_info("socket").fileno() < 0)
        await until(lambda: not server._connections)
        writer.transport.abort()


async def test_broken_stream_is_cut_and_the_connection_ends() -> None:
    async def handler(request: Request, reply: Reply) -> None:
        reply.start(200, ())
        reply.write(b"ab")
        raise UpstreamInterrupted("gone")

    async with serving(handler) as (_, port):
        answer = parse(await talk(port, GET))
    assert (answer.raw, answer.whole) == (b"2\r\nab\r\n", False)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("error", [UpstreamInterrupted("gone"), ZeroDivisionError()])
async def test_the_last_words_are_with_the_client_before_the_cut(
    version: bytes, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await request.read_body()
        reply.start(200, ())
        reply.write(b"ab")
        raise error

    monkeypatch.setattr("cfchat.server.reply.BEFORE_CUT", 3600)
    async with serving(handler) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET.replace(b"1.1", version))
        await reader.readuntil(b"ab")
        for _ in range(TURNS):
            await asyncio.sleep(0)  # a cut that does not wait comes now
        assert server.connections == 1 and not reader.at_eof()
        writer.close()  # nobody waits for a client that has left
        await until(lambda: not server.connections)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_fault_of_ours_in_mid_reply_looks_broken(version: bytes) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        reply.start(200, ())
        reply.write(b"")
        reply.write(b"ab")
        raise ZeroDivisionError("secret")

    async with serving(handler) as (_, port):
        if version == b"1.1":
            answer = parse(await talk(port, GET))
            assert (answer.raw, answer.whole) == (b"2\r\nab\r\n", False)
        else:
            # Only a reset says that a close-delimited reply is not whole.
            with pytest.raises(ConnectionResetError):
                await talk(port, GET.replace(b"1.1", version))


async def test_fault_of_ours_is_500_without_a_word_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        raise ZeroDivisionError("secret")

    async with serving(handler) as (_, port):
        received = await talk(port, LAST)
    assert codes(received) == [500]
    assert b"secret" not in received
    assert any(record.exc_info for record in caplog.records)


async def test_nothing_follows_the_head_of_a_stream_that_head_asks_for() -> None:
    ended: list[str] = []

    async def handler(request: Request, reply: Reply) -> None:
        reply.start(200, ())
        reply.write(b"never asked for")
        reply.end(b"nor this")
        ended.append(str(reply.record.sent))

    async with serving(handler) as (_, port):
        received = await talk(port, GET.replace(b"GET", b"HEAD") + LAST.replace(b"GET", b"HEAD"))
    assert codes(received) == [200, 200] and received.count(b"Transfer-Encoding: chunked\r\n") == 2
    assert received.endswith(b"\r\n\r\n") and b"never" not in received and ended == ["0", "0"]


# --- pieces ---------------------------------------------------------------------------------------

PIECES = st.lists(st.binary(max_size=40) | st.sampled_from([b"", b"\r\n", b"0\r\n\r\n", b"x" * 5000]), max_size=6)


def ask(method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return b"%b / HTTP/%b\r\nHost: x\r\n\r\n" % (method, version)


@given(PIECES, st.binary(max_size=9), st.lists(st.booleans(), min_size=1))
async def test_pieces_are_chunks_however_they_are_written(pieces: list[bytes], last: bytes, turns: list[bool]) -> None:
    """With a turn of the loop behind each or without; and what follows on the connection is the next reply."""

    async def handler(request: Request, reply: Reply) -> None:
        reply.start(200, ())
        for number, piece in enumerate(pieces):
            reply.write(piece)
            if turns[number % len(turns)]:
                await asyncio.sleep(0)
        reply.end(last)
        sent.append(reply.record.sent)

    sent: list[int] = []
    whole = b"".join([*pieces, last])
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, last) if piece) + b"0\r\n\r\n"
    async with serving(handler) as (_, port):
        received = await talk(port, ask() + ask(b"HEAD") + ask(version=b"1.0"))
    first, received = received.split(b"\r\n\r\n", 1)
    assert first.startswith(b"HTTP/1.1 200 ") and received.startswith(chunks)
    second, third, raw = received.removeprefix(chunks).split(b"\r\n\r\n", 2)
    assert second.startswith(b"HTTP/1.1 200 ") and third.startswith(b"HTTP/1.1 200 ")
    assert b"Transfer-Encoding: chunked" in second and b"Transfer-Encoding" not in third and raw == whole
    assert sent == [len(whole), 0, len(whole)]


async def test_a_piece_is_with_the_client_while_the_handler_waits() -> None:
    """The head goes out with the first piece, the last piece with the end."""
    go = asyncio.Event()

    async def handler(request: Request, reply: Reply) -> None:
        reply.start(200, ())
        assert not reply.begun and reply.record.first is None
        reply.write(b"one")
        assert reply.begun and reply.record.first is not None
        await go.wait()
        reply.end(b"two")

    async with serving(handler) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(LAST)
        await reader.readuntil(b"3\r\none\r\n")
        go.set()
        assert await reader.read() == b"3\r\ntwo\r\n0\r\n\r\n"
        writer.close()


async def test_common_fields_are_in_every_reply() -> None:
    async def handler(request: Request, reply: Reply) -> None:
        reply.common = [("X-Common", "1")]
        if request.path == "/stream":
            reply.start(200, [("X-Own", "2")])
            return reply.end(b"a")
        return reply.send(200, [("X-Own", "2")], b"a")

    async with serving(handler) as (_, port):
        for path in (b"/", b"/stream"):
            fields = parse(await talk(port, LAST.replace(b"/ ", path + b" "))).fields
            assert (fields["x-common"], fields["x-own"]) == ("1", "2")


# --- heartbeats -----------------------------------------------------------------------------------


async def test_silence_is_broken_by_heartbeats_and_only_silence() -> None:
    beaten = asyncio.Event()

    async def handler(request: Request, reply: Reply) -> None:
        reply.start(200, (), heartbeat=b":")
        await beaten.wait()
        for _ in range(30):
            reply.write(b"b")
            await asyncio.sleep(0.005)
        beaten.clear()
        await beaten.wait()
        reply.end(b"c")
        await asyncio.sleep(0.15)

    async with serving(handler, Limits(heartbeat=0.1)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(LAST)
        received = await reader.readuntil(b":\r\n")
        beaten.set()
        received += await reader.readuntil(b":\r\n")
        beaten.set()
        body = parse(received + await reader.read()).body
        writer.close()
    assert re.fullmatch(rb":+b{30}:+c", body)


async def test_what_is_known_in_time_is_in_the_head() -> None:
    """A late field counts as long as no heartbeat has taken the head with it."""
    beaten = asyncio.Event()

    async def handler(request: Request, reply: Reply) -> None:
        reply.start(200, [("X-Early", "1")], heartbeat=b":")
        if request.path == "/late":
            await beaten.wait()
        reply.late = [("X-Late", "1")]
        reply.end(b"a")

    async with serving(handler, Limits(heartbeat=0.01)) as (_, port):
        soon = parse(await talk(port, LAST))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(LAST.replace(b"/ ", b"/late "))
        head = await reader.readuntil(b"1\r\n:\r\n")
        beaten.set()
        late = parse(head + await reader.read())
        writer.close()
    assert (soon.fields["x-early"], soon.fields["x-late"], soon.body) == ("1", "1", b"a")
    assert late.fields["x-early"] == "1" and "x-late" not in late.fields
    assert late.whole and re.fullmatch(b":+a", late.body)


async def test_the_replies_of_a_connection_move_one_timer() -> None:
    """None is set for a reply without heartbeats, and none is left behind by the connection."""
    timers: list[Any] = []
    outs: list[Any] = []

    async def handler(request: Request, reply: Reply) -> None:
        reply.start(200, (), heartbeat=b":" if request.path == "/beats" else b"")
        outs.append(reply._out)
        timers.append(outs[-1].beats._timer)
        if request.path == "/beats" and len(timers) > 3:
            raise UpstreamInterrupted("gone")
        reply.end(b"a")

    async with serving(handler) as (_, port):
        beats, last = LAST.replace(b"/ ", b"/beats "), b"Connection: close\r\n"
        await talk(port, LAST.replace(last, b"") + beats.replace(last, b"") * 2 + beats)
    assert timers[0] is None and timers[1] is timers[2] is timers[3] is not None
    assert outs[0].beats._timer is None and timers[1].cancelled()


# --- the end --------------------------------------------------------------------------------------


def say(error: CfchatError) -> bytes:
    return f"({error.message})".encode()


async def test_last_words_end_a_reply_that_breaks_off() -> None:
    """It is whole for the framing: the connection serves on."""

    async def handler(request: Request, reply: Reply) -> None:
        reply.start(200, (), fail=say)
        reply.write(b"ab")
        raise UpstreamInterrupted("gone")

    async with serving(handler) as (_, port):
        received = await talk(port, GET + LAST)
    assert codes(received) == [200, 200] and received.count(b"2\r\nab\r\n6\r\n(gone)\r\n0\r\n\r\n") == 2


async def test_a_failure_before_the_first_piece_has_its_own_status() -> None:
    async def handler(request: Request, reply: Reply) -> None:
        reply.start(200, [("X-Own", "2")], heartbeat=b":", fail=say)
        raise UpstreamInterrupted("gone")

    async with serving(handler) as (_, port):
        received = await talk(port, GET + LAST)
    assert codes(received) == [UpstreamInterrupted.status] * 2 and b"X-Own" not in received


@pytest.mark.parametrize("last_words", [True, False])
async def test_a_server_that_stops_ends_a_reply_by_its_last_words_or_a_cut(last_words: bool) -> None:
    begun = asyncio.Event()

    async def handler(request: Request, reply: Reply) -> None:
        reply.start(200, (), fail=say if last_words else None)
        reply.write(b"ab")
        begun.set()
        await asyncio.Event().wait()

    async with serving(handler) as (server, port):
        talking = asyncio.create_task(talk(port, GET))
        await begun.wait()
        await server.drain(0.01)
        answer = parse(await talking)
    assert answer.raw.startswith(b"2\r\nab\r\n") and answer.whole == last_words
    assert (b"(This server is stopping.)" in answer.raw) == last_words


async def test_a_reply_that_its_handler_leaves_without_an_end_is_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        if request.path == "/begun":
            reply.start(200, ())
            reply.write(b"ab")

    async with serving(handler) as (_, port):
        assert codes(await talk(port, LAST)) == [500]
        assert not parse(await talk(port, LAST.replace(b"/ ", b"/begun "))).whole
    faults = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert faults == ["the handler left its reply without an end"] * 2


async def test_a_fault_behind_the_end_of_a_reply_does_not_touch_it(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        reply.send(200, (), b"ab")
        raise ZeroDivisionError

    async with serving(handler) as (_, port):
        received = await talk(port, GET + LAST)
    assert codes(received) == [200, 200] and received.endswith(b"ab")
    assert caplog.text.count("reply failed") == 2


# --- the client's pace ----------------------------------------------------------------------------


async def test_a_client_that_reads_again_has_all() -> None:
    """What waits for it here is bounded by what is written in one call."""
    paced, most, size = Paced(), 0, 200

    async def handler(request: Request, reply: Reply) -> None:
        nonlocal most
        stream = the_connection(server)._stream
        reply.start(200, ())
        reply.follow(paced)
        for number in range(size):
            await paced.may.wait()
            reply.write(b"%05d" % number * 10_000)
            most = max(most, stream.unsent)
        reply.end()

    async with serving(handler) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(LAST)
        await until(lambda: paced.pauses > 0 and not paced.may.is_set())
        body = parse(await reader.read()).body
        writer.close()
    assert body == b"".join(b"%05d" % number * 10_000 for number in range(size))
    assert paced.may.is_set() and most <= 50_000 + 32 * 1024 + 100


async def test_a_source_that_comes_to_a_client_who_is_slow_already_waits_at_once() -> None:
    paced, slow = Paced(), asyncio.Event()

    async def handler(request: Request, reply: Reply) -> None:
        reply.start(200, ())
        while not the_connection(server)._stream.full:
            reply.write(b"x" * 65536)
            await asyncio.sleep(0)
        reply.follow(paced)
        assert not paced.may.is_set()
        slow.set()
        await paced.may.wait()
        reply.end()

    async with serving(handler) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(LAST)
        await slow.wait()
        assert parse(await reader.read()).whole
        writer.close()
