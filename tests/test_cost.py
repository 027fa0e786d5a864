"""What a token costs, in work and not in time: calls made by cfchat's own code, writes, bytes looked at.

Whoever adds a call for each token, or a write for each event of a read, finds it here.
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
from standin import Exchange, StandIn, chunks_of, head_of

import cfchat

HOME = str(Path(cfchat.__file__).parent)
CHUNKED = head_of(200, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")])
SHAPES = {
    "classic": '{"response":"%s"}',
    "padded": '{"response":"%s","p":"abdef"}',
    "openai": '{"id":"1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"%s"}}]}',
}
BODY = b'[{"role":"user","content":"Hello"}]'
ASK = b"POST /api/chatbot HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
END = chunks_of(b"data: [DONE]\n\n")[0] + b"0\r\n\r\n"


def events(shape: str, first: int, count: int) -> bytes:
    return b"".join(f"data: {SHAPES[shape] % f' w{number:05d}'}\n\n".encode() for number in range(first, first + count))


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Calls made while the block runs by functions in cfchat's own files, by the function's name."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
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


@pytest.mark.parametrize("shape", SHAPES)
async def test_show(shape: str) -> None:
    async with replies() as (reply,):
        await reply.say(shape, 1, 1)
        await reply.say(shape, 2, 1)
        with counting() as calls:
            for number in range(100):
                await reply.say(shape, 3 + number, 1)
        print(shape, sum(calls.values()) / 100)
        for name, n in calls.most_common(60): print("   ", name, n / 100)
        with counting() as calls:
            for number in range(10):
                await reply.say(shape, 200 + number * 100, 100)
        print(shape, "burst", sum(calls.values()) / 1000)
