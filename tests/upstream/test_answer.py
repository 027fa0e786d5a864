"""A reply that is pushed: the same text, order and end for any stream, cut, pause and turn of the loop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable, Iterator
from contextlib import aclosing, suppress
from itertools import accumulate, count, cycle, repeat

import pytest
from client import unchunk, until
from house import house, quicker
from hypothesis import given
from hypothesis import strategies as st
from paced import ASK, CHUNKED
from standin import Exchange, Model, Script, StandIn, event, raw
from streams import CUTS, cut, streams

from cfchat.conversation.model import Conversation, Delta, Message
from cfchat.errors import UpstreamError, UpstreamInterrupted
from cfchat.net.mailbox import LIMIT
from cfchat.net.stream import READ_SIZE, Stream
from cfchat.server.connection import Connection as ServerConnection
from cfchat.server.reply import Reply
from cfchat.upstream import answer as answers
from cfchat.upstream.answer import Answer, Deadlines
from cfchat.upstream.cloudflare.reply import ReplyReader
from cfchat.upstream.cloudflare.skim import EventReader
from cfchat.upstream.connection import Connection
from cfchat.wire.bodies import LAST_CHUNK, encode_chunk

TURNS = st.lists(st.booleans(), min_size=1, max_size=5)
ALIKE = [b'data: {"response":" word"}'] * 3
DONE = encode_chunk(b"data: [DONE]\n\n")


class Transport(asyncio.Transport):
    """Takes the request whole, at once; notes whether it is read from."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def abort(self) -> None:
        self.closed = True


class Pouring:
    """An answer over a transport of this test's: `receive` what comes, and what was taken is in `deltas`.

    `slow` says for each batch whether the client is too slow for it, and the answer paused. The first words wait for
    `ready`.
    """

    def __init__(self, slow: Iterator[bool] = repeat(False), deadlines: Deadlines = Deadlines()) -> None:
        self.ready = asyncio.Event()
        self.ready.set()
        self.transport = Transport()
        self.stream = Stream()
        self.stream.connection_made(self.transport)
        self.connection = Connection(self.stream)
        self.answer = Answer(self.connection, "@cf/a/b", 99, deadlines, "-")
        self.deltas: list[Delta] = []
        self.batches = 0
        self._slow = slow
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        self.answer.send(b"")
        await self.answer.begin()
        await self.ready.wait()
        self.deltas += await self.answer.pour(self._take)

    def _take(self, batch: list[Delta]) -> None:
        assert batch and not self.task.done()
        self.deltas += batch
        self.batches += 1
        if next(self._slow):
            self.answer.pause()

    async def receive(self, data: bytes, turns: int = 0) -> None:
        """Let bytes come, once they are read; then so many turns of the loop."""
        while self.transport.paused:
            await asyncio.sleep(0)
            self.answer.resume()
        for at in range(0, len(data), READ_SIZE):
            piece = data[at : at + READ_SIZE]
            self.stream.get_buffer(-1)[: len(piece)] = piece
            self.stream.buffer_updated(len(piece))
        for _ in range(turns):
            await asyncio.sleep(0)

    async def end(self) -> str:
        """Let the connection end; return the reply's error."""
        if self.transport.paused:
            self.answer.resume()
        self.stream.eof_received()
        await asyncio.wait([self.task])
        self.answer.log_passed_over()
        self.connection.close()
        return repr(self.task.exception())

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)


async def pour(
    pieces: Iterable[bytes], turns: Iterator[bool] = repeat(True), slow: Iterator[bool] = repeat(False)
) -> tuple[str, str, Delta | None]:
    """The text, error and last delta of a reply that comes in these pieces.

    Behind each there are turns of the loop where `turns` says so.
    """
    pouring = Pouring(slow)
    await asyncio.sleep(0)
    for piece in pieces:
        await pouring.receive(piece, 3 if next(turns) else 0)
    error = await pouring.end()
    return pouring.text, error, pouring.deltas[-1] if pouring.deltas else None


def parsed_whole(body: bytes) -> str:
    """The text of a body, without a connection."""
    reader = EventReader(ReplyReader(99))
    return "".join(delta.text for delta in [*reader.feed(body), *reader.close()])


@given(streams(), CUTS, TURNS, TURNS)
def test_any_cut_is_poured_as_it_is_parsed_whole(
    raw: bytes, cuts: list[int], turns: list[bool], slow: list[bool]
) -> None:
    """Each event a chunk, each chunk a read; or cut anywhere; or all at once."""
    events = [event + b"\n\n" for event in ALIKE + raw.split(b"\n\n")]
    chunks = [encode_chunk(event) for event in events]
    text, error, last = asyncio.run(pour([CHUNKED, encode_chunk(b"".join(events)) + LAST_CHUNK]))
    assert error != "None" or text == parsed_whole(b"".join(events))
    for pieces in ([*chunks, LAST_CHUNK], cut(b"".join([*chunks, LAST_CHUNK]), cuts)):
        other = asyncio.run(pour([CHUNKED, *pieces], cycle(turns), cycle(slow)))
        assert other[:2] == (text, error)
        assert other[2] == last or error != "None"


@given(st.lists(st.integers(1, 2), min_size=10), TURNS, TURNS)
def test_words_keep_their_order(sizes: list[int], turns: list[bool], slow: list[bool]) -> None:
    """Whether they come alone or together, and however often the client is too slow for them."""
    numbers = count()
    events = [b"".join(b'data: {"response":" %d"}\n\n' % next(numbers) for _ in range(size)) for size in sizes]
    pieces = [CHUNKED, *map(encode_chunk, events), DONE + LAST_CHUNK]
    text, error, _ = asyncio.run(pour(pieces, cycle(turns), cycle(slow)))
    assert (text, error) == ("".join(f" {number}" for number in range(next(numbers))), "None")


@given(st.lists(st.sampled_from(["pause", "resume", "turn", "read"]), max_size=60))
async def test_any_schedule_of_reads_and_pauses_gives_the_same_bytes_and_one_end(steps: list[str]) -> None:
    pouring, said = Pouring(), 0
    await asyncio.sleep(0)
    await pouring.receive(CHUNKED + encode_chunk(event("0;")), 3)
    for step in steps:
        if step == "turn":
            await asyncio.sleep(0)
        elif step == "pause":
            pouring.answer.pause()
            assert pouring.transport.paused
        elif step == "resume":
            pouring.answer.resume()
            assert not pouring.transport.paused
        elif not pouring.transport.paused:
            said += 1
            await pouring.receive(encode_chunk(event(f"{said};")))
        assert pouring.text == "".join(f"{number};" for number in range(said + 1))
    await pouring.receive(DONE + LAST_CHUNK)
    assert await pouring.end() == "None"
    assert pouring.text == "".join(f"{number};" for number in range(said + 1))


async def test_words_are_handed_on_in_the_call_that_reads_them() -> None:
    """No task is woken for them."""
    pouring = Pouring()
    await asyncio.sleep(0)
    await pouring.receive(CHUNKED)
    await pouring.receive(encode_chunk(event("first")), 3)
    for number in range(100):
        await pouring.receive(encode_chunk(event(f" {number}")))
        assert pouring.deltas[-1].text == f" {number}"
    await pouring.receive(DONE + LAST_CHUNK)
    assert await pouring.end() == "None"
    assert pouring.text == "first" + "".join(f" {number}" for number in range(100))


@pytest.mark.parametrize("ended", [False, True])
async def test_words_that_come_before_the_first_are_wanted_follow_them(ended: bool) -> None:
    pouring = Pouring()
    pouring.ready.clear()
    await asyncio.sleep(0)
    await pouring.receive(CHUNKED + encode_chunk(event("first")), 3)
    await pouring.receive(encode_chunk(event(" second")))
    await pouring.receive(encode_chunk(event(" third")) + (DONE + LAST_CHUNK if ended else b""))
    assert pouring.text == ""
    pouring.ready.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert pouring.text == "first second third"
    if not ended:
        await pouring.receive(DONE + LAST_CHUNK)
    assert await pouring.end() == "None"
    assert pouring.text == "first second third"


async def test_odd_events_now_and_then_end_nothing() -> None:
    """A number comes as a number, and is not like the words around it."""
    datas = [b"7" if number % 10 == 0 else b'" word"' for number in range(400)]
    chunks = [encode_chunk(b'data: {"response":%b}\n\n' % data) for data in datas]
    text, error, _ = await pour([CHUNKED, *chunks, DONE + LAST_CHUNK])
    assert (text, error) == ("".join("7" if data == b"7" else " word" for data in datas), "None")


# --- what breaks ----------------------------------------------------------------------------------

FAULTS = [
    (b"", "The connection to the model was lost."),
    (encode_chunk(b"event: error\ndata: boom\n\n"), "code none, inside a reply"),
    (encode_chunk(b'data: {"errors":[{"code":3040,"message":"busy"}]}\n\n'), "code 3040, inside a reply"),
    (b"xyz\r\n", "The model's server sent nonsense."),
    (encode_chunk(b"data: " + b"x" * (2 << 20)), "The model's server sent nonsense."),
    (LAST_CHUNK, "The reply was interrupted."),
]


@pytest.mark.parametrize("fault", FAULTS, ids=["end", "error event", "error", "framing", "too large", "no [DONE]"])
@pytest.mark.parametrize("together", range(4))
async def test_an_error_comes_behind_all_words_before_it(fault: tuple[bytes, str], together: int) -> None:
    """Be they in one read with it or not, and with the first words or not."""
    words = [encode_chunk(event(f"{number};")) for number in range(3)]
    pieces = [b"".join(words[:together]), b"".join(words[together:]) + fault[0]]
    if together == 3:
        pieces = [*words, fault[0]]
    pouring = Pouring()
    await asyncio.sleep(0)
    await pouring.receive(CHUNKED)
    for piece in pieces:
        await pouring.receive(piece, 3 * bool(piece))
    if fault[0]:
        await pouring.receive(encode_chunk(b"never"), 3)
    await pouring.end()
    error = pouring.task.exception()
    assert pouring.text == "0;1;2;" and isinstance(error, UpstreamError)
    assert fault[1] in f"{error} {error.detail}"


@pytest.mark.parametrize("ended", [b"", LAST_CHUNK], ids=["open", "ended"])
@pytest.mark.parametrize("first", [True, False])
async def test_a_fault_of_the_taker_is_raised_and_never_taken_for_an_end(ended: bytes, first: bool) -> None:
    """Also with words that come in one read with [DONE], and where the message goes on."""
    pouring = Pouring()

    def take(batch: list[Delta]) -> None:
        if batch[-1].text == "broken":
            raise ZeroDivisionError

    pouring._take = take  # type: ignore[method-assign]
    await asyncio.sleep(0)
    last = encode_chunk(event("broken")) + DONE + ended if not ended else encode_chunk(event("broken"))
    if not first:
        await pouring.receive(CHUNKED + encode_chunk(event("good")), 3)
        await pouring.receive(last, 3)
    else:
        await pouring.receive(CHUNKED + last, 3)
    assert isinstance(pouring.task.exception(), ZeroDivisionError)
    await pouring.receive(encode_chunk(event("more")) if ended else LAST_CHUNK, 3)  # nobody takes it
    pouring.connection.close()


async def test_the_client_is_slow_and_cloudflare_not_late() -> None:
    """From the first words on."""
    pouring = Pouring(repeat(True), Deadlines(between_deltas=0.05))
    await asyncio.sleep(0)
    await pouring.receive(CHUNKED + encode_chunk(event("one")), 3)
    for word in (event("two"), event("three")):
        assert pouring.transport.paused
        await asyncio.sleep(0.1)
        assert not pouring.task.done() and not pouring.connection.deadline.expired
        await pouring.receive(encode_chunk(word))
    await pouring.receive(DONE + LAST_CHUNK)
    assert await pouring.end() == "None" and pouring.text == "onetwothree"


# --- [DONE], and the message goes on --------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False], ids=["with the first words", "later"])
async def test_text_is_out_at_once_at_done_and_the_connection_kept_if_the_end_comes(together: bool) -> None:
    pouring = Pouring()
    await asyncio.sleep(0)
    await pouring.receive(CHUNKED)
    if together:
        await pouring.receive(encode_chunk(event("one")) + encode_chunk(event("two")) + DONE, 3)
    else:
        await pouring.receive(encode_chunk(event("one")), 3)
        await pouring.receive(encode_chunk(event("two")) + DONE)
    assert pouring.text == "onetwo" and not pouring.task.done()
    await pouring.receive(encode_chunk(event("never")), 1)  # behind [DONE] nothing counts
    await pouring.receive(LAST_CHUNK, 3)
    assert pouring.task.done() and pouring.task.exception() is None and pouring.text == "onetwo"
    pouring.connection.rest()
    assert pouring.connection.usable
    pouring.connection.close()


@pytest.mark.parametrize("how", ["late", "late after a pause", "cut", "nonsense"])
async def test_an_end_that_does_not_come_costs_the_connection_and_nothing_else(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "END_AFTER_DONE", 0.05)
    pouring = Pouring()
    await asyncio.sleep(0)
    await pouring.receive(CHUNKED + encode_chunk(event("one")), 3)
    await pouring.receive(encode_chunk(event("two")) + DONE)
    if how == "late after a pause":
        pouring.answer.pause()
        pouring.answer.resume()
    if how.startswith("late"):
        await asyncio.sleep(0.1)
        assert pouring.transport.closed
        pouring.stream.connection_lost(None)
    elif how == "cut":
        pouring.stream.eof_received()
    else:
        await pouring.receive(b"xyz\r\n")
    await pouring.task
    assert pouring.text == "onetwo"
    pouring.connection.rest()
    assert not pouring.connection.usable
    pouring.connection.close()


# --- a task that is cancelled ---------------------------------------------------------------------


@pytest.mark.parametrize("turns", [0, 1, 3])
@pytest.mark.parametrize("read", range(8))
async def test_it_may_be_cancelled_at_every_await(read: int, turns: int) -> None:
    """Before the head, in the head, behind it, at the first words, in mid-reply, at [DONE], at the end."""
    pieces = [CHUNKED[:9], CHUNKED[9:], *(encode_chunk(event(f"{number};")) for number in range(3)), DONE, LAST_CHUNK]
    pouring = Pouring()
    await asyncio.sleep(0)
    for piece in pieces[:read]:
        await pouring.receive(piece, turns)
    pouring.task.cancel()
    await asyncio.wait([pouring.task])
    assert pouring.task.cancelled() or read == len(pieces)
    before = pouring.text
    pouring.connection.rest()
    assert pouring.connection.usable == (not pouring.task.cancelled())
    for piece in pieces[read:]:  # nothing more is taken
        await pouring.receive(piece, 1)
    assert pouring.text == before and not pouring.connection.deadline.expired
    pouring.connection.close()


# --- batches --------------------------------------------------------------------------------------


async def test_batches_are_the_reply_and_end_with_its_error() -> None:
    pouring = Pouring()
    pouring.task.cancel()
    pouring.answer.send(b"")
    began = asyncio.create_task(pouring.answer.begin())
    await asyncio.sleep(0)
    await pouring.receive(CHUNKED + encode_chunk(event("one")), 3)
    await began
    batches: list[list[Delta]] = []
    with pytest.raises(UpstreamInterrupted):
        async for batch in pouring.answer.batches():
            batches.append(batch)
            if len(batches) < 3:
                await pouring.receive(encode_chunk(event(str(len(batches)))))
            else:
                pouring.stream.eof_received()
    assert ["".join(delta.text for delta in batch) for batch in batches] == ["one", "1", "2"]
    pouring.connection.close()


async def test_batches_that_nobody_takes_pause_the_upstream() -> None:
    """What waits here is bounded; all of it comes once it is taken."""
    held_up, size, each = asyncio.Event(), 1500, 8000

    async def script(exchange: Exchange) -> None:
        await exchange.send(CHUNKED)
        for number in range(size):
            sending = asyncio.ensure_future(exchange.send(encode_chunk(event(f"{number:05d};" + "x" * each))))
            if not (await asyncio.wait([sending], timeout=0.2))[0]:
                held_up.set()
            await sending
        await exchange.send(DONE + LAST_CHUNK)

    async with StandIn([script]) as standin, house(standin) as cfchat:
        conversation = Conversation((Message("user", "Hello"),))
        async with cfchat.upstream.ask(conversation) as answer, aclosing(answer.batches()) as batches:
            text = "".join([delta.text for delta in await anext(batches)])
            await asyncio.wait_for(held_up.wait(), 15)
            waiting = count_waiting(batches)
            assert 0 < waiting <= LIMIT + 2 * READ_SIZE
            assert len(answer.connection._stream._unread) <= 2 * READ_SIZE
            async for batch in batches:
                text += "".join([delta.text for delta in batch])
    assert text == "".join(f"{number:05d};" + "x" * each for number in range(size))


def count_waiting(batches: object) -> int:
    """How many characters wait in the mailbox of these batches."""
    size: int = batches.ag_frame.f_locals["mailbox"]._size  # type: ignore[attr-defined]
    return size


async def test_batches_that_are_left_leave_no_task() -> None:
    model = Model()
    async with StandIn([model]) as standin, house(standin) as cfchat:
        conversation = Conversation((Message("user", "Hello"),))
        async with cfchat.upstream.ask(conversation_said(model, conversation)) as answer:
            before = asyncio.all_tasks()
            async with aclosing(answer.batches()) as batches:
                await anext(batches)
                assert len(asyncio.all_tasks()) == len(before) + 1
            assert asyncio.all_tasks() == before
        await standin.wait_closed_by_peer()


def conversation_said(model: Model, conversation: Conversation) -> Conversation:
    model.say("one")
    return conversation


# --- through real sockets --------------------------------------------------------------------------


async def test_words_that_are_handed_on_are_in_time() -> None:
    """For longer than the time between two words may be."""
    model = Model()
    async with StandIn([model]) as standin, house(standin, change=quicker(between_deltas=0.15)) as cfchat:
        reader, writer = await cfchat.connect()
        writer.write(ASK)
        for number in range(30):
            model.say(f" {number};")
            await asyncio.wait_for(reader.readuntil(b";"), 5)
            await asyncio.sleep(0.01)
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
                if not (await asyncio.wait([sending], timeout=0.3))[0]:
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
    kinds = (Answer, Connection, Reply, ServerConnection, Stream)
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
