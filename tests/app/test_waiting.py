"""The bytes that wait: bounded for all, and for each client by what is left for the others."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from client import parse, request, until
from house import HELLO, House, house
from hypothesis import given
from hypothesis import strategies as st
from standin import StandIn, event, reply, silence

from cfchat.app.hooks import Hooks
from cfchat.app.routes import Settings
from cfchat.app.waiting import Kept, Waiting
from cfchat.errors import Overloaded
from cfchat.server import request as of_requests
from cfchat.server.request import Request

MOST = 200_000
APP = Settings(max_waiting=MOST, max_streams=2, max_streams_each=2)
QUARTER = json.dumps([{"role": "user", "content": "x" * (MOST // 4 - 200)}]).encode()  # and nearly all of it
REQUEST = of_requests.__file__  # where bodies are kept
WORDS = reply(event("Hello") + b"data: [DONE]\n\n")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 120))))
def test_the_sums_are_right_and_there_is_always_room_for_another(steps: list[tuple[str, int, int]]) -> None:
    waiting = Waiting(100)
    kept: dict[tuple[str, int], Kept] = {}
    for name, index, size in steps:
        one = kept.setdefault((name, index), Kept(waiting, name))
        before = one.size
        try:
            one.resize(size)
        except Overloaded as error:
            assert one.size == before < size and error.retry_after
            others = sum(other.size for key, other in kept.items() if key[0] == name and other is not one)
            assert others + size > 100 - (waiting.size - before + size)
        each = {name: sum(one.size for key, one in kept.items() if key[0] == name) for name in "abc"}
        assert waiting.size == sum(each.values()) <= 100
        assert waiting.each == {name: size for name, size in each.items() if size}
    for one in kept.values():
        with suppress(Overloaded):
            one.rename("d")
    assert waiting.size == sum(one.size for one in kept.values()) == waiting.each.get("d", 0)


@asynccontextmanager
async def sent(cfchat: House, data: bytes, address: str = "127.0.0.1") -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection("127.0.0.1", cfchat.port, local_addr=(address, 0))
    writer.write(data)
    yield reader
    writer.transport.abort()


async def ask(cfchat: House, address: str, body: bytes = QUARTER) -> tuple[int, dict[str, str]]:
    async with sent(cfchat, request(body), address) as reader:
        answer = parse(await reader.read())
        return answer.status, answer.fields


PARTS = {
    "half-sent": request(QUARTER)[:-10],
    "half-sent in chunks": request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    + b"%x\r\n%b" % (len(QUARTER), QUARTER[:-10]),
    "whole": request(QUARTER),
}


@pytest.mark.parametrize("part", PARTS)
async def test_what_waits_is_bounded_and_each_client_has_a_share(part: str) -> None:
    """Three wait: two for the model and one for its turn, or all for the rest of their bodies."""
    async with StandIn([silence()], repeat=True) as standin, house(standin, app=APP) as cfchat:
        waiting = cfchat.app.waiting
        async with AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(sent(cfchat, PARTS[part]))
            await until(lambda: waiting.size > 2 * (MOST // 4 - 300))
            status, fields = await ask(cfchat, "127.0.0.1")
            assert (status, fields["retry-after"]) == (503, "1")
            await stack.enter_async_context(sent(cfchat, PARTS[part], "127.0.0.2"))
            await until(lambda: waiting.size > 3 * (MOST // 4 - 300))
            assert (await ask(cfchat, "127.0.0.3"))[0] == 503  # it would be all that is left
            assert waiting.size <= MOST
        await until(lambda: not waiting.size)
        assert not waiting.each


async def test_bytes_that_a_hook_reads_count_for_the_name_it_gives() -> None:
    names: list[dict[str, int]] = []

    async def authenticate(request: Request) -> str:
        await request.read_body()
        names.append(dict(cfchat.app.waiting.each))
        return "ann"

    ours = Hooks(authenticate=authenticate)
    async with StandIn([silence()], repeat=True) as standin, house(standin, app=APP, hooks=ours) as cfchat:
        waiting = cfchat.app.waiting
        async with sent(cfchat, request(QUARTER)), sent(cfchat, request(QUARTER), "127.0.0.2"):
            await until(lambda: waiting.each.get("key ann", 0) > 2 * len(QUARTER))
            assert list(waiting.each) == ["key ann"] and names[0] == {"127.0.0.1": len(QUARTER)}
            assert (await ask(cfchat, "127.0.0.3"))[0] == 503


async def test_nothing_waits_from_the_first_words_on() -> None:
    async with StandIn([reply(event("Hel")), WORDS], repeat=True) as standin, house(standin, app=APP) as cfchat:
        async with sent(cfchat, request(QUARTER)) as reader:
            await reader.readuntil(b"Hel")
            assert not cfchat.app.waiting.size
        for body in (QUARTER, b"[" + b" " * 9000, json.dumps(HELLO).encode()):
            await ask(cfchat, "127.0.0.1", body)
            assert not cfchat.app.waiting.size


async def test_what_is_refused_is_not_kept_while_its_client_goes_on() -> None:
    async with StandIn([]) as standin, house(standin, app=APP) as cfchat:
        reader, writer = await cfchat.connect()
        tracemalloc.start()
        try:
            writer.write(request(b"x" * MOST)[: MOST // 3])
            await until(lambda: cfchat.app.waiting.size > MOST // 4)
            writer.write(b"x" * (MOST // 3))
            assert b" 503 " in await reader.readline()
            kept = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, REQUEST)])
        finally:
            tracemalloc.stop()
        assert sum(trace.size for trace in kept.traces) < MOST // 10
        writer.transport.abort()
