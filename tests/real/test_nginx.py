"""Behind nginx: replies stream through it, and nobody smuggles a request past it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from pathlib import Path

import pytest
from client import parse, request, until
from house import House, house
from standin import Exchange, StandIn, reply

from cfchat.guard.addresses import Proxies

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
# On CI it is required: there a missing nginx fails.
pytestmark = pytest.mark.skipif(NGINX is None and "CI" not in os.environ, reason="nginx is not installed")

CONF = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  log_format told '$upstream_status $request_method $uri'; access_log {folder}/access.log told;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  client_header_timeout 200ms; client_body_timeout 200ms; keepalive_timeout 200ms; lingering_timeout 100ms;
  upstream cfchat {{ server 127.0.0.1:{behind}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port}; ignore_invalid_headers off; underscores_in_headers on;
    location / {{
      proxy_pass http://cfchat; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_buffering off; proxy_request_buffering off;
    }}
  }}
}}
"""
WORDS = reply(b'data: {"response":"Hel"}\n\ndata: {"response":"lo"}\n\ndata: [DONE]\n\n')
BODY = b'[{"role":"user","content":"Hello"}]'
HOST = b"POST /api/chatbot HTTP/1.1\r\nHost: x\r\n"
BEHIND = b"GET /smuggled HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
INNER = b"0\r\n\r\n" + BEHIND


class Nginx:
    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self._folder = folder

    def forwarded(self) -> list[str]:
        """The requests that it sent on, as its log has them."""
        lines = (self._folder / "access.log").read_text("latin-1").splitlines()
        return [line.partition(" ")[2] for line in lines if not line.startswith("- ")]

    async def send(self, data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        try:
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def nginx(cfchat: House, folder: Path) -> AsyncIterator[Nginx]:
    assert NGINX is not None, "nginx is required on CI"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (folder / "nginx.conf").write_text(CONF.format(folder=folder, port=port, behind=cfchat.port))
    process = await asyncio.create_subprocess_exec(
        NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")
    )
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            except OSError:
                assert process.returncode is None, (folder / "error.log").read_text()
                await asyncio.sleep(0.01)
        yield Nginx(port, folder)
    finally:
        process.terminate()
        await process.wait()


async def test_a_reply_streams_through(tmp_path: Path) -> None:
    """The second word is not sent before the first has come out of nginx; nginx's client is the one in the log."""
    arrived = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {"response":"Hel"}\n\n')
        await arrived.wait()
        await exchange.send(b'data: {"response":"lo"}\n\ndata: [DONE]\n\n')
        exchange.close()

    peers = Proxies((ip_network("127.0.0.1"),))
    async with StandIn([script]) as standin, house(standin, peers=peers) as cfchat, nginx(cfchat, tmp_path) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(request(BODY, fields="X-Forwarded-For: 5.6.7.8\r\n"))
        head = await reader.readuntil(b"Hel\r\n")
        arrived.set()
        answer = parse(head + await reader.read())
        writer.close()
        assert (answer.body, answer.whole) == (b"Hello", True)
        # The client of a trusted proxy that is trusted itself: the next hop counts.
        assert any(" 5.6.7.8 POST " in line for line in cfchat.log)


async def test_a_client_that_leaves_nginx_leaves_cloudflare(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {"response":"Hel"}\n\n')
        await exchange.closed_by_peer.wait()

    async with StandIn([script]) as standin, house(standin) as cfchat, nginx(cfchat, tmp_path) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(request(BODY))
        await reader.readuntil(b"Hel")
        writer.transport.abort()
        await standin.wait_closed_by_peer()
        await cfchat.logged(" 499 ")


SMUGGLING = {
    "two requests, honestly": HOST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + BEHIND,
    "chunked, honestly": HOST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED + BEHIND,
    "CL.TE": HOST + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(INNER) + INNER,
    "TE.CL": HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + CHUNKED + BEHIND,
    "two lengths": HOST + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(BEHIND) + BEHIND,
    "a list of lengths": HOST + b"Content-Length: %d, 0\r\n\r\n" % len(BEHIND) + BEHIND,
    "a signed length": HOST + b"Content-Length: +%d\r\n\r\n" % len(BEHIND) + BEHIND,
    "a length in hex": HOST + b"Content-Length: 0x%x\r\n\r\n" % len(BEHIND) + BEHIND,
    "TE behind a blank": HOST + b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n" + INNER,
    "TE with a vertical tab": HOST + b"Transfer-Encoding: \x0bchunked\r\nContent-Length: 5\r\n\r\n" + INNER,
    "TE chunked twice": HOST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + INNER,
    "TE not last": HOST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + INNER,
    "TE folded": HOST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + INNER,
    "TE underscored": HOST + b"Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + INNER,
    "TE of 1.0": b"POST /api/chatbot HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + INNER,
    "bare LF in the head": b"POST /api/chatbot HTTP/1.1\nHost: x\nContent-Length: 5\n\n" + INNER,
    "bare CR in a field": HOST + b"X: a\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + INNER,
    "a chunk of bare LF": HOST + b"Transfer-Encoding: chunked\r\n\r\n0\n\n" + BEHIND,
    "a chunk size too large": HOST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n" + INNER,
    "a chunk size of nonsense": HOST + b"Transfer-Encoding: chunked\r\n\r\n5 5\r\nhello\r\n" + INNER,
    "a chunk longer than it says": HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n" + INNER,
    "a chunk extension with a line": HOST + b"Transfer-Encoding: chunked\r\n\r\n5;a=\"\r\n\"\r\nhello\r\n" + INNER,
    "a request in the trailers": HOST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED[:-2] + BEHIND,
    "a body on GET": b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BEHIND) + BEHIND,
    "an absolute target": b"POST http://y/api/chatbot HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" + BEHIND,
    "two hosts": HOST + b"Host: y\r\nContent-Length: 0\r\n\r\n" + BEHIND,
    "Expect": HOST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BEHIND) + BEHIND,
    "an upgrade": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n" + BEHIND,
}


async def test_nobody_smuggles(tmp_path: Path) -> None:
    """What nginx sent on is what cfchat read: as many requests, the same lines, and no more."""
    async with StandIn([WORDS], repeat=True) as standin, house(standin) as cfchat, nginx(cfchat, tmp_path) as proxy:
        for name, attempt in SMUGGLING.items():
            forwarded, read = len(proxy.forwarded()), len(requests_read(cfchat))
            received = await proxy.send(attempt)
            assert received.startswith(b"HTTP/1.1 ") or not received, name
            # One honest request behind it: when that is answered, all before it is in both logs.
            assert b"Hello" in await proxy.send(request(BODY)), name
            await both_have_logged(proxy, cfchat)
            sent_on = [line.split(" ")[0:2] for line in proxy.forwarded()[forwarded:]]
            assert sorted(requests_read(cfchat)[read:]) == sorted(sent_on), name
    assert len(proxy.forwarded()) >= len(SMUGGLING) + 10


async def both_have_logged(proxy: Nginx, cfchat: House) -> None:
    """nginx writes its line when the reply is out already. Where the logs never agree, the test shall say how."""
    with suppress(TimeoutError):
        async with asyncio.timeout(2):
            await until(lambda: len(proxy.forwarded()) >= len(requests_read(cfchat)))


def requests_read(cfchat: House) -> list[list[str]]:
    """Method and path of each line of the access log."""
    lines = (line.split(" ") for line in cfchat.log if " first_ms=" in line)
    return [words[2:4] for words in lines]
