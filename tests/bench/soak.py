"""A soak: `python tests/bench/soak.py [SECONDS [CONNECTIONS]]`, 60 seconds and 500 connections by default.

Good, slow, hostile, heavy, vanishing and returning clients of many addresses at once, one address that takes whatever
it gets, an upstream on TLS that fails at times, never ends, or babbles behind its close_notify, and a log that nobody
reads. Exits with 1 where a good client was not served, a hostile one was answered twice, or a task, connection, file,
kept reply or memory is left behind.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

from places import CERTS
from standin import STREAM_TYPE, Exchange, StandIn, head_of

WORDS = 20
BLOCKS = 0.05  # how many more of Python's blocks of memory there may be at the end than after the first third
LATE = 60.0  # seconds that one client may take, however much is going on
HONEST, GREEDY = [f"127.0.1.{number}" for number in range(1, 21)], "127.0.0.1"
GREEDS = 600  # connections that the greedy address wants at once, more than all replies that run

HOSTILE = (
    b"GARBAGE\r\n\r\n",
    b"POST /api/chatbot HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /api/chatbot HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /api/chatbot HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /api/chatbot HTTP/1.1\nHost: x\n\n",
    b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /api/chatbot HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
)
# Reasoning, of which an endless reply sends ever more.
ENDLESS = b'data: {"choices":[{"delta":{"reasoning_content":"%b"}}]}\n\n' % (b"hm " * 5000)
ENDLESS = b"%x\r\n%b\r\n" % (len(ENDLESS), ENDLESS)
HEAVY = 1_000_000
BABBLE = 64  # MiB behind a close_notify
MOST_KIB = 400 * 1024  # the 256 MiB that may wait, the server itself, and what is on its way
BARE = b"%b /api/chat/%b/%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
KEPT = 20  # seconds that replies are kept: a busy server lets a client wait before it has come back
BEHIND = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


def post(word: str, keep: bool = False, path: str = "/api/chatbot", fields: str = "", chat: str = "") -> bytes:
    body = json.dumps({"id": chat, "messages": [{"role": "user", "content": word}]}).encode()
    connection = "keep-alive" if keep else "close"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: {connection}\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
    return head.encode() + body


async def upstream(exchange: Exchange) -> None:
    """Echo the client's word WORDS times; fail as the word says. The list of models, read at the start, is empty."""
    if exchange.method == "GET":
        await exchange.send(head_of(200, [("content-type", "application/json"), ("content-length", "2")]) + b"{}")
        return
    word = json.loads(exchange.body)["messages"][-1]["content"]
    if word.startswith("cut"):
        await exchange.send(head_of(200, [STREAM_TYPE, ("transfer-encoding", "chunked")]) + b"5\r\ndata:")
        exchange.abort()
        return
    await exchange.send(head_of(200, [STREAM_TYPE, ("transfer-encoding", "chunked")]))
    if word.startswith("hold"):
        await exchange.closed_by_peer.wait()
        return
    while word == "endless" and not exchange.closed_by_peer.is_set():
        await exchange.send(ENDLESS)
        await asyncio.sleep(0)
    for number in range(WORDS + 1):
        event = b"data: %b\n\n" % (json.dumps({"response": word}).encode() if number < WORDS else b"[DONE]")
        await exchange.send(b"%x\r\n%b\r\n" % (len(event), event))
        await asyncio.sleep(random.random() * 0.02)
    await exchange.send(b"0\r\n\r\n")
    if word == "babble":
        await exchange.babble(BABBLE)


class Clients:
    """Each method is one client's life; what went wrong is counted."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.lives: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    async def good(self) -> None:
        reader, writer = await self._connect()
        for last in (False, True):
            word = f"good{random.randrange(10**6)}."
            writer.write(post(word, keep=not last))
            received = await reader.readuntil(b"\r\n0\r\n\r\n")
            if received.count(word.encode()) != WORDS or not received.startswith(b"HTTP/1.1 200 "):
                self.faults[f"a good client got {received[:60]!r}"] += 1
        writer.close()

    async def slow(self) -> None:
        """Send a byte at a time and read a little at a time: this is a good client, too."""
        reader, writer = await self._connect()
        for byte in post("slow."):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.005)
        received = b""
        while data := await reader.read(64):
            received += data
            await asyncio.sleep(0.01)
        if received.count(b"slow.") != WORDS:
            self.faults[f"a slow client got {received[:60]!r}"] += 1
        writer.close()

    async def cut(self) -> None:
        received = await self._ask(post("cut"))
        if not received.startswith(b"HTTP/1.1 502 "):
            self.faults[f"a cut upstream gave {received[:60]!r}"] += 1

    async def babble(self) -> None:
        """Get a whole reply. It leaves an idle connection to an upstream that will not be quiet."""
        received = await self._ask(post("babble"))
        if not received.endswith(b"\r\n0\r\n\r\n"):
            self.faults[f"a reply before babble was {received[:60]!r}"] += 1

    async def endless(self) -> None:
        """Get a reply that has no end, and no words."""
        received = await self._ask(post("endless"))
        if not received.startswith(b"HTTP/1.1 502 "):
            self.faults[f"an endless reply gave {received[:60]!r}"] += 1

    async def heavy(self) -> None:
        """Let a megabyte wait for words that never come, and leave. Too many of them are refused."""
        reader, writer = await self._connect()
        writer.write(post("hold" + "x" * HEAVY))
        with suppress(TimeoutError):
            async with asyncio.timeout(random.random() * 2):
                received = await reader.read()
                if not received.startswith(b"HTTP/1.1 503 "):
                    self.faults[f"a heavy request got {received[:60]!r}"] += 1
        writer.transport.abort()

    async def hostile(self) -> None:
        received = await self._ask(random.choice(HOSTILE) + BEHIND)
        if received.count(b"HTTP/1.1 ") != 1 or not received.startswith(b"HTTP/1.1 4"):
            self.faults[f"a hostile client got {received[:60]!r}"] += 1

    async def vanishing(self) -> None:
        _, writer = await self._connect()
        whole = post("vanish.")
        writer.write(whole[: random.randrange(1, len(whole) + 1)])
        await asyncio.sleep(random.random() * 0.1)
        writer.transport.abort()

    async def returning(self) -> None:
        """Lose a chat's reply at some place, and get all of it at the next try; perhaps stop it in the middle."""
        chat = f"chat-{random.getrandbits(64):016x}"
        reader, writer = await self._connect()
        writer.write(post("return.", path="/api/chat", chat=chat))
        with suppress(asyncio.IncompleteReadError):
            await reader.readexactly(random.randrange(1, 3000))
        writer.transport.abort()
        stops = random.random() < 0.3
        if stops:
            await self._ask(BARE % (b"POST", chat.encode(), b"stop"))
        received = await self._ask(BARE % (b"GET", chat.encode(), b"stream"))
        whole = received.count(b"return.") == WORDS and b'"finish"' in received
        if not (whole or (stops and (b'"abort"' in received or received.startswith(b"HTTP/1.1 204 ")))):
            self.faults[f"a client that came back got {received[-60:]!r}"] += 1

    async def retrying(self) -> None:
        """Ask with a key, leave, and ask again."""
        key = f"Idempotency-Key: {random.getrandbits(128):032x}\r\n"
        reader, writer = await self._connect()
        writer.write(post("retry.", fields=key))
        with suppress(TimeoutError):
            async with asyncio.timeout(random.random() * 0.3):
                await reader.read()
        writer.transport.abort()
        received = await self._ask(post("retry.", fields=key))
        if received.count(b"retry.") != WORDS:
            self.faults[f"a client that tried again got {received[:60]!r}"] += 1

    async def greedy(self, until: float) -> None:
        """Ask, and hold the connection without reading, time and again."""
        while time.monotonic() < until:
            with suppress(OSError):
                _, writer = await self._connect(GREEDY)
                writer.write(post("greedy."))
                await asyncio.sleep(random.random() * 2)
                writer.transport.abort()

    async def live(self, until: float) -> None:
        lives: tuple[tuple[int, Callable[[], Awaitable[None]]], ...] = (
            (5, self.good), (1, self.slow), (1, self.cut), (2, self.hostile), (3, self.vanishing),
            (1, self.endless), (1, self.heavy), (1, self.babble), (1, self.returning), (1, self.retrying),
        )  # fmt: skip
        names = [life for weight, life in lives for _ in range(weight)]
        while time.monotonic() < until:
            life = random.choice(names)
            name = life.__name__
            try:
                async with asyncio.timeout(LATE):
                    await life()
                self.lives[name] += 1
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.faults[f"{name}: {error!r:.100}"] += 1

    async def _ask(self, request: bytes) -> bytes:
        """Send a request on a connection of its own. Return all that comes back."""
        reader, writer = await self._connect()
        writer.write(request)
        received = await reader.read()
        writer.close()
        return received

    async def _connect(self, address: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(address or random.choice(HONEST), 0)
        )


class Served:
    """The server's process."""

    port = 0

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def state(self) -> dict[str, Any]:
        """Return the numbers that served.py prints of itself."""
        self._process.send_signal(signal.SIGUSR1)
        state: dict[str, Any] = json.loads(await self.line())
        return state

    async def line(self) -> str:
        assert self._process.stdout
        return (await self._process.stdout.readline()).decode()

    async def ready(self) -> dict[str, Any]:
        """Return its state when it has read the list of models and has a warm connection."""
        while (state := await self.state())["lent"] or not state["idle"]:
            await asyncio.sleep(0.1)
        return state

    async def quiet(self) -> dict[str, Any]:
        """Return its state when the last client has gone, and no reply is kept any more."""
        while (state := await self.state())["clients"] or state["lent"] or state["kept"]:
            await asyncio.sleep(0.1)
        return state


@asynccontextmanager
async def serve(standin: StandIn, **more: str) -> AsyncIterator[Served]:
    """Start a server whose upstream is the stand-in, with more settings; it must end cleanly."""
    environ = {
        **os.environ,
        "CLOUDFLARE_ACCOUNT_ID": "0" * 32,
        "CLOUDFLARE_API_TOKEN": "token",
        "CFCHAT_BASE_URL": standin.base_url,
        "CFCHAT_FALLBACK_MODELS": "none",
        "CFCHAT_PORT": "0",
        "CFCHAT_DRAIN_TIMEOUT": "5",
        "CFCHAT_MAX_STREAMS": "600",
        "SSL_CERT_FILE": str(CERTS / "ca.pem"),
        **more,
    }
    unread, log = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "served.py"), env=environ, stdout=asyncio.subprocess.PIPE, stderr=log
    )
    os.close(log)
    served = Served(process)
    served.port = int(await served.line())
    yield served
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    os.close(unread)


async def soak(seconds: float, connections: int) -> int:
    async with StandIn([upstream], repeat=True) as standin, serve(standin, CFCHAT_RESUME=str(KEPT)) as served:
        clients = Clients(served.port)
        fresh = await served.ready()

        async def phase(length: float) -> dict[str, Any]:
            until = time.monotonic() + length
            await asyncio.gather(
                *(clients.live(until) for _ in range(connections)), *(clients.greedy(until) for _ in range(GREEDS))
            )
            busy = await served.state()
            return {**await served.quiet(), "stall_ms": busy["stall_ms"], "most_kib": busy["kib"]}

        first = await phase(seconds / 3)
        second = await phase(seconds * 2 / 3)
    files = fresh["files"] - fresh["idle"] + second["idle"] + 4  # those of the pool are kept on purpose
    for name, limit in (("tasks", fresh["tasks"]), ("clients", 0), ("lent", 0), ("files", files), ("waiting", 0)):
        if second[name] > limit:
            clients.faults[f"{second[name]} {name} are left, of {limit}"] += 1
    if not second["dropped"]:
        clients.faults["the log took all its lines: it was not full"] += 1
    if second["most_kib"] > MOST_KIB:
        clients.faults[f"{second['most_kib']} KiB were resident, of {MOST_KIB}"] += 1
    if second["blocks"] > first["blocks"] * (1 + BLOCKS):
        clients.faults[f"memory grew from {first['blocks']} to {second['blocks']} blocks"] += 1
    print(json.dumps({"fresh": fresh, "first third": first, "end": second, "lives": clients.lives}, indent=1))
    for fault, times in clients.faults.items():
        print(f"FAULT {times} times: {fault}")
    return 1 if clients.faults else 0


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(asyncio.run(soak(float(given[0]) if given else 60.0, int(given[1]) if given[1:] else 500)))
