"""What a token costs, in work and not in time: calls made by cfchat's own code, writes, bytes looked at.

These tests fail if somebody adds a call for each token, or a write for each event of a read.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType

import pytest
from house import house
from paced import ASK, BODY, CHUNKED
from standin import Exchange, StandIn, chunks_of
from standin import reply as wire

import cfchat

HOME = str(Path(cfchat.__file__).parent)
SHAPES = {
    "classic": '{"response":"%s"}',
    "padded": '{"response":"%s","p":"abdef"}',
    "openai": '{"id":"1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"%s"}}]}',
    # The default model's. The number of the event is its usage, too.
    "gemma": '{"choices":[{"delta":{"content":"%s","reasoning_content":null},"finish_reason":null}],"p":"abdef",'
    '"usage":{"prompt_tokens":147,"completion_tokens":1%d,"total_tokens":1%d,"neurons":0.%d}}',
    "unlike": '{"response":"%s","id":"%s"}',  # no event is like another
}
END = chunks_of(b"data: [DONE]\n\n")[0] + b"0\r\n\r\n"


def events(shape: str, first: int, count: int) -> bytes:
    numbers = (f"{number:05d}" for number in range(first, first + count))
    event = SHAPES[shape]
    return b"".join(f"data: {event.replace('%s', ' w' + n).replace('%d', n)}\n\n".encode() for n in numbers)


class Calls(Counter[str]):
    """By the name of the function that was called, or calls; `writes` to sockets apart."""

    writes = 0


@contextmanager
def counting() -> Iterator[Calls]:
    """Calls made while the block runs by functions in cfchat's own files, by the function's name."""
    calls = Calls()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_qualname == "_SelectorSocketTransport.write":
            calls.writes += frame.f_back is not None and frame.f_back.f_code.co_filename.startswith(HOME)
        if event in ("call", "c_call") and frame.f_code.co_filename.startswith(HOME):
            calls[frame.f_code.co_qualname] += 1

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


class Reply:
    """A reply under way: each `say` is one write of the upstream, and ends when the client has it all."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reads: list[bytes] = []
        self._writes: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(self, exchange: Exchange) -> None:
        await exchange.send(CHUNKED)
        while data := await self._writes.get():
            await exchange.send(data)

    async def begin(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writer.write(ASK)

    async def say(self, shape: str, first: int, count: int) -> None:
        self._writes.put_nowait(b"".join(chunks_of(events(shape, first, count))))
        last, received = b"w%05d" % (first + count - 1), b""
        while last not in received:
            received += await self._read()

    async def end(self) -> None:
        self._writes.put_nowait(END)
        while not self.reads[-1].endswith(b"\r\n0\r\n\r\n") and self.reads[-1] != b"0\r\n\r\n":
            await self._read()
        self._writes.put_nowait(b"")
        self._writer.close()
        await self._writer.wait_closed()

    async def _read(self) -> bytes:
        self.reads.append(await self._reader.read(1 << 20))
        return self.reads[-1]


@asynccontextmanager
async def replies(count: int = 1) -> AsyncIterator[list[Reply]]:
    """So many replies, begun one after the other, that have said their first words."""
    under_way: list[Reply] = []

    async def script(exchange: Exchange) -> None:
        await under_way[-1].script(exchange)

    async with StandIn([script], repeat=True) as standin, house(standin) as cfchat:
        for _ in range(count):
            reply = Reply(cfchat.port)
            under_way.append(reply)
            await reply.begin()
            await reply.say("classic", 0, 1)
        yield under_way
        for reply in under_way:
            await reply.end()


async def cost(reply: Reply, shape: str, first: int, count: int, each: int) -> Calls:
    """The calls for so many tokens, `each` of them in a write of the upstream."""
    for number in range(first - 4 * each, first, each):
        await reply.say(shape, number, each)
    with counting() as calls:
        for number in range(first, first + count, each):
            await reply.say(shape, number, each)
    return calls


# What a read, and a token more in it, cost in calls. Newer Pythons make fewer: what is inlined is none.
MOST = {"classic": (48, 0.16), "padded": (48, 0.16), "openai": (48, 0.16), "gemma": (50, 0.5), "unlike": (65, 14.5)}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_token_costs_so_much_work(shape: str) -> None:
    each_read, each_token = MOST[shape]
    async with replies() as (reply,):
        one = await cost(reply, shape, 100, 100, 1)
        many = await cost(reply, shape, 2000, 5000, 500)
    assert sum(one.values()) / 100 <= each_read, one.most_common()
    assert sum(many.values()) / 5000 <= each_token, many.most_common()


async def test_a_request_costs_so_much_work() -> None:
    """A browser's, with a reply of three tokens, both connections kept."""
    fields = ["Host: localhost:8787", "User-Agent: Mozilla/5.0", "Accept: text/plain", "Accept-Language: en"]
    fields += ["Origin: http://localhost:8787", "Connection: keep-alive", "Content-Type: application/json"]
    head = "\r\n".join(["POST /api/chatbot HTTP/1.1", *fields, f"Content-Length: {len(BODY)}"])
    asked = head.encode() + b"\r\n\r\n" + BODY
    short = wire(events("classic", 0, 3) + b"data: [DONE]\n\n")
    async with StandIn([short], repeat=True) as standin, house(standin) as cfchat:
        reader, writer = await asyncio.open_connection("127.0.0.1", cfchat.port)
        for _ in range(5):
            with counting() as calls:
                writer.write(asked)
                assert b" w00000 w00001 w00002" in await reader.readuntil(b"\r\n0\r\n\r\n")
        assert standin.connections == 1
        writer.close()
        await writer.wait_closed()
    assert sum(calls.values()) <= 468, calls.most_common()


async def test_one_write_for_each_read() -> None:
    async with replies() as (reply,):
        calls = await cost(reply, "classic", 100, 1000, 20)
        reads = calls["Stream.buffer_updated"]
    assert 50 <= reads <= 60 and 0 < calls.writes <= reads


async def test_a_reply_that_is_there_is_one_write() -> None:
    """Head, words and end; and in the upstream's one read."""
    async with StandIn([wire(events("classic", 0, 30) + b"data: [DONE]\n\n")]) as standin, house(standin) as cfchat:
        await cfchat.upstream.pool.warm(1)
        reader, writer = await asyncio.open_connection("127.0.0.1", cfchat.port)
        with counting() as calls:
            writer.write(ASK)
            received = await reader.readuntil(b"\r\n0\r\n\r\n")
        assert received.startswith(b"HTTP/1.1 200 ") and received.count(b" w000") == 30
        assert calls.writes == 2  # the request to the model, and this reply
        writer.close()
        await writer.wait_closed()


async def test_a_token_costs_the_same_however_long_the_reply_and_however_many_there_are() -> None:
    async with replies() as (reply,):
        early = await cost(reply, "padded", 100, 100, 1)
        await reply.say("padded", 1000, 20_000)
        late = await cost(reply, "padded", 50_000, 100, 1)
    async with replies(30) as under_way:
        among = await cost(under_way[-1], "padded", 100, 100, 1)
    for calls in (late, among):
        assert abs(sum(calls.values()) - sum(early.values())) <= sum(early.values()) * 0.02
