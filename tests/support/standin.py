"""A stand-in for Cloudflare on real TLS and loopback; a test decides every write it makes.

Written without any of cfchat's own wire code, so that the two cannot share a mistake.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import re
import socket
import ssl
import struct
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from types import TracebackType
from typing import Literal

from client import until
from places import CERTS

STREAM_TYPE = ("content-type", "text/event-stream")

SIOCOUTQ, SO_ATTACH_FILTER = 0x5411, 26  # of Linux
# Turns of the loop after each write of `reply`: a reader in the same loop gets each write alone.
TURNS = 6

Framing = Literal["chunked", "length", "close"]
End = Literal["keep", "close", "abort"]
Fields = Iterable[tuple[str, str]]


class Exchange:
    """One request as it came, and the means to answer it."""

    def __init__(self, connection: _Connection, head: bytes, body: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.head = head
        self.body = body
        self.method, self.target, _ = lines[0].split(" ")
        pairs = (line.partition(":") for line in lines[1:] if line)
        self.fields = {name.lower(): value.strip() for name, _, value in pairs}
        self.connection = connection.number
        self.server_name = connection.server_name
        self.alpn = connection.alpn
        self.closed_by_peer = connection.closed_by_peer
        self._connection = connection

    async def send(self, data: bytes) -> None:
        """One write, in the kernel before this returns. Raises ConnectionError once the peer is gone."""
        self._connection.writer.write(data)
        await self._connection.writer.drain()

    def close(self) -> None:
        """The polite end: TLS close_notify, then FIN."""
        self._connection.end(self._connection.writer.close)

    def abort(self) -> None:
        """The rude end: FIN without close_notify, as of a killed process."""
        self._connection.end(self._connection.writer.transport.abort)

    def reset(self) -> None:
        """The rudest end: RST."""
        linger_no_more = struct.pack("ii", 1, 0)
        plug: socket.socket = self._connection.writer.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_no_more)
        self.abort()

    async def babble(self, mebibytes: int) -> None:
        """End TLS politely and, without a FIN, go on sending what is no TLS any more, until the peer has had enough."""
        plug: socket.socket = self._connection.writer.get_extra_info("socket")
        with plug.dup() as bare, suppress(ConnectionError):
            self.close()
            for _ in range(mebibytes):
                await asyncio.get_running_loop().sock_sendall(bare, b"x" * (1 << 20))

    async def vanish(self) -> bool:
        """Be gone without a word once all that was sent has arrived; return whether this system can do it.

        The kernel drops whatever comes, and acknowledges nothing. Only Linux can, and perhaps only for root.
        """
        sock: socket.socket = self._connection.writer.get_extra_info("socket")
        unacknowledged = bytearray(4)
        nothing = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # BPF: return 0
        try:
            await until(lambda: not (fcntl.ioctl(sock, SIOCOUTQ, unacknowledged) or any(unacknowledged)))
            sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(nothing)))
        except OSError:
            return False
        return True


Script = Callable[[Exchange], Awaitable[None]]


class StandIn:
    """`async with StandIn([script, ...]) as standin`: the nth request is answered by the nth script.

    A request with no script left, or a script that fails, fails the test when the block is left.
    `certificate` names a file in tests/certs; None speaks plain HTTP.
    """

    def __init__(
        self,
        scripts: Sequence[Script],
        *,
        repeat: bool = False,
        certificate: str | None = "localhost",
        host: str = "127.0.0.1",
    ) -> None:
        self.requests: list[Exchange] = []
        self.connections = 0
        self.ca_file = str(CERTS / "ca.pem")
        self.port = 0
        self._scripts = list(scripts)
        self._repeat = repeat
        self._tls = server_context(certificate) if certificate else None
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self._faults: list[BaseException] = []
        self._requested: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self._closed: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)

    @property
    def base_url(self) -> str:
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}/client/v4"

    async def wait_requests(self, number: int = 1) -> None:
        """Until so many requests have come in, in all."""
        await self._requested[number].wait()

    async def wait_closed_by_peer(self, connection: int = 1) -> None:
        """Until the peer has closed the connection of that number (the first is 1)."""
        await self._closed[connection].wait()

    async def __aenter__(self) -> StandIn:
        shutdown = 1.0 if self._tls else None
        self._server = await asyncio.start_server(
            self._accept, self._host, self.port, ssl=self._tls, ssl_shutdown_timeout=shutdown
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if self._faults and error is None:
            raise AssertionError("the stand-in was asked more than it knows, or failed") from self._faults[0]

    async def stop(self) -> None:
        """Refuse further connections and end those that are open, as a killed process would."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = _Connection(self.connections, reader, writer, self._closed[self.connections])
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A task that is cancelled before its first step closes nothing by itself.
        task.add_done_callback(lambda _: connection.end(writer.transport.abort))

    async def _serve(self, connection: _Connection) -> None:
        pump = asyncio.get_running_loop().create_task(connection.pump())
        try:
            while exchange := await connection.request():
                self.requests.append(exchange)
                self._requested[len(self.requests)].set()
                await self._script()(exchange)
        except ConnectionError:
            # The peer left: what a test asks about, not a fault of the script.
            connection.closed_by_peer.set()
        except Exception as fault:
            self._faults.append(fault)
        finally:
            pump.cancel()
            connection.end(connection.writer.transport.abort)
            await asyncio.wait([pump])
            with suppress(OSError):
                await connection.writer.wait_closed()

    def _script(self) -> Script:
        number = len(self.requests) - 1
        if number < len(self._scripts):
            return self._scripts[number]
        if not self._repeat:
            raise LookupError(f"no script for request {number + 1}")
        return self._scripts[-1]


class _Connection:
    """Bytes in, requests out; knows when its peer is gone, also while a script runs."""

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, closed: asyncio.Event
    ) -> None:
        self.number = number
        self.writer = writer
        self.closed_by_peer = closed
        tls = writer.get_extra_info("ssl_object")
        self.alpn: str | None = tls and tls.selected_alpn_protocol()
        self.server_name: str | None = getattr(tls, "asked_for", None)
        self._reader = reader
        self._buffer = b""
        self._arrived = asyncio.Event()
        self._ended = False
        # Not 0: asyncio's TLS transport pauses at `size >= high`, and would never resume.
        writer.transport.set_write_buffer_limits(high=1, low=0)

    def end(self, how: Callable[[], None]) -> None:
        if not self._ended:
            self._ended = True
            how()
            self._arrived.set()

    async def pump(self) -> None:
        with suppress(OSError):
            while data := await self._reader.read(65536):
                self._buffer += data
                self._arrived.set()
        if not self._ended:
            self.closed_by_peer.set()
        self._arrived.set()

    async def request(self) -> Exchange | None:
        """The next request, or None where the connection has ended."""
        while b"\r\n\r\n" not in self._buffer:
            if not await self._more():
                return None
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        while len(rest) < size:
            if not await self._more():
                return None
            rest = self._buffer[len(head) + 4 :]
        self._buffer = rest[size:]
        return Exchange(self, head + b"\r\n\r\n", rest[:size])

    async def _more(self) -> bool:
        if self._ended or self.closed_by_peer.is_set():
            return False
        self._arrived.clear()
        await self._arrived.wait()
        return not (self._ended or self.closed_by_peer.is_set())


def server_context(certificate: str = "localhost") -> ssl.SSLContext:
    """What the stand-in speaks TLS with."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTS / f"{certificate}.pem")
    context.set_alpn_protocols(["http/1.1"])
    context.sni_callback = _remember_server_name
    return context


def _remember_server_name(tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
    tls.asked_for = name  # type: ignore[attr-defined]


# --- what goes over the wire ---------------------------------------------------------------------


def head_of(status: int, fields: Fields) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode("latin-1")


def chunks_of(events: bytes) -> list[bytes]:
    """One chunk for each event, as Cloudflare sends them; no last chunk."""
    return [b"%x\r\n%b\r\n" % (len(event), event) for event in re.split(rb"(?<=\n\n)", events) if event]


def wire_of(body: bytes, status: int = 200, framing: Framing = "chunked", fields: Fields = ()) -> bytes:
    """A whole reply as one run of bytes; `fields` come after the content type of an event stream."""
    named = list(fields)
    if not any(name.lower() == "content-type" for name, _ in named):
        named.insert(0, STREAM_TYPE)
    if framing == "chunked":
        return head_of(status, [*named, ("transfer-encoding", "chunked")]) + b"".join(
            [*chunks_of(body), b"0\r\n\r\n"]
        )
    if framing == "length":
        return head_of(status, [*named, ("content-length", str(len(body)))]) + body
    return head_of(status, [*named, ("connection", "close")]) + body


# --- ready-made scripts --------------------------------------------------------------------------


def reply(
    events: bytes,
    status: int = 200,
    cuts: Iterable[int] | None = None,
    framing: Framing = "chunked",
    fields: Fields = (),
) -> Script:
    """A whole reply. `cuts` are the places in `wire_of(...)` where one write ends and the next begins."""
    wire = wire_of(events, status, framing, fields)
    return raw(wire, cuts, then="close" if framing == "close" else "keep")


def raw(wire: bytes, cuts: Iterable[int] | None = None, then: End = "keep") -> Script:
    """Exactly these bytes, whatever they say."""
    places = sorted({0, len(wire), *(cut for cut in cuts or () if 0 < cut < len(wire))})

    async def script(exchange: Exchange) -> None:
        for begin, end in pairwise(places):
            await exchange.send(wire[begin:end])
            for _ in range(TURNS):
                await asyncio.sleep(0)
        _end(exchange, then)

    return script


def json_error(status: int, code: int, message: str, headers: Fields = ()) -> Script:
    """Cloudflare's envelope of an error."""
    errors = [{"code": code, "message": message}]
    envelope = {"result": None, "success": False, "errors": errors, "messages": []}
    fields = [("content-type", "application/json"), *headers]
    return reply(json.dumps(envelope).encode(), status, framing="length", fields=fields)


def silence() -> Script:
    """No answer at all, until the peer has had enough."""

    async def script(exchange: Exchange) -> None:
        await exchange.closed_by_peer.wait()

    return script


def partial(
    events: bytes, then: Literal["abort", "close", "silence"] = "abort", framing: Framing = "chunked"
) -> Script:
    """A good beginning without its end."""
    named = {"chunked": ("transfer-encoding", "chunked"), "length": ("content-length", f"{len(events) + 9}")}
    field = named.get(framing, ("connection", "close"))
    body = b"".join(chunks_of(events)) if framing == "chunked" else events

    async def script(exchange: Exchange) -> None:
        await exchange.send(head_of(200, [STREAM_TYPE, field]) + body)
        if then == "silence":
            await exchange.closed_by_peer.wait()
        else:
            _end(exchange, then)

    return script


def hang_up(then: Literal["abort", "close"] = "close") -> Script:
    """No byte of an answer: what a stale connection looks like."""

    async def script(exchange: Exchange) -> None:
        _end(exchange, then)

    return script


class Model:
    """A script that says what the test tells it, when the test tells it."""

    def __init__(self) -> None:
        self._steps: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.send(head_of(200, [STREAM_TYPE, ("transfer-encoding", "chunked")]))
        while step := await self._steps.get():
            await exchange.send(b"".join(chunks_of(step)))
        if step is None:
            exchange.abort()
        else:
            await exchange.send(b"0\r\n\r\n")

    def say(self, text: str) -> None:
        self._steps.put_nowait(event(text))

    def end(self, **more: object) -> None:
        """The polite end; `more` stands in the last event, `usage` for one."""
        self._steps.put_nowait((event("", **more) if more else b"") + b"data: [DONE]\n\n")
        self._steps.put_nowait(b"")

    def break_off(self) -> None:
        self._steps.put_nowait(None)


def words(*pieces: str) -> Script:
    """A whole reply in these pieces."""
    return reply(b"".join(map(event, pieces)) + b"data: [DONE]\n\n")


def event(text: str, **more: object) -> bytes:
    return b"data: " + json.dumps({"response": text, **more}).encode() + b"\n\n"


def _end(exchange: Exchange, how: End) -> None:
    if how == "close":
        exchange.close()
    elif how == "abort":
        exchange.abort()
