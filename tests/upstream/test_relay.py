"""Words that are handed on the moment they come, against words that are waited for: the same for any stream and cut."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, chain, count, cycle, repeat

from client import unchunk, until
from house import house, quicker
from hypothesis import given
from hypothesis import strategies as st
from paced import ASK, CHUNKED
from standin import Exchange, Model, Script, StandIn, event, raw
from streams import CUTS, cut, streams

from cfchat.conversation.model import Delta
from cfchat.net.stream import Stream
from cfchat.server.server import _Connection, _Stream
from cfchat.upstream.answer import Answer, Deadlines
from cfchat.upstream.connection import Connection
from cfchat.wire.bodies import LAST_CHUNK, encode_chunk

TURNS = st.lists(st.booleans(), min_size=1, max_size=5)
ALIKE = [b'data: {"response":" word"}'] * 3


class Transport(asyncio.Transport):
    """Takes the request, and keeps it."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


class Tape:
    """Where the batches of a reply come together, whichever way they came; a relay that is ready now and then."""

    def __init__(self, turns: Iterator[bool]) -> None:
        self.deltas: list[Delta] = []
        self.relayed = 0
        self._turns = turns

    def ready(self) -> bool:
        self._ready = next(self._turns)
        return self._ready

    def take(self, batch: list[Delta]) -> None:
        assert self._ready
        self.deltas += batch
        self.relayed += 1


async def over_a_connection(pieces: Iterable[bytes], turns: Sequence[bool], tape: Tape) -> str:
    """Read a reply that comes in these pieces, turns of the loop behind each where `turns` says so; its error.

    Behind the first ones always: they show what the others are like.
    """
    stream = Stream()
    stream.connection_made(Transport())
    answer = Answer(Connection(stream), "@cf/a/b", 99, Deadlines(), "-")

    async def read() -> None:
        await answer.begin(b"")
        answer.relay_to(tape)
        async for batch in answer.batches():
            tape.deltas += batch

    task, waits = asyncio.create_task(read()), chain(repeat(True, 5), cycle(turns))
    await asyncio.sleep(0)
    for piece in (CHUNKED, *pieces):
        stream.get_buffer(-1)[: len(piece)] = piece
        stream.buffer_updated(len(piece))
        for _ in range(3 if next(waits) else 0):
            await asyncio.sleep(0)
    stream.eof_received()
    await asyncio.wait([task])
    answer.close()
    return repr(task.exception())


@given(streams(), CUTS, TURNS, TURNS)
def test_what_is_handed_on_as_it_comes_is_what_is_read(
    raw: bytes, cuts: list[int], turns: list[bool], ready: list[bool]
) -> None:
    """Each event a chunk, each chunk a read; or cut anywhere."""
    events = [event + b"\n\n" for event in ALIKE + raw.split(b"\n\n")]
    chunks = [encode_chunk(event) for event in events]
    body = b"".join([*chunks, LAST_CHUNK])
    for pieces in ([*chunks, LAST_CHUNK], cut(body, cuts), [encode_chunk(b"".join(events)), LAST_CHUNK]):
        expected, tape = Tape(repeat(False)), Tape(cycle(ready))
        error = asyncio.run(over_a_connection(pieces, [True], expected))
        assert asyncio.run(over_a_connection(pieces, turns, tape)) == error
        assert text(tape) == text(expected)
        assert tape.deltas[-1:] == expected.deltas[-1:] or error != "None"


def text(tape: Tape) -> str:
    return "".join(delta.text for delta in tape.deltas)


@given(st.lists(st.integers(1, 2), min_size=10), TURNS, TURNS)
def test_words_keep_their_order(sizes: list[int], turns: list[bool], ready: list[bool]) -> None:
    """Whether they come alone or together, are awaited or not, and taken or not."""
    numbers, tape = count(), Tape(cycle(ready))
    events = [b"".join(b'data: {"response":" %d"}\n\n' % next(numbers) for _ in range(size)) for size in sizes]
    pieces = [*map(encode_chunk, events), encode_chunk(b"data: [DONE]\n\n") + LAST_CHUNK]
    assert asyncio.run(over_a_connection(pieces, turns, tape)) == "None"
    assert text(tape) == "".join(f" {number}" for number in range(next(numbers)))


async def test_words_are_handed_on_while_the_next_are_awaited() -> None:
    tape = Tape(repeat(True))
    chunks = [encode_chunk(b'data: {"response":" %d"}\n\n' % number) for number in range(100)]
    end = encode_chunk(b"data: [DONE]\n\n") + LAST_CHUNK
    assert await over_a_connection([*chunks, end], [True], tape) == "None"
    assert text(tape) == "".join(f" {number}" for number in range(100))
    assert tape.relayed >= 90


async def test_odd_events_now_and_then_end_nothing() -> None:
    """A number comes as a number, and is not like the words around it."""
    tape = Tape(repeat(True))
    datas = [b"7" if number % 10 == 0 else b'" word"' for number in range(400)]
    chunks = [encode_chunk(b'data: {"response":%b}\n\n' % data) for data in datas]
    end = encode_chunk(b"data: [DONE]\n\n") + LAST_CHUNK
    assert await over_a_connection([*chunks, end], [True], tape) == "None"
    assert text(tape) == "".join("7" if data == b"7" else " word" for data in datas)
    assert tape.relayed >= 280


# --- through real sockets --------------------------------------------------------------------------


async def test_words_that_are_handed_on_are_in_time() -> None:
    """For longer than the time between two words may be."""
    model = Model()
    async with StandIn([model]) as standin, house(standin, change=quicker(between_deltas=0.3)) as cfchat:
        reader, writer = await cfchat.connect()
        writer.write(ASK)
        for number in range(30):
            model.say(f" {number};")
            await asyncio.wait_for(reader.readuntil(b";"), 5)
            await asyncio.sleep(0.02)
        model.end()
        await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        counted = cfchat.app.metrics.tokens.samples()
    said = sum(len(f" {number};") for number in range(30))
    assert counted['cfchat_tokens_total{kind="completion"}'] == said // 3


def one_by_one(*words: str) -> Script:
    """A reply in chunks that come alone."""
    pieces = [CHUNKED, *map(encode_chunk, map(event, words)), encode_chunk(b"data: [DONE]\n\n") + LAST_CHUNK]
    return raw(b"".join(pieces), list(accumulate(map(len, pieces)))[1:])


async def test_nothing_of_a_reply_goes_to_whom_the_connection_answered_before() -> None:
    """The first event has no words: what comes behind it is awaited before there is anybody to hand it on to."""
    words = [f" {number}" for number in range(20)]
    async with StandIn([one_by_one(*words), one_by_one("", *words), one_by_one("end")]) as standin:
        async with house(standin) as cfchat:
            reader, writer = await cfchat.connect()
            writer.write(ASK)
            first = await reader.readuntil(b"\r\n0\r\n\r\n")
            other = await cfchat.post()
            writer.write(ASK)
            third = await reader.readuntil(b"\r\n0\r\n\r\n")
            writer.close()
            await writer.wait_closed()
        assert standin.connections == 1
    assert unchunk(first.partition(b"\r\n\r\n")[2]) == other.body == "".join(words).encode()
    assert third.startswith(b"HTTP/1.1 200 ") and third.endswith(b"\r\nend\r\n0\r\n\r\n")


async def test_a_client_that_does_not_read_holds_up_what_is_handed_on() -> None:
    """What waits for it is in the kernels' buffers, and little of it here."""
    held_up = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(CHUNKED)
        with suppress(ConnectionError):
            for _ in range(6000):
                sending = asyncio.ensure_future(exchange.send(encode_chunk(event("x" * 8000))))
                if not (await asyncio.wait([sending], timeout=1))[0]:
                    held_up.set()
                await sending

    async with StandIn([script]) as standin, house(standin) as cfchat:
        _, writer = await cfchat.connect()
        writer.write(ASK)
        await asyncio.wait_for(held_up.wait(), 30)
        writer.transport.abort()
        await cfchat.logged("client gone")


async def test_nothing_of_a_reply_waits_for_the_garbage_collector() -> None:
    """What holds each other is freed late, and by dearer work."""
    kinds = (Answer, _Stream, _Connection)
    async with StandIn([one_by_one("a", "b", "c", "d")], repeat=True) as standin, house(standin) as cfchat:
        await cfchat.post()
        gc.collect()
        gc.disable()
        try:
            before = {id(thing) for thing in gc.get_objects() if type(thing) in kinds}  # of other tests
            for _ in range(3):
                assert (await cfchat.post()).body == b"abcd"
            await until(lambda: not cfchat.server.connections)
            await asyncio.sleep(0)
            left = [thing for thing in gc.get_objects() if type(thing) in kinds and id(thing) not in before]
        finally:
            gc.enable()
        assert not left
