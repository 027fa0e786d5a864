"""TLS in memory: any cut, key updates, both ends, what is broken; and a stream that nobody reads."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import cache

import pytest
from client import until
from places import CERTS

from cfchat.net.stream import READ_SIZE, Stream
from cfchat.net.tls import Layer
from cfchat.upstream.connect import make_ssl_context

# --- a layer, without a socket -------------------------------------------------------------------


class Peer:
    """The far end, of the standard library alone."""

    def __init__(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(CERTS / "localhost.pem")
        self.inbound, self.outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.inbound, self.outbound, server_side=True)

    def shake(self, data: bytes) -> bytes:
        self.inbound.write(data)
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outbound.read()

    def say(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outbound.read()

    def hear(self, data: bytes) -> bytes:
        self.inbound.write(data)
        return self.tls.read()


def pieces_of(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def connected(size: int = 1 << 20) -> tuple[Layer, Peer]:
    """Both ends after the handshake, whose flights came in pieces of that size."""
    layer, peer = Layer(make_ssl_context(str(CERTS / "ca.pem")), "localhost"), Peer()
    done = layer.shake(b"")
    while not done:
        for piece in pieces_of(peer.shake(layer.outgoing.read()), size):
            done = layer.shake(piece)
    tickets = peer.shake(layer.outgoing.read())
    assert layer.receive(tickets) == b""
    return layer, peer


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_records_in_any_cut(size: int) -> None:
    layer, peer = connected(size)
    said = bytes(range(256)) * 300
    wire = peer.say(b"a") + peer.say(said) + peer.say(b"z")
    assert b"".join(layer.receive(piece) for piece in pieces_of(wire, size)) == b"a" + said + b"z"
    assert peer.hear(layer.protect(b"heard")) == b"heard"
    assert not layer.ended and layer.fault is None and not layer.outgoing.pending


def test_what_came_before_the_end_is_given() -> None:
    layer, peer = connected()
    wire = peer.say(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.unwrap()
    assert layer.receive(wire + peer.outbound.read()) == b"last words"
    assert layer.ended and layer.fault is None


def test_what_came_before_a_broken_record_is_given() -> None:
    layer, peer = connected()
    good, bad = peer.say(b"good"), bytearray(peer.say(b"bad"))
    bad[-1] ^= 1
    assert layer.receive(good + bad) == b"good"
    assert layer.fault is not None and "BAD" in str(layer.fault).upper()
    assert layer.outgoing.pending  # the alert


@cache
def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTS / "ca.pem"))


def client() -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
    return trusting().wrap_bio(inbound, outbound, server_hostname="localhost"), inbound, outbound


def served(cut: Callable[[bytes], Iterable[bytes]]) -> tuple[Layer, bytes, bytes, int]:
    """A layer of the server's side behind its handshake with a client whose flights are cut.

    The client's last flight holds a record already, a second one comes behind it. Returned are the layer, what it gave,
    what the client was told by it, and the size of the client's longest flight.
    """
    layer = Layer(server_context(), None, server_side=True)
    tls, inbound, outbound = client()
    done, given, longest = False, b"", 0
    while True:
        with suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        if longest and not done:  # the handshake is over on the client's side
            tls.write(b"first")
        flight = outbound.read()
        if not flight:
            break
        longest = max(longest, len(flight))
        for piece in cut(flight):
            if done:
                given += layer.receive(piece)
            else:
                done = layer.shake(piece)
                if done:
                    given += layer.receive(b"")
        inbound.write(layer.outgoing.read())
    tls.write(b"second")
    for piece in cut(outbound.read()):
        given += layer.receive(piece)
    inbound.write(layer.protect(b"told") + layer.outgoing.read())
    return layer, given, tls.read(), longest


@cache
def server_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTS / "localhost.pem")
    return context


def test_a_clients_handshake_and_records_cut_at_every_place() -> None:
    """Its last flight brings its first record with it, cut inside of either."""
    longest = served(lambda flight: [flight])[3]
    for place in range(1, longest):
        layer, given, told, _ = served(lambda flight: [flight[:place], flight[place:]])  # noqa: B023
        assert (given, told) == (b"firstsecond", b"told") and not layer.ended and layer.fault is None
    assert served(lambda flight: pieces_of(flight, 1))[1:3] == (b"firstsecond", b"told")


@pytest.mark.parametrize("how", ["close_notify", "broken record"])
def test_what_comes_behind_the_end_is_kept_nowhere(how: str) -> None:
    layer, peer = connected()
    if how == "close_notify":
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.unwrap()
        layer.receive(peer.outbound.read())
    else:
        bad = bytearray(peer.say(b"bad"))
        bad[-1] ^= 1
        layer.receive(bytes(bad))
    assert layer.ended != (layer.fault is not None)
    before = layer._incoming.pending
    for _ in range(100):
        assert layer.receive(b"x" * 65536) == b""
    assert layer._incoming.pending == before < 100


# --- a stream, with one --------------------------------------------------------------------------


class Noting(Stream):
    came = 0

    def buffer_updated(self, nbytes: int) -> None:
        self.came += 1
        super().buffer_updated(nbytes)


@asynccontextmanager
async def streaming(port: int) -> AsyncIterator[Noting]:
    stream = Noting()
    await asyncio.get_running_loop().create_connection(lambda: stream, "127.0.0.1", port)
    try:
        await stream.start_tls(make_ssl_context(str(CERTS / "ca.pem")), "localhost")
        yield stream
    finally:
        stream.abort()
        await until(lambda: stream.peername is None)


async def test_the_keys_may_change_while_it_talks() -> None:
    """`K` makes OpenSSL's own server ask for new keys on both sides (RFC 8446 §4.6.3)."""
    pem = str(CERTS / "localhost.pem")
    command = ("openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", pem, "-key", pem, "-tls1_3")
    pipe, both = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    server = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=both)
    assert server.stdin and server.stdout
    try:
        await server.stdout.readuntil(b"ACCEPT 127.0.0.1:")
        async with streaming(int(await server.stdout.readline())) as stream:
            for number in range(4):
                if number:
                    before = stream.came
                    server.stdin.write(b"K\n")
                    await until(lambda: stream.came > before)  # noqa: B023
                    assert not stream._layers[0].outgoing.pending  # the answer is sent, though nothing is said
                server.stdin.write(b"said %d\n" % number)
                assert await stream.read() == b"said %d\n" % number
                stream.write(b"heard %d\n" % number)
                await server.stdout.readuntil(b"heard %d\n" % number)
    finally:
        server.kill()
        await server.wait()
        server._transport.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["close_notify", "broken record", "words"])
async def test_an_idle_stream_that_is_disturbed_ends_at_once(how: str) -> None:
    """The peer goes on sending for as long as it can: nothing of that is kept."""
    shaken, sent, ended = asyncio.Event(), 0, asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        peer = Peer()
        for _ in range(2):  # the client's flights
            writer.write(peer.shake(await reader.read(1 << 16)))
        await shaken.wait()
        if how == "close_notify":
            with suppress(ssl.SSLWantReadError):
                peer.tls.unwrap()
            writer.write(peer.outbound.read())
        elif how == "words":
            writer.write(peer.say(b"words"))
        with suppress(ConnectionError):
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                sent += 65536
        writer.close()
        ended.set()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server, streaming(server.sockets[0].getsockname()[1]) as stream:
        stream.rest()
        shaken.set()
        await ended.wait()
        assert stream.disturbed and stream.closing
        assert stream._layers[0]._incoming.pending == 0 and not stream._unread
        assert sent < 16 << 20  # what the kernels took


async def test_what_nobody_reads_is_left_with_the_sender() -> None:
    said = bytes(range(256)) * 4096 * 8

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTS / "localhost.pem")
    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    async with server, streaming(server.sockets[0].getsockname()[1]) as stream:
        await until(lambda: stream._paused)
        for _ in range(100):
            await asyncio.sleep(0)
        assert READ_SIZE < len(stream._unread) <= 2 * READ_SIZE + (16 << 10)
        heard = b""
        while data := await stream.read():
            heard += data
        assert heard == said


async def test_the_peer_may_say_no_in_the_handshake() -> None:
    def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        with pytest.raises(ConnectionResetError):
            async with streaming(server.sockets[0].getsockname()[1]):
                pass
