"""The ASGI application, driven by hand; under real servers it is tested in tests/hosts."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from standin import STREAM_TYPE, Exchange, Model, Script, StandIn, head_of, json_error, partial, reply, silence

import cfchat
from cfchat.asgi3 import Application
from cfchat.conversation.model import Delta
from cfchat.errors import ConfigError
from cfchat.replies.text import Text

WORDS = reply(b'data: {"response":"Hel"}\n\ndata: {"response":"lo"}\n\ndata: [DONE]\n\n')
HALF = b'data: {"response":"Hel"}\n\n'
BODY = json.dumps([{"role": "user", "content": "Hello"}]).encode()
DEMO = cfchat.load_config(demo=True, environ={})


def besides(script: Script) -> Script:
    """The script for questions; the list of models, which is read at the start, is refused."""

    async def answer(exchange: Exchange) -> None:
        await (json_error(403, 10000, "Authentication error") if exchange.method == "GET" else script)(exchange)

    return answer


@asynccontextmanager
async def mounted(
    script: Script, change: Callable[[cfchat.Config], cfchat.Config] = lambda config: config, **settings: Any
) -> AsyncIterator[tuple[Application, StandIn]]:
    async with StandIn([besides(script)], repeat=True, certificate=None) as standin:
        config = cfchat.load_config(
            account_id="0" * 32, api_token="t", base_url=standin.base_url, warm=0, environ={}, **settings
        )
        async with cfchat.asgi(change(config)) as app:
            await standin.wait_requests()  # that of the list of models
            yield app, standin


class Call:
    """One request as a server would make it: `events` for receive, what was sent in `sent`."""

    def __init__(self, app: Application, *pieces: bytes, **scope: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.more = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()
        self.lost = False
        self.takes_last = True
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for index, piece in enumerate(pieces):
            self._events.put_nowait({"type": "http.request", "body": piece, "more_body": index + 1 < len(pieces)})
        length = [(b"content-length", b"%d" % len(b"".join(pieces)))] if pieces else []
        more = scope.pop("headers", [])
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST" if pieces else "GET",
            "path": "/api/chatbot",
            "headers": [] if more is None else length + more,
            "client": ("127.0.0.1", 5),
            **scope,
        }
        self.task = asyncio.create_task(app(scope, self._events.get, self._send))

    async def _send(self, event: Any) -> None:
        if not self.takes_last and event["type"] == "http.response.body" and not event.get("more_body"):
            self.takes.clear()
        await self.takes.wait()
        if self.lost:
            raise OSError("the client has gone")
        self.sent.append(event)
        self.more.set()

    def leave(self) -> None:
        self._events.put_nowait({"type": "http.disconnect"})

    async def until(self, text: bytes) -> None:
        while text not in self.body:
            self.more.clear()
            await self.more.wait()

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def fields(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(event["body"] for event in self.sent[1:])

    @property
    def whole(self) -> bool:
        return not self.sent[-1].get("more_body", False)


async def called(app: Application, *pieces: bytes, **scope: Any) -> Call:
    call = Call(app, *pieces, **scope)
    await call.task
    return call


async def test_a_pulse_ends_with_its_client() -> None:
    async with cfchat.asgi(DEMO) as app:
        call = Call(app, b"", method="GET", path="/api/pulse", query_string=b"idle=60", client=("192.0.2.1", 5))
        await call.until(b'"n":1,')
        call.leave()
        await call.task
    assert (call.status, call.whole) == (200, False) and b'"client":"192.0.2.1"' in call.body


async def test_a_post_streams_words_as_they_come() -> None:
    model = Model()
    async with mounted(model) as (app, standin):
        call = Call(app, BODY[:7], BODY[7:])
        for text in ("Hel", "lo"):
            model.say(text)
            await call.until(text.encode())
        model.end()
        await call.task
    assert (call.status, call.body, call.whole) == (200, b"Hello", True)
    assert len(call.sent) > 2
    assert call.fields["content-type"] == "text/event-stream"
    assert (call.fields["x-content-type-options"], len(call.fields["x-request-id"])) == ("nosniff", 16)
    assert json.loads(standin.requests[-1].body)["messages"][-1]["content"] == "Hello"


@pytest.mark.parametrize(
    ("pieces", "scope", "status", "code"),
    [
        ((b"no json",), {}, 400, "invalid_json"),
        ((BODY,), {"path": "/nowhere"}, 404, "not_found"),
        ((), {"path": "/api/pulse", "query_string": b"idle=1"}, 400, "invalid_option"),
        ((), {"method": "POST"}, 411, "length_required"),
        ((b"",), {"http_version": "2"}, 400, "invalid_json"),
        ((b" " * 600, b" " * 600), {}, 413, "body_too_large"),
        ((BODY,), {"headers": [(b"content-encoding", b"gzip")]}, 415, "unsupported_media_type"),
    ],
)
async def test_errors_are_the_servers_own(
    pieces: tuple[bytes, ...], scope: dict[str, Any], status: int, code: str
) -> None:
    async with mounted(WORDS, max_body=1000) as (app, _):
        call = await called(app, *pieces, **scope)
    assert (call.status, json.loads(call.body)["error"]["code"]) == (status, code)
    assert call.fields["access-control-allow-origin"] == "*"


async def test_a_body_without_a_length_is_one_in_http_2() -> None:
    async with mounted(WORDS) as (app, _):
        call = await called(app, BODY, headers=None, http_version="2")
    assert (call.status, call.body) == (200, b"Hello")


async def test_a_slow_body_is_408() -> None:
    def hurried(config: cfchat.Config) -> cfchat.Config:
        return replace(config, server=config.server._replace(body=0.01))

    async with mounted(WORDS, hurried) as (app, _):
        call = Call(app, method="POST", headers=[(b"content-length", b"5")])
        await call.task
    assert call.status == 408


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_page_and_its_head(method: str) -> None:
    async with cfchat.asgi(DEMO) as app:
        call = await called(app, method=method, path="/")
    assert call.status == 200
    assert (len(call.body) == int(call.fields["content-length"])) == (method == "GET")


@pytest.mark.parametrize(
    ("path", "root"),
    [("/chat/v1/models", "/chat"), ("/v1/models", ""), ("/v1/models", "/chat"), ("/chat/v1/models", "/chat/")],
)
async def test_the_path_it_is_mounted_at(path: str, root: str) -> None:
    async with cfchat.asgi(DEMO) as app:
        assert (await called(app, path=path, root_path=root)).status == 200
        assert (await called(app, path="/chatter", root_path="/chat")).status == 404
        assert (await called(app, path="/chat", root_path="/chat")).status == 200  # the page


async def test_a_path_cannot_forge_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cfchat")
    async with cfchat.asgi(DEMO) as app:
        await called(app, path="/a\n9d0c2b7d8a3c4e10 ::1 POST\ud800")
    assert "GET /a%0A9d0c2b7d8a3c4e10%20::1%20POST%3F 404" in caplog.messages[-1]


# --- what breaks ----------------------------------------------------------------------------------


async def test_a_reply_that_breaks_raises_so_that_the_server_cuts() -> None:
    async with mounted(partial(HALF, then="close")) as (app, _):
        call = Call(app, BODY)
        with pytest.raises(cfchat.CfchatError, match="lost"):
            await call.task
    assert (call.body, call.whole) == (b"Hel", False)


async def test_events_end_with_an_error_event_and_well() -> None:
    async with mounted(partial(HALF, then="close")) as (app, _):
        call = await called(app, BODY, headers=[(b"accept", b"text/event-stream")])
    assert b"event: error" in call.body and call.whole


async def test_a_fault_of_ours_is_500(caplog: pytest.LogCaptureFixture) -> None:
    async with mounted(WORDS) as (app, _):
        assert app._service is not None
        app._service.app.guard.admit = None  # type: ignore[assignment]
        call = await called(app, BODY)
    assert (call.status, json.loads(call.body)["error"]["code"]) == (500, "internal_error")
    assert "handler failed" in caplog.text


async def hold(exchange: Exchange) -> None:
    await exchange.send(head_of(200, [STREAM_TYPE]) + HALF)
    await exchange.closed_by_peer.wait()


async def silent(exchange: Exchange) -> None:
    await exchange.closed_by_peer.wait()


async def test_a_client_that_leaves_before_the_first_word_closes_upstream(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cfchat")
    async with mounted(silent) as (app, standin):
        call = Call(app, BODY)
        await standin.wait_requests(2)
        call.leave()
        await call.task
        await standin.requests[-1].closed_by_peer.wait()
    assert call.sent == []
    assert any(" 499 " in line for line in caplog.messages)


async def test_a_client_that_leaves_in_mid_reply_closes_upstream(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cfchat")
    async with mounted(hold) as (app, standin):
        call = Call(app, BODY)
        await call.until(b"Hel")
        call.leave()
        await call.task
        await standin.requests[-1].closed_by_peer.wait()
    assert any(" 499 " in line for line in caplog.messages)
    assert call.task.cancelling() == 0  # or a deadline around it, of the host's, would believe in a cancellation


async def test_a_kept_reply_goes_on_without_its_client(caplog: pytest.LogCaptureFixture) -> None:
    """Also while the application closes."""
    caplog.set_level("INFO", "cfchat")
    chat, model = json.dumps({"id": "c" * 16, "messages": [{"role": "user", "content": "Hello"}]}).encode(), Model()
    async with mounted(model, resume=60, drain_timeout=10) as (app, standin):
        call = Call(app, chat, path="/api/chat")
        model.say("Hel")
        await call.until(b"Hel")
        call.leave()
        await call.task
        again = Call(app, b"", method="GET", path=f"/api/chat/{'c' * 16}/stream")
        await again.until(b"Hel")
        model.say("lo")
        await again.until(b'"lo"')
        again.leave()
        await again.task
        closing = asyncio.create_task(app.aclose())
        model.end()
        await closing
    assert any(line.endswith("ended after its client had left: whole") for line in caplog.messages)
    assert again.status == 200 and len(standin.requests) == 2


async def test_a_client_that_leaves_inside_its_body() -> None:
    async with mounted(WORDS) as (app, _):
        call = Call(app, method="POST", headers=[(b"content-length", b"5")])
        call.leave()
        await call.task
    assert call.sent == []


async def test_a_server_that_says_so_by_an_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cfchat")
    async with mounted(WORDS) as (app, _):
        call = Call(app, BODY)
        call.lost = True
        await call.task
    assert any(" 499 " in line for line in caplog.messages)
    assert "Traceback" not in caplog.text


async def test_a_reply_that_is_there_at_once_is_one_event() -> None:
    async with mounted(WORDS) as (app, _):
        call = await called(app, BODY)
    assert [event["type"] for event in call.sent] == ["http.response.start", "http.response.body"]
    assert (call.body, call.whole) == (b"Hello", True)


def break_encode(monkeypatch: pytest.MonkeyPatch, good: int) -> None:
    """Let the text of a reply be encoded so many times, and then no more."""
    encode, times = Text.encode, count()

    def broken(self: Text, batch: list[Delta]) -> bytes:
        if next(times) >= good:
            raise ZeroDivisionError
        return encode(self, batch)

    monkeypatch.setattr(Text, "encode", broken)


async def test_a_fault_of_ours_in_mid_reply_is_cut(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    break_encode(monkeypatch, 1)
    model = Model()
    async with mounted(model) as (app, _):
        call = Call(app, BODY, headers=[(b"accept", b"text/plain")])
        model.say("Hel")
        await call.until(b"Hel")
        model.say("lo")
        with pytest.raises(cfchat.CfchatError, match="Something went wrong"):
            await call.task
        model.break_off()
    assert [event["type"] for event in call.sent] == ["http.response.start", "http.response.body"]
    assert (call.body, call.whole) == (b"Hel", False)
    assert "reply failed" in caplog.text


async def test_a_fault_of_ours_in_the_only_batch_is_500(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    break_encode(monkeypatch, 0)
    async with mounted(WORDS) as (app, _):
        call = await called(app, BODY, headers=[(b"accept", b"text/plain")])
    assert (call.status, json.loads(call.body)["error"]["code"]) == (500, "internal_error")
    assert "handler failed" in caplog.text


async def test_a_client_that_takes_no_more_is_given_up() -> None:
    def hurried(config: cfchat.Config) -> cfchat.Config:
        return replace(config, server=config.server._replace(write=0.02, heartbeat=0.01))

    async with mounted(hold, hurried) as (app, standin):
        call = Call(app, BODY)
        call.takes.clear()
        await call.task
        await standin.requests[-1].closed_by_peer.wait()
    assert call.sent == []


@pytest.mark.parametrize("script", [hold, silence()], ids=["behind the first word", "before it"])
async def test_silence_is_broken_by_heartbeats(script: Script) -> None:
    def hurried(config: cfchat.Config) -> cfchat.Config:
        return replace(config, server=config.server._replace(heartbeat=0.01))

    async with mounted(script, hurried) as (app, _):
        call = Call(app, BODY, headers=[(b"accept", b"text/event-stream")])
        await call.until(b": still there\n\n: still there\n\n")
        call.leave()
        await call.task


async def test_a_server_that_cancels_is_obeyed() -> None:
    async with mounted(hold) as (app, standin):
        call = Call(app, BODY)
        await call.until(b"Hel")
        call.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.task
        await standin.requests[-1].closed_by_peer.wait()


# --- who asks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "trusted", "seen"),
    [
        (("127.0.0.1", 1), "127.0.0.1", "9.9.9.9"),
        (("127.0.0.1", 1), None, "127.0.0.1"),
        (None, None, "-"),
    ],
)
async def test_the_clients_address(
    client: object, trusted: str | None, seen: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "cfchat")
    async with cfchat.asgi(cfchat.load_config(demo=True, environ={}, trusted_proxies=trusted)) as app:
        await called(app, path="/v1/models", client=client, headers=[(b"x-forwarded-for", b"9.9.9.9")])
    assert f" {seen} GET /v1/models 200" in caplog.messages[-1]


@pytest.mark.parametrize(("scheme", "status"), [("https", 200), ("http", 403)])
async def test_the_own_page_has_the_scheme_of_its_request(scheme: str, status: int) -> None:
    headers = [(b"host", b"127.0.0.1"), (b"origin", b"https://127.0.0.1")]
    config = cfchat.load_config(demo=True, environ={}, allow_origin="https://a.example")
    async with cfchat.asgi(config) as app:
        assert (await called(app, path="/v1/models", scheme=scheme, headers=headers)).status == status


@pytest.mark.parametrize(
    ("server", "seen"), [(("/run/a.sock", None), "9.9.9.9"), (("a.example", 80), "-"), (None, "-")]
)
async def test_a_unix_socket_is_trusted_to_name_its_clients(
    server: object, seen: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "cfchat")
    async with cfchat.asgi(DEMO) as app:
        fields = [(b"x-forwarded-for", b"9.9.9.9")]
        await called(app, path="/v1/models", client=None, server=server, headers=fields)
        await called(app, path="/v1/models", client=("8.8.8.8", 0), server=server, headers=fields)
    assert f" {seen} GET /v1/models 200" in caplog.messages[-2]
    assert " 8.8.8.8 GET /v1/models 200" in caplog.messages[-1]


# --- its life -------------------------------------------------------------------------------------


async def test_lifespan_begins_and_ends_it() -> None:
    before = asyncio.all_tasks()
    app = cfchat.asgi(DEMO)
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    told: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan"}, events.get, told.put))
    events.put_nowait({"type": "lifespan.startup"})
    assert await told.get() == {"type": "lifespan.startup.complete"}
    assert (await called(app, path="/v1/models")).status == 200
    events.put_nowait({"type": "lifespan.shutdown"})
    assert await told.get() == {"type": "lifespan.shutdown.complete"}
    await life
    assert asyncio.all_tasks() == before


async def test_a_start_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("no page")

    monkeypatch.setattr("cfchat.app.service.pages", broken)
    told: asyncio.Queue[Any] = asyncio.Queue()
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    events.put_nowait({"type": "lifespan.startup"})
    await cfchat.asgi(DEMO)({"type": "lifespan"}, events.get, told.put)
    assert await told.get() == {"type": "lifespan.startup.failed", "message": "no page"}


async def test_without_a_lifespan_it_begins_with_the_first_request() -> None:
    app = cfchat.asgi(DEMO)
    calls = [Call(app, path="/v1/models") for _ in range(3)]
    for call in calls:
        await call.task
    await app.aclose()
    assert [call.status for call in calls] == [200] * 3


async def test_what_it_does_not_speak() -> None:
    sent: asyncio.Queue[Any] = asyncio.Queue()
    app = cfchat.asgi(DEMO)
    await app({"type": "websocket"}, sent.get, sent.put)
    assert sent.get_nowait()["type"] == "websocket.close"
    with pytest.raises(ValueError, match="does not speak"):
        await app({"type": "carrier pigeon"}, sent.get, sent.put)


async def test_a_client_that_does_not_take_the_last_piece_is_given_up() -> None:
    def hurried(config: cfchat.Config) -> cfchat.Config:
        return replace(config, server=config.server._replace(write=0.2))

    async with mounted(WORDS, hurried) as (app, _):
        call = Call(app, BODY, headers=[(b"accept", b"text/plain")])
        call.takes_last = False
        await call.task
        assert app._service is not None and app._service.app.streams == (0, 0)


async def test_a_start_that_fails_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = cfchat.load_config(demo=True, environ={}, admin=f"127.0.0.1:{taken.getsockname()[1]}")
        app = cfchat.asgi(config)
        files = []
        for _ in range(3):
            with pytest.raises(ConfigError):
                await Call(app).task
            gc.collect()
            files.append(len(os.listdir("/proc/self/fd")))
        assert files[0] == files[-1]


async def test_a_request_that_comes_while_it_closes_opens_it_again() -> None:
    short = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}).encode()
    for turns in range(3):
        app = cfchat.asgi(DEMO)
        await called(app, path="/v1/models")
        closing = asyncio.create_task(app.aclose())
        for _ in range(turns):
            await asyncio.sleep(0)
        call = await called(app, short)
        await closing
        assert (call.status, call.body) == (200, (await called(app, short)).body), turns
        await app.aclose()
