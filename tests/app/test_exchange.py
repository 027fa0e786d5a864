"""A chat's life, ended in each of its moments: nothing is left behind, and what was asked is settled once."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from client import request, until
from house import House, house, quicker
from paced import ASK, CHUNKED
from standin import Exchange, Model, Script, StandIn, chunks_of, event, json_error, partial, reply, silence

import cfchat
from cfchat.app import hooks as hook_runs
from cfchat.app.hooks import Hooks
from cfchat.app.hooks import Reply as Finished
from cfchat.app.routes import Settings as AppSettings
from cfchat.app.writer import Writer
from cfchat.conversation.model import Conversation, Message
from cfchat.guard.guard import Guard, Settings
from cfchat.net.deadline import Deadline
from cfchat.net.stream import READ_SIZE, WRITE_AHEAD
from cfchat.replies.text import Text
from cfchat.server.record import Record
from cfchat.server.reply import Head, Reply
from cfchat.server.request import Limits, Request, new_id
from cfchat.upstream.client import Settings as UpstreamSettings
from cfchat.wire.bodies import encode_chunk
from cfchat.wire.fields import Fields
from cfchat.wire.messages import RequestHead

USAGE = {"prompt_tokens": 51, "completion_tokens": 9, "total_tokens": 60}
WORDS = reply(event("Hel") + event("lo") + event("", usage=USAGE) + b"data: [DONE]\n\n")


class Costs:
    """What was settled, by a hook."""

    def __init__(self) -> None:
        self.replies: list[Finished] = []

    async def after_reply(self, finished: Finished) -> None:
        await asyncio.sleep(0)
        self.replies.append(finished)


async def unchanged(conversation: Conversation, request: Request) -> Conversation:
    return conversation


# Memory that cfchat holds, and that JSON's decoder and encoder made for it.
HOME = Path(cfchat.__file__).parent
OURS = [tracemalloc.Filter(True, pattern) for pattern in (f"{HOME}/*", "*/json/decoder.py", "*/json/encoder.py")]


async def nothing_left(cfchat: House) -> None:
    """Nobody runs, waits, or holds tokens or a connection to the model; no hook is under way."""
    app = cfchat.app
    await until(lambda: app.streams == (0, 0) and not cfchat.upstream.pool.state.lent_out)
    await until(lambda: not app._exchange._settling)
    assert not app._exchange._admission._running
    assert not any(budget._held for budget, _ in app.guard._budgets)


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def asked(cfchat: House, data: bytes = ASK) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await cfchat.connect()
    writer.write(data)
    yield reader, writer
    await leave(writer)


# --- a client that leaves -------------------------------------------------------------------------


async def test_in_the_queue() -> None:
    costs, model = Costs(), Model()
    one = AppSettings(max_streams=1)
    ours = Hooks(after_reply=costs.after_reply)
    async with StandIn([model]) as standin, house(standin, app=one, hooks=ours) as cfchat:
        async with asked(cfchat) as (reader, _):
            model.say("Hel")
            await reader.readuntil(b"Hel")
            async with asked(cfchat):
                await until(lambda: cfchat.app.streams == (1, 1))
            await until(lambda: cfchat.app.streams == (1, 0))
            await cfchat.logged(" 499 ")
            model.end()
            await reader.readuntil(b"0\r\n\r\n")
        await nothing_left(cfchat)
    assert len(standin.requests) == 1 and [finished.whole for finished in costs.replies] == [True]


async def test_in_before_call() -> None:
    costs, inside = Costs(), asyncio.Event()

    async def before_call(conversation: Conversation, request: Request) -> Conversation:
        inside.set()
        await asyncio.Event().wait()
        return conversation

    ours = Hooks(before_call=before_call, after_reply=costs.after_reply)
    async with StandIn([]) as standin, house(standin, hooks=ours) as cfchat:
        async with asked(cfchat):
            await inside.wait()
        await cfchat.logged(" 499 ")
        await nothing_left(cfchat)
    assert costs.replies == []


async def test_before_the_first_words() -> None:
    """It has asked, and that is paid for."""
    costs = Costs()
    async with StandIn([silence()]) as standin, house(standin, hooks=Hooks(after_reply=costs.after_reply)) as cfchat:
        async with asked(cfchat):
            await standin.wait_requests()
        await standin.wait_closed_by_peer()
        await cfchat.logged(" 499 ")
        await nothing_left(cfchat)
    (finished,) = costs.replies
    assert (finished.whole, finished.estimated, finished.completion_tokens) == (False, True, 0)
    assert finished.prompt_tokens > 0


@pytest.mark.parametrize("path", ["/api/chatbot", "/api/chat"])
async def test_in_mid_reply(path: str) -> None:
    costs = Costs()
    script = partial(event("Hello there"), then="silence")
    async with StandIn([script]) as standin, house(standin, hooks=Hooks(after_reply=costs.after_reply)) as cfchat:
        async with asked(cfchat, ASK.replace(b"/api/chatbot", path.encode())) as (reader, _):
            await reader.readuntil(b"Hello there")
        await standin.wait_closed_by_peer()
        await cfchat.logged(" 499 ")
        await nothing_left(cfchat)
        counted = cfchat.app.metrics.replies.samples()
    (finished,) = costs.replies
    assert (finished.whole, finished.estimated, finished.completion_tokens) == (False, True, 3)
    assert counted['cfchat_replies_total{end="broken"}'] == 1


async def test_with_the_end() -> None:
    """In one turn of the loop with it."""
    costs, model = Costs(), Model()
    async with StandIn([model]) as standin, house(standin, hooks=Hooks(after_reply=costs.after_reply)) as cfchat:
        async with asked(cfchat) as (reader, writer):
            model.say("Hel")
            await reader.readuntil(b"Hel")
            model.end(usage=USAGE)
            writer.transport.abort()
        await nothing_left(cfchat)
    (finished,) = costs.replies
    assert finished.whole == (finished.completion_tokens == 9)


# --- at every await -------------------------------------------------------------------------------


class Sent:
    """An Out that keeps the body, of a form without heartbeats."""

    beats: Deadline

    def __init__(self) -> None:
        self.body = b""
        self.whole = False

    def put(self, head: Head | None, piece: bytes, last: bool) -> None:
        self.body += piece
        self.whole = last

    def cut(self) -> None:
        raise AssertionError


async def no_body(take: Callable[[bytes], None]) -> None:
    raise AssertionError


# asyncio's race of addresses forgets a socket that connects in the turn in which it is cancelled.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("warm", [True, False])
async def test_it_may_be_cancelled_at_every_turn_of_the_loop(warm: bool) -> None:
    """A turn later each time, until the reply is whole a few times."""
    costs, called = Costs(), 0

    async def before_call(conversation: Conversation, request: Request) -> Conversation:
        nonlocal called
        await asyncio.sleep(0)
        called += 1
        return conversation

    ours, guard = Hooks(before_call=before_call, after_reply=costs.after_reply), Guard(Settings(daily_tokens=10**9))
    async with StandIn([WORDS], repeat=True) as standin, house(standin, hooks=ours, guard=guard) as cfchat:
        whole = turns = 0
        while whole < 5:
            if warm:
                await cfchat.upstream.pool.warm(1)
            called, costs.replies = 0, []
            request = Request(RequestHead("POST", "/api/chatbot", 1, Fields([])), "127.0.0.1", new_id(), no_body)
            asker = cfchat.app.guard.admit("", request.client, time.monotonic(), time.time())
            sent, conversation = Sent(), Conversation((Message("user", "Hello"),))
            into = Reply(sent, Record(request.id, "", "POST", request.path, request.notes), 60)
            task = asyncio.create_task(cfchat.app._exchange.run(request, asker, conversation, Writer(into, Text(), [])))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await nothing_left(cfchat)
            assert len(costs.replies) == called, turns
            for finished in costs.replies:
                assert finished.whole == sent.whole == (not task.cancelled()) and finished.prompt_tokens > 0, turns
            assert b"Hello".startswith(sent.body) and (sent.body == b"Hello" or not sent.whole)
            whole += sent.whole
            turns += 1
        assert (await cfchat.post()).body == b"Hello"
        gc.collect()
    assert turns > 5 + 5 * (not warm)


# --- what fails -----------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
async def test_a_hook_that_fails_leaves_nothing(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_runs, "DEADLINE", 0.02)
    costs = Costs()

    async def before_call(conversation: Conversation, request: Request) -> Conversation:
        if late:
            await asyncio.Event().wait()
        raise ZeroDivisionError

    ours = Hooks(before_call=before_call, after_reply=costs.after_reply)
    async with StandIn([]) as standin, house(standin, hooks=ours) as cfchat:
        assert (await cfchat.post()).status == 500
        await nothing_left(cfchat)
    assert costs.replies == []


async def test_a_fault_of_ours_in_mid_reply_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    costs, model, encode = Costs(), Model(), Text.encode

    def broken(self: Text, batch: object) -> bytes:
        text = encode(self, batch)  # type: ignore[arg-type]
        if text == b"lo":
            raise ZeroDivisionError
        return text

    monkeypatch.setattr(Text, "encode", broken)
    async with StandIn([model]) as standin, house(standin, hooks=Hooks(after_reply=costs.after_reply)) as cfchat:
        async with asked(cfchat) as (reader, _):
            model.say("Hel")
            await reader.readuntil(b"Hel")
            model.say("lo")
            assert await reader.read() == b"\r\n"
        await standin.wait_closed_by_peer()
        await nothing_left(cfchat)
    assert [finished.whole for finished in costs.replies] == [False]


@pytest.mark.parametrize(
    ("script", "status", "settled"),
    [
        (json_error(401, 10000, "Authentication error"), 502, []),
        (reply(event("", usage=USAGE) + b"data: [DONE]\n\n"), 502, [60]),  # an empty reply is paid for
    ],
)
async def test_only_tries_that_were_paid_for_are_settled_where_nothing_is_answered(
    script: Script, status: int, settled: list[int]
) -> None:
    def once(settings: UpstreamSettings) -> UpstreamSettings:
        return settings._replace(policy=settings.policy._replace(attempts=1))

    costs = Costs()
    ours = Hooks(after_reply=costs.after_reply)
    async with StandIn([script]) as standin, house(standin, hooks=ours, change=once) as cfchat:
        assert (await cfchat.post()).status == status
        await nothing_left(cfchat)
    assert [finished.prompt_tokens + finished.completion_tokens for finished in costs.replies] == settled


async def test_a_deadline_in_mid_reply_leaves_nothing() -> None:
    costs = Costs()
    script, hurried = partial(event("Hello"), then="silence"), quicker(between_deltas=0.05)
    ours = Hooks(after_reply=costs.after_reply)
    async with StandIn([script]) as standin, house(standin, hooks=ours, change=hurried) as cfchat:
        answer = await cfchat.post()
        await nothing_left(cfchat)
    assert (answer.body, answer.whole) == (b"Hello", False) and [done.whole for done in costs.replies] == [False]


# --- the client's pace ----------------------------------------------------------------------------

MOST = 128 * 1024  # bytes that may wait in this process for one client
EACH, SIZE = 8000, 1300


def flood(held_up: asyncio.Event) -> Script:
    """More than the kernel's buffers take before cfchat; `held_up` once it is not taken any more."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(CHUNKED)
        with suppress(ConnectionError):
            for number in range(SIZE):
                data = encode_chunk(event(f"{number:05d};" + "x" * EACH))
                sending = asyncio.ensure_future(exchange.send(data))
                if not (await asyncio.wait([sending], timeout=0.2))[0]:
                    held_up.set()
                await sending
            await exchange.send(b"".join(chunks_of(b"data: [DONE]\n\n")) + b"0\r\n\r\n")

    return script


@asynccontextmanager
async def slowly(cfchat: House, data: bytes = ASK) -> AsyncIterator[asyncio.StreamReader]:
    """Ask as `asked` does, with small buffers in the kernel: accepted sockets inherit that of the listening one."""
    cfchat.server._acceptor._sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
    sock.connect(("127.0.0.1", cfchat.port))
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(data)
    yield reader
    await leave(writer)


def waiting(cfchat: House) -> int:
    """The bytes that wait in this process for the one client that there is."""
    (connection,) = cfchat.server._connections.values()
    stream = connection._stream
    reply = connection._reply
    assert reply is not None
    upstream = reply._source.connection._stream  # type: ignore[union-attr]
    return stream.unsent + len(stream._unread) + len(upstream._unread)


@pytest.mark.parametrize("accept", ["text/plain", "text/event-stream"])
async def test_a_client_that_stops_reading_holds_little_and_has_all_once_it_reads(accept: str) -> None:
    held_up = asyncio.Event()
    ask = ASK.replace(b"\r\n\r\n", f"\r\nConnection: close\r\nAccept: {accept}\r\n\r\n".encode(), 1)
    async with StandIn([flood(held_up)]) as standin, house(standin) as cfchat, slowly(cfchat, ask) as reader:
        await asyncio.wait_for(held_up.wait(), 15)
        assert WRITE_AHEAD < waiting(cfchat) <= MOST and MOST >= WRITE_AHEAD + READ_SIZE
        await reader.readuntil(b"\r\n\r\n")
        pieces = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            pieces.append((await reader.readexactly(size + 2))[:-2])
        assert await reader.read() == b"\r\n"
        await nothing_left(cfchat)
    body = b"".join(pieces)
    if accept == "text/event-stream":
        events = [line[6:] for line in body.split(b"\n\n") if line.startswith(b"data: {")]
        body = "".join([json.loads(line)["text"] for line in events]).encode()
    assert body == b"".join(b"%05d;" % number + b"x" * EACH for number in range(SIZE))


async def test_a_client_that_never_reads_again_is_ended_by_the_deadline_of_writes() -> None:
    held_up, costs = asyncio.Event(), Costs()
    limits, ours = Limits(write=0.3), Hooks(after_reply=costs.after_reply)
    async with (
        StandIn([flood(held_up)]) as standin,
        house(standin, limits=limits, hooks=ours) as cfchat,
        slowly(cfchat),
    ):
        await standin.wait_closed_by_peer()
        await cfchat.logged("client gone")
        await nothing_left(cfchat)
        await until(lambda: not cfchat.server.connections)
    assert [finished.whole for finished in costs.replies] == [False]


async def test_a_slow_client_of_the_last_piece_leaves_a_connection_that_serves_the_next() -> None:
    """The end of a reply is more than the client takes: by then the upstream's connection is free for others."""
    events = [b"data: " + json.dumps({"choices": [{"delta": {"content": "y" * 900_000}}]}).encode() + b"\n\n"]
    large = reply(b"".join(events) + b"data: [DONE]\n\n")
    async with StandIn([large, WORDS]) as standin, house(standin) as cfchat:
        # Small buffers in the kernel: accepted sockets inherit that of the listening one.
        cfchat.server._acceptor._sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", cfchat.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        writer.write(ASK)
        await until(lambda: any(connection._stream.full for connection in cfchat.server._connections.values()))
        await until(lambda: cfchat.app.streams == (0, 0) and cfchat.upstream.pool.state.idle == 1)
        assert (await asyncio.wait_for(cfchat.post(), 5)).body == b"Hello"
        assert standin.connections == 1
        transport.resume_reading()
        received = 0
        while data := await reader.read(1 << 16):
            received += len(data)
            if data.endswith(b"0\r\n\r\n"):
                break
        assert received > 900_000
        await leave(writer)


# --- what waits -----------------------------------------------------------------------------------

LONG = 100_000
HI = {"role": "user", "content": "Hi"}
CALL = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}


def with_tool(schema: object) -> dict[str, object]:
    return {"messages": [HI], "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}


SHAPES: dict[str, dict[str, object]] = {
    "one text": {"messages": [{"role": "user", "content": "x" * LONG}]},
    "many messages": {"messages": [{"role": "user", "content": "x" * 200}] * 900},
    "calls": {"messages": [HI, *[{"role": "assistant", "tool_calls": [CALL] * 100}] * 9]},
    "objects": with_tool([{}] * (LONG // 4)),
    "lists": with_tool([[[]]] * (LONG // 6)),
    "numbers": with_tool([1e15] * (LONG // 20)),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_of_what_waits_only_the_bytes_are_kept(shape: str) -> None:
    """Some wait for their turn, some for the model's first words."""
    clients, running = 4, 2
    body = json.dumps(SHAPES[shape]).replace("1000000000000000.0", "1e15").encode()
    app, ours = AppSettings(max_streams=running, max_streams_each=running), Hooks(before_call=unchanged)
    async with (
        StandIn([silence()], repeat=True) as standin,
        house(standin, app=app, hooks=ours) as served,
        AsyncExitStack() as stack,
    ):
        tracemalloc.start()
        try:
            for _ in range(clients):
                await stack.enter_async_context(asked(served, request(body, "/v1/chat/completions")))
            await standin.wait_requests(running)
            await until(lambda: served.app.streams == (running, clients - running))
            gc.collect()
            kept = tracemalloc.take_snapshot().filter_traces(OURS)
        finally:
            tracemalloc.stop()
    assert sum(trace.size for trace in kept.traces) < clients * (1.1 * len(body) + 20_000), kept.statistics("lineno")
