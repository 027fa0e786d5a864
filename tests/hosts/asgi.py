"""cfchat under the servers that people have: `pytest tests/hosts/asgi.py`, where requirements.txt is installed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pytest
from client import Reply, parse, request
from standin import STREAM_TYPE, Exchange, Script, StandIn, head_of, json_error, partial

HERE = Path(__file__).parent
HALF = b'data: {"response":"Hel"}\n\n'
BODY = json.dumps([{"role": "user", "content": "Hello"}]).encode()

SERVERS = {
    "uvicorn-h11": ["uvicorn", "--http", "h11", "--fd", "{fd}"],
    "uvicorn-httptools": ["uvicorn", "--http", "httptools", "--fd", "{fd}"],
    "hypercorn": ["hypercorn", "--graceful-timeout", "1", "--bind", "fd://{fd}"],
}
APPS = {"hosted:plain": "", "hosted:mounted": "/chat"}
everywhere = pytest.mark.parametrize(("server", "app"), [(server, app) for server in SERVERS for app in APPS])


class Hosted:
    def __init__(
        self, port: int, base: str, standin: StandIn, process: asyncio.subprocess.Process, log: IO[bytes]
    ) -> None:
        self.log = log
        self.port = port
        self.base = base
        self.standin = standin
        self.process = process

    async def connect(self, body: bytes = BODY) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request(body, f"{self.base}/api/chatbot"))
        return reader, writer

    async def post(self, body: bytes = BODY) -> Reply:
        reader, writer = await self.connect(body)
        received = await reader.read()
        writer.close()
        return parse(received)

    async def get(self, path: str) -> Reply:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {self.base}{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        received = await reader.read()
        writer.close()
        return parse(received)


@asynccontextmanager
async def hosted(server: str, app: str, script: Script) -> AsyncIterator[Hosted]:
    async def answer(exchange: Exchange) -> None:
        await (json_error(403, 10000, "Authentication error") if exchange.method == "GET" else script)(exchange)

    async with StandIn([answer], repeat=True, certificate=None) as standin:
        with socket.create_server(("127.0.0.1", 0)) as listening, TemporaryFile() as log:
            fd = listening.fileno()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m"),
                *(word.format(fd=fd) for word in SERVERS[server]),
                app,
                pass_fds=[fd],
                cwd=HERE,
                env={
                    **os.environ,
                    "PYTHONPATH": str(HERE.parents[1]),
                    "CLOUDFLARE_ACCOUNT_ID": "0" * 32,
                    "CLOUDFLARE_API_TOKEN": "test-token",
                    "CFCHAT_BASE_URL": standin.base_url,
                    "CFCHAT_WARM": "0",
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                yield Hosted(listening.getsockname()[1], APPS[app], standin, process, log)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # hypercorn has a process of its own for its work
                await process.wait()


@everywhere
async def test_words_arrive_as_they_come(server: str, app: str) -> None:
    arrived = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(head_of(200, [STREAM_TYPE]) + HALF)
        await arrived.wait()
        await exchange.send(b'data: {"response":"lo"}\n\ndata: [DONE]\n\n')
        exchange.close()

    async with hosted(server, app, script) as host:
        reader, writer = await host.connect()
        received = await reader.readuntil(b"Hel")
        arrived.set()
        answer = parse(received + await reader.read())
        writer.close()
    assert (answer.status, answer.body, answer.whole) == (200, b"Hello", True)
    assert answer.fields["content-type"] == "text/event-stream"


@everywhere
async def test_a_reply_that_breaks_does_not_look_whole(server: str, app: str) -> None:
    async with hosted(server, app, partial(HALF, then="close")) as host:
        answer = await host.post()
    assert (answer.status, answer.body, answer.whole) == (200, b"Hel", False)


@everywhere
async def test_a_client_that_leaves_ends_the_call(server: str, app: str) -> None:
    async def hold(exchange: Exchange) -> None:
        await exchange.send(head_of(200, [STREAM_TYPE]) + HALF)
        await exchange.closed_by_peer.wait()

    async with hosted(server, app, hold) as host:
        reader, writer = await host.connect()
        await reader.readuntil(b"Hel")
        writer.transport.abort()
        asked = next(exchange for exchange in host.standin.requests if exchange.method == "POST")
        await asked.closed_by_peer.wait()


@everywhere
async def test_errors_and_page(server: str, app: str) -> None:
    async with hosted(server, app, json_error(401, 10000, "Authentication error")) as host:
        refused, wrong, page = await host.post(), await host.post(b"[]"), await host.get("/")
        large = await host.post(b" " * (1 << 20) + BODY)
        assert (refused.status, refused.error["code"]) == (502, "upstream_auth")
        assert (wrong.status, wrong.error["param"]) == (400, "messages")
        assert (page.status, b"<cf-chat" in page.body) == (200, True)
        assert (large.status, large.error["code"]) == (413, "body_too_large")


@everywhere
async def test_it_ends_cleanly(server: str, app: str) -> None:
    async with hosted(server, app, partial(HALF, then="close")) as host:
        assert (await host.get("/v1/models")).status == 200
        host.process.send_signal(signal.SIGTERM)
        await host.process.wait()
        host.log.seek(0)
        log = host.log.read()
    assert b"Traceback" not in log and b"destroyed" not in log, log.decode()


async def test_a_cut_is_seen_in_http_2() -> None:
    async with hosted("hypercorn", "hosted:plain", partial(HALF, then="close")) as host:
        url = f"http://127.0.0.1:{host.port}/api/chatbot"
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "-w", " %{http_version}", "--http2-prior-knowledge"),
            *("-H", "Content-Type: application/json", "-d", BODY.decode(), url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        words, _ = await curl.communicate()
    assert (words, curl.returncode) in ((b"Hel 2", 18), (b"Hel 2", 92))
