"""A server behind TLS: slow, half and broken handshakes, both ends of it, new keys; and no word in the clear."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress

import pytest
from bare_server import GET, LAST, Localhost, codes, serving, talk, the_connection, trusting
from client import parse, until
from places import CERTS

from cfchat.server.reply import Reply
from cfchat.server.request import Limits, Request


class Client:
    """TLS over a plain connection, so that a test decides each write."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.inbound, self.outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = trusting().wrap_bio(self.inbound, self.outbound, server_hostname="localhost")

    async def send(self, data: bytes, size: int = 1 << 20) -> None:
        for at in range(0, len(data), size):
            self.writer.write(data[at : at + size])
            await asyncio.sleep(0)
        await self.writer.drain()

    async def shake(self, size: int = 1 << 20) -> None:
        """Its last flight goes out with the first record."""
        while True:
            try:
                self.tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                await self.send(self.outbound.read(), size)
                self.inbound.write(await self.reader.read(65536))

    def protect(self, data: bytes) -> bytes:
        """The records of it, behind whatever is to be sent still."""
        self.tls.write(data)
        return self.outbound.read()

    def end(self) -> bytes:
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outbound.read()

    async def hear(self) -> bytes:
        """All until the server's close_notify, which must come before its FIN."""
        heard = b""
        while True:
            try:
                data = self.tls.read()
            except ssl.SSLWantReadError:
                received = await self.reader.read(65536)
                assert received, "FIN without close_notify"
                self.inbound.write(received)
            except ssl.SSLZeroReturnError:
                return heard
            else:
                if not data:
                    return heard
                heard += data


async def connected(port: int, size: int = 1 << 20) -> Client:
    client = await raw(port)
    await client.shake(size)
    return client


async def raw(port: int) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", port))


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
async def test_a_handshake_and_requests_in_any_cut(size: int) -> None:
    async with serving(tls=Localhost()) as (_, port):
        client = await connected(port, size)
        await client.send(client.protect(GET + LAST), size)
        received = await client.hear()
        client.writer.close()
    assert codes(received) == [200, 200] and received.endswith(b"empty")


async def test_a_request_knows_that_it_came_over_tls() -> None:
    async def handler(request: Request, reply: Reply) -> None:
        reply.send(200, (), b"secure" if request.secure else b"plain")

    async with serving(handler, tls=Localhost()) as (_, port):
        client = await connected(port)
        await client.send(client.protect(LAST))
        assert (await client.hear()).endswith(b"secure")
        client.writer.close()
    async with serving(handler) as (_, port):
        assert (await talk(port, LAST)).endswith(b"plain")


# --- handshakes that come to nothing --------------------------------------------------------------


@pytest.mark.parametrize("part", [0, 1, 5, 100])
async def test_a_handshake_without_an_end_is_ended_by_the_deadline_of_a_head(
    part: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a word in the clear, and without a fault in the log."""
    async with serving(limits=Limits(head=0.05), tls=Localhost()) as (server, port):
        client = await raw(port)
        with suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        client.writer.write(client.outbound.read()[:part])
        await until(lambda: server.connections == 1)
        with suppress(ConnectionResetError):
            assert await client.reader.read() == b""
        await until(lambda: not server.connections)
        client.writer.close()
    assert not caplog.records


async def test_a_handshake_that_drips_is_ended_all_the_same() -> None:
    """The deadline is for all of it."""
    async with serving(limits=Limits(head=0.1), tls=Localhost()) as (server, port):
        client = await raw(port)
        with suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        hello = client.outbound.read()
        for at in range(len(hello) - 1):
            client.writer.write(hello[at : at + 1])
            await asyncio.sleep(0.01)
            if client.reader.at_eof() or client.reader.exception():  # ended, or reset
                break
        else:
            raise AssertionError("it was let go on to its end")
        await until(lambda: not server.connections)
        client.writer.close()


@pytest.mark.parametrize("data", [GET, b"\x16\x03\x01\x00\x05hello", b"\x00" * 500])
async def test_what_is_no_handshake_is_answered_by_an_alert_at_most(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tls=Localhost()) as (server, port):
        client = await raw(port)
        client.writer.write(data)
        try:
            answer = await client.reader.read()
        except ConnectionResetError:
            answer = b""
        await until(lambda: not server.connections)
        client.writer.close()
    assert answer[:1] in (b"", b"\x15") and b"HTTP" not in answer
    assert not caplog.records


async def test_a_client_that_leaves_in_its_handshake_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tls=Localhost()) as (server, port):
        client = await raw(port)
        with suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        client.writer.write(client.outbound.read()[:99])
        await until(lambda: server.connections == 1)
        client.writer.close()
        await until(lambda: not server.connections)
    assert not caplog.records


@pytest.mark.parametrize("limits", [Limits(connections=1), Limits(connections_each=1)])
async def test_a_handshake_counts_before_it_is_over(limits: Limits) -> None:
    async with serving(limits=limits, tls=Localhost()) as (server, port):
        silent = await raw(port)
        await until(lambda: server.connections == 1)
        refused = await connected(port)  # by an answer that it can read
        await refused.send(refused.outbound.read())
        assert codes(await refused.hear()) == [503]
        other = await raw(port)
        with pytest.raises(ConnectionResetError):
            await other.reader.read()
        for client in (silent, refused, other):
            client.writer.close()
        await until(lambda: not server.connections)
        client = await connected(port)
        await client.send(client.protect(LAST))
        assert codes(await client.hear()) == [200]
        client.writer.close()


async def test_a_drain_ends_handshakes() -> None:
    async with serving(tls=Localhost(), limits=Limits(grace=0.05)) as (server, port):
        client = await raw(port)
        await until(lambda: server.connections == 1)
        await server.drain(0.1)
        with suppress(ConnectionResetError):
            assert await client.reader.read() == b""
        client.writer.close()
        assert not server.connections


# --- its end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close_notify", "FIN", "both"])
async def test_a_reply_that_is_ready_goes_out_to_a_client_that_has_ended_its_half(how: str) -> None:
    async with serving(tls=Localhost()) as (_, port):
        client = await connected(port)
        data = client.protect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        # In one write: the reply is ready before the end is looked at.
        client.writer.write(data + (client.end() if how != "FIN" else b""))
        if how != "close_notify":
            client.writer.write_eof()
        received = b""
        while data := await client.reader.read(65536):
            received += data
        client.inbound.write(received)
        if how == "FIN":
            assert parse(client.tls.read()).body == b"hi"
        else:  # the standard library reads no more behind its own close_notify; the records are there
            assert len(received) > 200
        client.writer.close()


async def test_a_client_that_ends_tls_in_mid_reply_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cfchat")
    begun = asyncio.Event()

    async def handler(request: Request, reply: Reply) -> None:
        await request.read_body()
        reply.start(200, ())
        reply.write(b"a")
        begun.set()
        await asyncio.Event().wait()

    async with serving(handler, tls=Localhost()) as (server, port):
        client = await connected(port)
        await client.send(client.protect(GET))
        await begun.wait()
        await client.send(client.end())
        await until(lambda: not server.connections)
        client.writer.close()
    assert " GET / 499 " in caplog.text


async def test_an_idle_connection_ends_with_close_notify_and_keeps_nothing_of_what_comes_behind_it() -> None:
    async with serving(tls=Localhost()) as (server, port):
        client = await connected(port)
        await client.send(client.protect(GET))
        await until(lambda: the_connection(server)._idle and not the_connection(server)._fresh)
        stream = the_connection(server)._stream
        client.writer.write(client.end())
        with suppress(ConnectionError):
            for _ in range(50):
                await client.send(b"x" * 65536)
        await until(lambda: not server.connections)
        assert stream._unread == b"" and stream._layers[0]._incoming.pending == 0
        client.writer.close()


async def test_a_broken_record_ends_the_connection_and_no_request_is_made_of_it() -> None:
    async with serving(tls=Localhost()) as (server, port):
        client = await connected(port)
        good, bad = client.protect(GET[:9]), bytearray(client.protect(GET[9:]))
        bad[-1] ^= 1
        await client.send(good + bytes(bad))
        with pytest.raises(ssl.SSLError):
            await client.hear()
        await until(lambda: not server.connections)
        client.writer.close()


# --- new keys -------------------------------------------------------------------------------------


async def test_a_client_may_change_the_keys() -> None:
    """`K` makes OpenSSL's client ask for new keys on both sides (RFC 8446 §4.6.3)."""
    async with serving(tls=Localhost()) as (_, port):
        command = ("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(CERTS / "ca.pem"), "-tls1_3")
        pipe, both = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        client = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=both)
        assert client.stdin and client.stdout
        try:
            for number in range(3):
                client.stdin.write(GET)
                await client.stdout.readuntil(b"\r\n\r\nempty")
                if number < 2:
                    client.stdin.write(b"K\n")
                    await client.stdout.readuntil(b"KEYUPDATE")
        finally:
            client.kill()
            await client.wait()
            client._transport.close()  # type: ignore[attr-defined]
