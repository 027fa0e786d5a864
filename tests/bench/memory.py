"""What a client costs: `python tests/bench/memory.py [CLIENTS]`.

KiB for an idle connection, for a running reply and for one that is kept, and microseconds of the processor for a
token: of plain HTTP, of this checkout alone. `run.py --only memory` has HTTPS, and the others beside it.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from soak import post, serve
from standin import STREAM_TYPE, Exchange, StandIn, head_of

EVENT = b'data: {"response":"word"}\n\n'


async def hold(exchange: Exchange) -> None:
    """Send the beginning of a reply, and no more of it until the client leaves."""
    await exchange.send(head_of(200, [STREAM_TYPE]) + EVENT)
    await exchange.closed_by_peer.wait()


TOKENS, PACE = 200, 0.02  # of one reply, and seconds between two


async def talk(exchange: Exchange) -> None:
    """Send a reply at the pace of a model, each token as an event and a write of its own."""
    await exchange.send(head_of(200, [STREAM_TYPE]))
    for _ in range(TOKENS):
        await exchange.send(EVENT)
        await asyncio.sleep(PACE)
    await exchange.send(b"data: [DONE]\n\n")
    exchange.close()


async def time_tokens(clients: int) -> None:
    async with StandIn([talk], repeat=True) as standin, serve(standin) as served:
        before = (await served.state())["cpu_us"]

        async def listen() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(post("word"))
            await reader.readuntil(b"0\r\n\r\n")
            writer.close()

        await asyncio.gather(*(listen() for _ in range(clients)))
        spent = (await served.state())["cpu_us"] - before
        print(f"a token, its part of connecting among it: {spent / clients / TOKENS:.0f} microseconds of the processor")


async def measure(clients: int) -> None:
    async with StandIn([hold], repeat=True) as standin, serve(standin) as served:
        before = (await served.state())["kib"]
        idle = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(clients)]
        while (state := await served.state())["clients"] < clients:
            await asyncio.sleep(0.1)
        print(f"an idle connection: {(state['kib'] - before) / clients:.0f} KiB")
        for reader, writer in idle:
            writer.write(post("word"))
            await reader.readuntil(b"word\r\n")
        busy = (await served.state())["kib"]
        print(f"a running reply, its TLS connection to Cloudflare among it: {(busy - before) / clients:.0f} KiB")
        for _, writer in idle:
            writer.transport.abort()


async def measure_kept(replies: int) -> None:
    """Let so many chats end, and measure what is kept of them."""
    async with StandIn([talk], repeat=True) as standin, serve(standin, CFCHAT_RESUME="600") as served:

        async def chat(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(post("word", path="/api/chat", chat=f"chat-{number:016d}"))
            await reader.readuntil(b"[DONE]")
            writer.close()

        async def ask(first: int, last: int) -> int:
            for number in range(first, last, 200):
                await asyncio.gather(*map(chat, range(number, number + 200)))
            while (state := await served.state())["clients"]:
                await asyncio.sleep(0.1)
            assert state["kept"] == last
            kib: int = state["kib"]
            return kib

        before = await ask(0, 200)
        after = await ask(200, 200 + replies)
        print(f"a kept reply of {TOKENS} tokens that is over: {(after - before) / replies:.1f} KiB")


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]) if sys.argv[1:] else 500))
    asyncio.run(time_tokens(50))
    asyncio.run(measure_kept(1000))
