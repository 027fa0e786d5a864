"""Connecting: names and addresses, proxies in the environment, one timer for all deadlines."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from client import until
from house import ACCOUNT
from proxy_standin import ProxyStandIn
from standin import Exchange, StandIn, reply

from cfchat.errors import UpstreamConnectError, UpstreamTimeout
from cfchat.secret import Secret
from cfchat.upstream.connect import connect, make_ssl_context
from cfchat.upstream.connection import FIRST_TOKEN, LIST_OF_MODELS, NEXT_TOKEN, WHOLE_REPLY, Wait
from cfchat.upstream.origin import Origin
from cfchat.upstream.proxy import Proxy, parse_proxy, proxy_for
from cfchat.wire.messages import Data, EndOfMessage


def origin(standin: StandIn, host: str = "localhost") -> Origin:
    return Origin(host, standin.port, True, "/client/v4")


# --- addresses -----------------------------------------------------------------------------------


@contextmanager
def black_hole(port: int) -> Iterator[str]:
    """An address where connecting neither succeeds nor fails: its queue is full."""
    address = "127.0.0.9"
    fillers = []
    with socket.create_server((address, port), backlog=0):
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((address, port))
            fillers.append(filler)
        try:
            yield address
        finally:
            for filler in fillers:
                filler.close()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Make every name these addresses, in this order."""

    def getaddrinfo(host: str, port: int, **more: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def test_an_address_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with StandIn([]) as standin:
        with black_hole(standin.port) as dead:
            resolve_to(monkeypatch, dead, "127.0.0.1")
            connection = await connect(origin(standin), make_ssl_context(standin.ca_file), 5.0)
            assert connection.peer == f"127.0.0.1:{standin.port}"
            assert connection.tls_version in ("TLSv1.2", "TLSv1.3")
            connection.close()


async def test_a_refusing_address_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async with StandIn([]) as standin:
        resolve_to(monkeypatch, "127.0.0.8", "127.0.0.1")
        connection = await connect(origin(standin), make_ssl_context(standin.ca_file), 5.0)
        assert connection.peer == f"127.0.0.1:{standin.port}"
        connection.close()


async def test_where_no_address_answers_the_connect_deadline_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with StandIn([]) as standin:
        with black_hole(standin.port) as dead:
            resolve_to(monkeypatch, dead)
            with pytest.raises(UpstreamTimeout, match=r"within 0\.1 s.*no connection to localhost:.*--connect-timeout"):
                await connect(origin(standin), make_ssl_context(standin.ca_file), 0.1)


async def test_a_refusal_is_told_as_one() -> None:
    async with StandIn([]) as standin:
        await standin.stop()
        with pytest.raises(UpstreamConnectError, match=r"Connection refused|Connect call failed") as caught:
            await connect(origin(standin, "127.0.0.1"), None, 5.0)
    assert caught.value.retryable


@pytest.mark.parametrize("addresses", [["127.0.0.8", "127.0.0.1"], ["255.255.255.255", "127.0.0.1"]])
async def test_a_refusal_by_each_address_is_one_still(addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """255.255.255.255 is nobody's: there the machine itself says no."""
    async with StandIn([]) as standin:
        await standin.stop()
        resolve_to(monkeypatch, *addresses)
        with pytest.raises(UpstreamConnectError, match="Connection refused: ") as caught:
            await connect(origin(standin), make_ssl_context(standin.ca_file), 5.0)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert "127.0.0.1" in caught.value.detail


async def test_what_speaks_no_tls_is_told_in_the_words_of_openssl() -> None:
    def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp.example ESMTP\r\n")
        writers.append(writer)

    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UpstreamConnectError, match=r"\(\[SSL: WRONG_VERSION_NUMBER\]"):
            await connect(Origin("127.0.0.1", port, True, ""), make_ssl_context(), 5.0)
        for writer in writers:
            writer.close()


async def test_a_connection_that_is_lost_has_no_peer() -> None:
    async with StandIn([]) as standin:
        connection = await connect(origin(standin), make_ssl_context(standin.ca_file), 5.0)
        assert connection.peer == f"127.0.0.1:{standin.port}"
        connection.close()
        await until(lambda: not connection.peer)


async def test_a_name_without_an_address() -> None:
    with pytest.raises(UpstreamConnectError) as caught:
        await connect(Origin("no-such-host.invalid", 443, True, ""), make_ssl_context(), 5.0)
    assert isinstance(caught.value.__cause__, socket.gaierror)


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "a..example"])
async def test_what_cannot_be_a_name(host: str) -> None:
    with pytest.raises(UpstreamConnectError, match=r"cannot be a host's name|Name or service"):
        await connect(Origin(host, 443, True, ""), make_ssl_context(), 5.0)


@pytest.mark.parametrize("stage", ["connect", "handshake", "tunnel", "handshake in the tunnel"])
async def test_whoever_waits_no_longer_leaves_no_socket(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """-W error turns a socket that is left open into a failure."""
    async with StandIn([], certificate=None) as standin, ProxyStandIn(silent=stage == "tunnel") as proxy:
        with black_hole(standin.port) as dead:
            if stage == "connect":
                resolve_to(monkeypatch, dead)
            way = parse_proxy(proxy.url) if "tunnel" in stage else None
            task = asyncio.create_task(connect(origin(standin), make_ssl_context(), 5.0, way))
            if way is not None:
                await proxy.asked.wait()
            for _ in range(20):
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gc.collect()


# --- proxies -------------------------------------------------------------------------------------

FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("size", [100, 4095, 4096, 4097, 8192, 16384])
async def test_a_proxy_cannot_answer_for_the_origin(size: int, tls: bool) -> None:
    """Whatever it sends unprotected, however it falls into the reads, is never read as what came in TLS."""
    start, end = b"HTTP/1.1 200 OK\r\nX: ", b"\r\n\r\n"
    opened = start + b"x" * (size - len(start) - len(end)) + end + FORGED
    async with ProxyStandIn(opened=opened, tls=tls) as proxy, StandIn([reply(b"honest", framing="length")]) as standin:
        try:
            connection = await connect(
                origin(standin), make_ssl_context(standin.ca_file), 5.0, parse_proxy(proxy.url)
            )
        except UpstreamConnectError as error:
            assert "speaks for the origin" in error.detail
            return
        connection.send(f"GET /{ACCOUNT} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await connection.head()
        assert await connection.next_event() == Data(b"honest")
        connection.close()


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://proxy.example:3128", Proxy("proxy.example", 3128)),
        ("proxy.example:3128", Proxy("proxy.example", 3128)),
        ("http://proxy.example/", Proxy("proxy.example", 80)),
        ("https://proxy.example", Proxy("proxy.example", 443, True)),
        ("http://[::1]:3128", Proxy("::1", 3128)),
    ],
)
def test_a_proxy_is_a_url(text: str, proxy: Proxy) -> None:
    assert parse_proxy(text) == proxy


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("http://me:s3cret@p:1", "Basic bWU6czNjcmV0"),
        ("http://me:s%40cret@p:1", "Basic bWU6c0BjcmV0"),
        ("http://me@p:1", "Basic bWU6"),
        ("http://m%C3%A9:x@p:1", "Basic bcOpOng="),
    ],
)
def test_credentials_are_basic_and_hidden(text: str, value: str) -> None:
    proxy = parse_proxy(text)
    assert proxy.credentials is not None and proxy.credentials.reveal() == value
    assert "s3cret" not in repr(proxy) and value not in repr(proxy) and str(proxy) == "p:1"
    assert isinstance(proxy.credentials, Secret)


@pytest.mark.parametrize("text", ["socks5://p:1", "http://", "http://p:99999", "http://[p", "ftp://p"])
def test_what_is_no_proxy(text: str) -> None:
    with pytest.raises(ValueError, match="must be a URL such as"):
        parse_proxy(text)


URL = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTP_PROXY": URL}, None),
        ({"HTTPS_PROXY": URL}, URL),
        ({"https_proxy": URL, "HTTPS_PROXY": "other"}, URL),
        ({"HTTPS_PROXY": URL, "NO_PROXY": "api.cloudflare.com"}, None),
        ({"HTTPS_PROXY": URL, "NO_PROXY": ".cloudflare.com"}, None),
        ({"HTTPS_PROXY": URL, "no_proxy": "cloudflare.com", "NO_PROXY": "a.example"}, None),
        ({"HTTPS_PROXY": URL, "NO_PROXY": "*"}, None),
    ],
)
def test_the_proxy_of_the_environment(environ: dict[str, str], found: str | None) -> None:
    assert proxy_for("api.cloudflare.com", 443, environ) == found


@pytest.mark.parametrize(
    ("exceptions", "host", "direct"),
    [
        ("localhost, cloudflare.com", "api.cloudflare.com", True),
        ("localhost\tcloudflare.com", "api.cloudflare.com", True),
        (" , a.example  API.Cloudflare.com. ,", "api.cloudflare.COM", True),
        ("*.cloudflare.com", "api.cloudflare.com", True),
        ("* a.example", "api.cloudflare.com", True),
        ("cloudflare.com:443", "api.cloudflare.com", True),
        ("cloudflare.com:8443", "api.cloudflare.com", False),
        ("example.com,flare.com", "api.cloudflare.com", False),
        ("api.cloudflare.com.evil.example", "api.cloudflare.com", False),
        (", . *. :443 []", "api.cloudflare.com", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.9.9.9/8", "10.1.2.3", True),
        ("10.0.0.0/8:443", "10.1.2.3", True),
        ("10.0.0.0/8:80", "10.1.2.3", False),
        ("192.0.2.0/24 10.1.2.3", "10.1.2.3", True),
        ("192.0.2.0/24 0.1.2.3 2.3", "10.1.2.3", False),
        ("10.0.0.0/33", "10.1.2.3", False),
        ("0.0.0.0/0", "api.cloudflare.com", False),
        ("2001:db8::/32", "2001:DB8::1", True),
        ("[2001:db8::1]:443", "2001:db8::1", True),
        ("[2001:db8::1]:80", "2001:db8::1", False),
        ("2001:db8::2", "2001:db8::1", False),
    ],
)
def test_hosts_that_are_reached_without_the_proxy(exceptions: str, host: str, direct: bool) -> None:
    environ = {"HTTPS_PROXY": URL, "NO_PROXY": exceptions}
    assert (proxy_for(host, 443, environ) is None) is direct


# --- deadlines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wait", "told"),
    [
        (FIRST_TOKEN, "no first words within 0.05 s."),
        (NEXT_TOKEN, "no further words within 0.05 s."),
        (WHOLE_REPLY, "no end of the reply within 0.05 s."),
        (LIST_OF_MODELS, "no list of models within 0.05 s."),
    ],
)
@pytest.mark.parametrize("pushed", [False, True])
async def test_what_was_late_is_told_and_the_flag_that_sets_it(wait: Wait, told: str, pushed: bool) -> None:
    """Also though the deadline is moved again meanwhile; whether the reply is read or pushed."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        await exchange.closed_by_peer.wait()

    async with StandIn([script]) as standin:
        connection = await connect(origin(standin), make_ssl_context(standin.ca_file), 5.0)
        connection.send(f"GET /{ACCOUNT} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await connection.head()
        connection.deadline.bound(0.05, wait)
        if pushed:
            errors: asyncio.Queue[Exception] = asyncio.Queue()
            connection.push(lambda body, ended: None, errors.put_nowait)
            await until(lambda: connection.deadline.expired)
            connection.deadline.move(30.0, FIRST_TOKEN)
            error = await errors.get()
            assert errors.empty()
        else:
            with pytest.raises(UpstreamTimeout) as caught:
                await connection.next_event()
            error = caught.value
        assert isinstance(error, UpstreamTimeout) and told in error.message and wait.flag in error.detail
        assert not connection.usable
        connection.close()


# --- at rest -------------------------------------------------------------------------------------


async def test_a_new_connection_may_wait_for_its_first_request() -> None:
    async with StandIn([reply(b"x", framing="length")]) as standin:
        connection = await connect(origin(standin), make_ssl_context(standin.ca_file), 5.0)
        assert connection.usable
        connection.send(f"GET /{ACCOUNT} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await connection.head()).status == 200
        assert not connection.usable  # its reply is not read to the end
        connection.close()


async def test_a_new_connection_that_the_far_end_closes_is_not_used() -> None:
    async with StandIn([]) as standin:
        connection = await connect(origin(standin), make_ssl_context(standin.ca_file), 5.0)
        await until(lambda: standin.connections == 1)  # the far end is a little later to know
        await standin.stop()
        await until(lambda: not connection.usable)
        connection.close()


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nyours", b""], ids=["bytes", "end"])
async def test_what_comes_behind_a_reply_is_nobodys(more: bytes, tls: bool) -> None:
    """It comes when the reply is read, but while the connection does not rest yet: the client takes its time."""
    whole, sent = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine")
        await whole.wait()
        if more:
            await exchange.send(more)
        else:
            exchange.close()
        sent.set()

    async with StandIn([script], certificate="localhost" if tls else None) as standin:
        there = origin(standin)._replace(tls=tls)
        connection = await connect(there, make_ssl_context(standin.ca_file) if tls else None, 5.0)
        connection.send(f"GET /{ACCOUNT} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await connection.head()
        while type(await connection.next_event()) is Data:
            pass
        whole.set()
        await sent.wait()
        stream = connection._stream
        await until(lambda: bool(stream._unread) or stream._ended)
        connection.rest()
        assert not connection.usable
        connection.close()


async def test_a_connection_whose_request_was_not_sent_to_its_end_is_not_used_again() -> None:
    """A reply may come early, a 413 for one: the rest of the request would be read as the next one."""

    async def early(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await exchange.closed_by_peer.wait()

    async with StandIn([early]) as standin:
        conn = await connect(origin(standin), make_ssl_context(standin.ca_file), 5.0)
        conn.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert (await conn.head()).status == 413
        assert isinstance(await conn.next_event(), EndOfMessage)
        assert conn.usable
        conn._stream.write(b"x" * (32 << 20))  # more than the kernel takes
        conn.rest()
        assert not conn.usable
        conn.close()
