"""All that an origin can do wrong on the wire, on real TLS.

Each case states what the client sees and how many requests the origin saw; after each, nothing is left behind and
the next conversation is answered with its own words.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from client import Reply
from house import HELLO, House, house, quicker
from proxy_standin import ProxyStandIn
from standin import TURNS, Exchange, Script, StandIn, chunks_of, hang_up, head_of, raw, reply, server_context, wire_of

from cfchat.app.routes import Settings as AppSettings
from cfchat.server.request import Limits
from cfchat.upstream.client import Settings
from cfchat.upstream.connection import Connection
from cfchat.upstream.proxy import parse_proxy
from cfchat.wire.messages import ReadLimits

HALF = b'data: {"response":"Hel"}\n\n'
END = b'data: {"response":"lo"}\n\ndata: [DONE]\n\n'
WORDS = HALF + END
NEXT = b'data: {"response":"next"}\n\ndata: [DONE]\n\n'
THOUGHT = b'data: {"choices":[{"delta":{"reasoning_content":"' + b"hm " * 300 + b'"}}]}\n\n'
STREAM = [("content-type", "text/event-stream")]
CHUNKED = head_of(200, [*STREAM, ("transfer-encoding", "chunked")])
UNTIL_CLOSE = head_of(200, STREAM)


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


def reset_after(data: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        if data:
            await exchange.send(data)
            for _ in range(TURNS):
                await asyncio.sleep(0)  # a reset may overtake bytes that nobody has read yet
        exchange.reset()

    return script


def endless(piece: bytes, before: bytes = b"") -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.send(before)
        while not exchange.closed_by_peer.is_set():
            await exchange.send(piece)
            await asyncio.sleep(0)

    return script


def drip(wire: bytes, then_silent: bool = False, pace: float = 0.0) -> Script:
    async def script(exchange: Exchange) -> None:
        for index in range(len(wire)):
            await exchange.send(wire[index : index + 1])
            await asyncio.sleep(pace)
        if then_silent:
            await exchange.closed_by_peer.wait()

    return script


@dataclass(frozen=True)
class Case:
    """`code` is that of an error before the first word; `body` the words, `whole` whether they look complete.

    `late`: it ends by that deadline, which is a short one then.
    """

    script: Script
    code: str = ""
    body: bytes = b"Hello"
    whole: bool = True
    requests: int = 1
    kept: bool = False  # whether the connection serves the next conversation, too
    late: str = ""


def refused(script: Script, code: str, requests: int = 3) -> Case:
    return Case(script, code=code, requests=requests, late="first_delta" if code == "upstream_timeout" else "")


def cut(script: Script, late: str = "") -> Case:
    return Case(script, body=b"Hel", whole=False, late=late)


CASES = {
    "reset before the head": refused(reset_after(b""), "upstream_interrupted"),
    "reset inside the head": refused(reset_after(b"HTTP/1.1 200 OK\r\nConte"), "upstream_interrupted"),
    "reset behind the head": refused(reset_after(CHUNKED), "upstream_interrupted"),
    "reset inside the reply": cut(reset_after(CHUNKED + chunk(HALF))),
    "hung up before the head": refused(hang_up(), "upstream_interrupted"),
    "no close_notify before the head": refused(hang_up("abort"), "upstream_interrupted"),
    "no close_notify inside the reply": cut(raw(CHUNKED + chunk(HALF), then="abort")),
    "no close_notify inside a chunk": cut(raw(CHUNKED + chunk(HALF) + b"40\r\ndata", then="abort")),
    "no close_notify behind [DONE]": Case(raw(UNTIL_CLOSE + WORDS, then="abort")),
    "no close_notify, and no [DONE]": cut(raw(UNTIL_CLOSE + HALF, then="abort")),
    "close_notify, but no [DONE]": cut(raw(UNTIL_CLOSE + HALF, then="close")),
    "last chunk, but no [DONE]": Case(reply(HALF), body=b"Hel", whole=False, kept=True),
    "a length too short": cut(raw(head_of(200, [*STREAM, ("content-length", str(len(HALF)))]) + WORDS)),
    "100 and 103 before the head": Case(
        raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" + wire_of(WORDS)), kept=True
    ),
    "101, which nobody asked for": refused(raw(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), "upstream_protocol"),
    "endless 1xx": refused(endless(b"HTTP/1.1 102 Processing\r\n\r\n"), "upstream_protocol"),
    "trailers": Case(raw(CHUNKED + chunk(WORDS) + b"0\r\nX-Sum: 7\r\nX-More: 8\r\n\r\n"), kept=True),
    "chunk extensions": Case(raw(CHUNKED + chunk(WORDS, b';a=1;b="x\\"y"') + b"0;last\r\n\r\n"), kept=True),
    "a chunk size of nonsense": cut(raw(CHUNKED + chunk(HALF) + b"xyz\r\n")),
    "nothing like HTTP": refused(raw(b"220 smtp.example ESMTP\r\n"), "upstream_protocol"),
    "an endless line": refused(endless(b"x" * 65536, UNTIL_CLOSE + b"data: "), "upstream_protocol"),
    "an endless field": refused(endless(b"x" * 65536, b"HTTP/1.1 200 OK\r\nX: "), "upstream_protocol"),
    "endless fields": refused(endless(b"X: y\r\n" * 1000, b"HTTP/1.1 200 OK\r\n"), "upstream_protocol"),
    "endless comments": refused(endless(b": still thinking\n\n", UNTIL_CLOSE), "upstream_timeout"),
    "endless comments in the reply": cut(endless(b": still thinking\n\n", UNTIL_CLOSE + HALF), late="between_deltas"),
    "an event of 5 MiB": refused(reply(b'data: {"response":"' + b"x" * (5 << 20) + b'"}\n\n'), "upstream_protocol"),
    "an event of 5 MiB in the reply": cut(reply(HALF + b"data: " + b"x" * (5 << 20) + b"\n\n")),
    "thoughts without end": refused(endless(THOUGHT * 20, UNTIL_CLOSE), "upstream_protocol", requests=1),
    "JSON over 1 MiB": refused(
        reply(b'{"response":"' + b"x" * (2 << 20) + b'"}', fields=[("content-type", "application/json")]),
        "upstream_protocol",
    ),
    "a slow head": refused(drip(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20, True, 0.01), "upstream_timeout"),
    "a stall before the first word": refused(drip(CHUNKED, True), "upstream_timeout"),
    "a stall inside the reply": cut(drip(CHUNKED + chunk(HALF), True), late="between_deltas"),
    "a drip": Case(drip(wire_of(WORDS)), kept=True),
    "two replies to one request": Case(
        raw(wire_of(WORDS) + wire_of(b'data: {"response":"not yours"}\n\ndata: [DONE]\n\n'))
    ),
    "bytes behind the reply": Case(raw(wire_of(WORDS) + b"\r\n")),
    "connection: close": Case(reply(WORDS, fields=[("connection", "close")])),
}


@asynccontextmanager
async def tidy(cfchat: House) -> AsyncIterator[None]:
    """What is done in the block leaves nothing behind."""
    yield
    state = cfchat.upstream._pool.state
    assert state.lent_out == 0
    gc.collect()
    alive = [found for found in gc.get_objects() if type(found) is Connection]
    assert len(alive) == state.idle <= 1
    assert "Traceback" not in "\n".join(cfchat.log)


def check(answer: Reply, case: Case) -> None:
    if case.code:
        assert (answer.status >= 500, answer.error["code"]) == (True, case.code)
        assert answer.fields["x-should-retry"] == "false"
    else:
        assert (answer.status, answer.body, answer.whole) == (200, case.body, case.whole)


@pytest.mark.parametrize("name", CASES)
async def test_what_an_origin_can_do(name: str) -> None:
    case = CASES[name]
    scripts = [*[case.script] * case.requests, reply(NEXT)]
    change = quicker(**{case.late: 0.1}) if case.late else quicker()
    async with StandIn(scripts) as standin, house(standin, change=change) as cfchat:
        async with tidy(cfchat):
            check(await cfchat.post(), case)
            assert len(standin.requests) == case.requests
        async with tidy(cfchat):
            assert (await cfchat.post()).body == b"next"
        assert standin.connections == case.requests + (not case.kept)
        failures = [line for line in cfchat.log if " failed: " in line]
        assert len(failures) == (case.requests if case.code else 0)


ENDLESS_TEXT = b'data: {"response":"' + b"word" * 200 + b'"}\n\n'
ENDLESS_CALL = b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"arguments":"x"}}]}}]}\n\n'


@pytest.mark.parametrize(("path", "piece"), [("/api/chatbot", ENDLESS_TEXT), ("/v1/chat/completions", ENDLESS_CALL)])
async def test_a_reply_that_is_collected_is_bounded_by_what_was_asked_for(path: str, piece: bytes) -> None:
    asked = {"messages": HELLO, "max_tokens": 10, "tools": [{"type": "function", "function": {"name": "f"}}]}
    script = endless(piece * 20, UNTIL_CLOSE + HALF)
    async with StandIn([script]) as standin, house(standin) as cfchat, tidy(cfchat):
        answer = await cfchat.post(asked, path, "Accept: application/json\r\n")
        assert len(standin.requests) == 1
    assert (answer.status, answer.error["code"]) == (502, "upstream_protocol")


async def test_a_pooled_connection_that_went_stale_is_replaced_free() -> None:
    closed = asyncio.Event()

    async def last(exchange: Exchange) -> None:
        await reply(WORDS)(exchange)
        exchange.close()
        closed.set()

    async with StandIn([last, reply(NEXT)]) as standin, house(standin) as cfchat:
        async with tidy(cfchat):
            await cfchat.post()
            await closed.wait()
            assert (await cfchat.post()).body == b"next"
        assert (len(standin.requests), standin.connections) == (2, 2)
        assert "tries=1" in cfchat.log[-1]


async def test_a_pooled_connection_that_dies_of_the_request_is_replaced_free() -> None:
    """The origin closed while the request was on its way: the close cannot have been seen before."""
    async with StandIn([reply(WORDS), hang_up(), reply(NEXT)]) as standin, house(standin) as cfchat:
        async with tidy(cfchat):
            await cfchat.post()
            assert (await cfchat.post()).body == b"next"
        assert (len(standin.requests), standin.connections) == (3, 2)
        assert "tries=1" in cfchat.log[-1]


# --- an origin that is gone without a word --------------------------------------------------------


class Vanishing:
    """A script that sends these bytes and is gone."""

    def __init__(self, wire: bytes) -> None:
        self.wire = wire
        self.gone = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.send(self.wire)
        self.can_be = await exchange.vanish()
        self.gone.set()
        await exchange.closed_by_peer.wait()

    async def wait(self) -> None:
        await self.gone.wait()
        if not self.can_be:
            pytest.skip("the kernel does not let this user drop what comes")


async def test_a_pooled_connection_that_died_silently_is_replaced_free() -> None:
    """Its request is not acknowledged: known within about the connect deadline, long before that of the first words."""
    vanishing = Vanishing(wire_of(WORDS))
    async with StandIn([vanishing, reply(NEXT)]) as standin, house(standin, change=quicker(connect=0.3)) as cfchat:
        await cfchat.post()
        await vanishing.wait()
        assert (await cfchat.post()).body == b"next"
        assert (len(standin.requests), standin.connections) == (2, 2)
        assert "tries=1" in cfchat.log[-1]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no such option")
async def test_the_kernel_is_told_to_notice_silence() -> None:
    async with StandIn([reply(WORDS)]) as standin, house(standin, change=quicker(connect=8.0)) as cfchat:
        await cfchat.post()
        (conn,) = cfchat.upstream.pool.state.kept()
        sock = conn._stream.transport.get_extra_info("socket")
        options = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)
        assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [8000, 2, 2]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


@pytest.mark.parametrize("size", [6 << 20, 900_000], ids=["more than kernels keep", "all in the kernel"])
async def test_a_connection_whose_request_was_answered_too_early_is_lent_to_nobody(size: int) -> None:
    """The rest of that request has not been sent: the next one would stand behind it, and wait its whole deadline."""
    left: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        if len(left) == 1:
            writer.write(head_of(413, [("content-length", "0")]))  # and nothing more is read
        else:
            writer.write(wire_of(NEXT))

    standin = StandIn([])
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context(), limit=1 << 12)
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    standin.port = server.sockets[0].getsockname()[1]
    app, limits = AppSettings(max_body=16 << 20), Limits(read=ReadLimits(body=16 << 20))
    async with server, house(standin, app=app, limits=limits, change=quicker(first_delta=5.0)) as cfchat:
        question = b'[{"role":"user","content":"%b"}]' % (b"x" * size)
        assert (await cfchat.post(question)).status == 400
        assert (await cfchat.post()).body == b"next"
        assert len(left) == 2 and "tries=1" in cfchat.log[-1]
        for writer in left:
            writer.transport.abort()


@pytest.mark.parametrize("own_file", ["", "ca.pem"])
@pytest.mark.parametrize("certificate", ["wrong_host", "expired", "self_signed"])
async def test_a_certificate_that_is_not_the_origins(
    certificate: str, own_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", own_file)
    async with StandIn([], certificate=certificate) as standin, house(standin) as cfchat, tidy(cfchat):
        answer = await cfchat.post()
    assert (answer.status, answer.error["code"]) == (502, "upstream_connect")
    assert (standin.requests, standin.connections) == ([], 0)  # no handshake was ever completed
    told = [line for line in cfchat.log if "certificate: " in line]
    assert len(told) == 1 and ("SSL_CERT_FILE" in told[0]) is (certificate == "self_signed" and not own_file)


def by_proxy(proxy: ProxyStandIn, credentials: str = "") -> Callable[[Settings], Settings]:
    url = proxy.url.replace("://", f"://{credentials}@") if credentials else proxy.url
    return lambda settings: settings._replace(proxy=parse_proxy(url))


@pytest.mark.parametrize(
    ("refusal", "tries", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 9\r\n\r\nwho, you?", 1, "407"),
        (b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n", 1, "403"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", 3, "502"),
        (b"", 3, "hung up"),
        (b"220 smtp.example ESMTP\r\n", 3, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 3, "speaks for the origin"),
    ],
)
async def test_a_proxy_that_refuses(refusal: bytes, tries: int, words: str) -> None:
    async with (
        ProxyStandIn(refusal) as proxy,
        StandIn([]) as standin,
        house(standin, change=by_proxy(proxy)) as cfchat,
        tidy(cfchat),
    ):
        answer = await cfchat.post()
    assert (answer.status, answer.error["code"]) == (502, "upstream_connect")
    assert (len(proxy.seen), standin.connections) == (tries, 0)
    assert any(words in line and f"localhost:{proxy.port}" in line for line in cfchat.log)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_proxy_that_lets_through(tls: bool) -> None:
    async with ProxyStandIn(tls=tls) as proxy, StandIn([reply(WORDS), reply(NEXT)]) as standin:
        change = by_proxy(proxy, "me:s3cret")
        async with house(standin, change=change) as cfchat, tidy(cfchat):
            assert (await cfchat.post()).body == b"Hello"
            assert (await cfchat.post()).body == b"next"
        assert "s3cret" not in "\n".join(cfchat.log) and "bWU6czNjcmV0" not in "\n".join(cfchat.log)
    (head,) = proxy.seen
    assert head.startswith(f"CONNECT localhost:{standin.port} HTTP/1.1\r\nHost: localhost:{standin.port}\r\n")
    assert "\r\nProxy-Authorization: Basic bWU6czNjcmV0\r\n" in head
    assert "Bearer" not in head
    assert (standin.requests[0].server_name, standin.requests[0].alpn) == ("localhost", "http/1.1")
    assert "proxy-authorization" not in standin.requests[0].fields


async def test_a_certificate_behind_a_proxy_is_verified_too() -> None:
    async with (
        ProxyStandIn() as proxy,
        StandIn([], certificate="wrong_host") as standin,
        house(standin, change=by_proxy(proxy)) as cfchat,
        tidy(cfchat),
    ):
        answer = await cfchat.post()
    assert (answer.status, answer.error["code"], standin.connections) == (502, "upstream_connect", 0)


def test_chunks_are_what_they_should_be() -> None:
    assert b"".join(chunks_of(HALF)) == chunk(HALF)
