"""The table of routes; joins guard, chat, upstream and replies."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import suppress
from http import HTTPMethod
from math import ceil
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import unquote

from cfchat.app.health import PROBES
from cfchat.app.hooks import Hooks, Reply, label_of, run
from cfchat.conversation.model import Conversation, Delta
from cfchat.conversation.openai import parse_completion
from cfchat.conversation.parse import Limits, parse_conversation
from cfchat.conversation.prepare import MERGE, estimate_tokens, with_system
from cfchat.errors import (
    CfchatError,
    Incomplete,
    LengthRequired,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    Overloaded,
    UnknownMethod,
    UnsupportedMediaType,
    UpstreamError,
)
from cfchat.guard.cors import is_preflight, preflight_fields
from cfchat.guard.guard import Asker, Guard
from cfchat.ops.logs import log_exchange, traced
from cfchat.ops.metrics import Metrics
from cfchat.replies import openai
from cfchat.replies.form import Form, Meta, described
from cfchat.replies.negotiation import negotiate
from cfchat.replies.ui_message import UIMessage
from cfchat.server.record import Exchange
from cfchat.server.server import Handler, Request, Response, Sink
from cfchat.upstream.answer import Answer, Lost
from cfchat.upstream.client import Upstream
from cfchat.upstream.cloudflare.models import DEFAULT_MODEL, ranges, takes
from cfchat.wire.fields import Fields

log = logging.getLogger("cfchat.app")

Route = Mapping[str, Handler]  # by method

_MODELS = "/v1/models/"
_JSON = (("Content-Type", "application/json"), ("Cache-Control", "no-cache"))

_METHODS = frozenset(HTTPMethod.__members__)
# Forms are what other sites may send without a preflight, and never a conversation.
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class Settings(NamedTuple):
    """What a conversation may be, and how many may run at once. `max_body` is in bytes.

    A client may name one of `models`, by one of `aliases`, too, and options up to `caps`; `model` is asked where it
    names none. Beyond `max_streams` so many as `max_queue` wait for their turn, `queue_timeout` seconds at most.
    """

    system_prompt: str = "You are a friendly assistant"
    client_system: str = MERGE
    max_body: int = 1 << 20
    max_messages: int = 1000
    max_streams: int = 1000
    max_queue: int = 100
    queue_timeout: float = 5.0
    model: str = DEFAULT_MODEL
    models: tuple[str, ...] = (DEFAULT_MODEL,)
    aliases: Mapping[str, str] = MappingProxyType({})
    caps: Mapping[str, float] = MappingProxyType({"max_tokens": 4096})


class App:
    """`handle` answers a request; `refuse` words an error. Both fit cfchat.server.Server. `pages` are by path."""

    def __init__(
        self,
        upstream: Upstream,
        settings: Settings = Settings(),
        guard: Guard | None = None,
        pages: Mapping[str, Handler] = MappingProxyType({}),
        hooks: Hooks = Hooks(),
        metrics: Metrics | None = None,
    ) -> None:
        self.metrics = metrics or Metrics()
        self.guard = guard or Guard()
        self._upstream = upstream
        self._settings = settings
        self._hooks = hooks
        self._settling: set[asyncio.Task[None]] = set()
        self._limits = limits_of(settings)
        self._streams = _Streams(settings)
        self._names = tuple(dict.fromkeys((*settings.models, *settings.aliases)))
        self._routes: dict[str, Route] = {
            "/api/chatbot": {"POST": self._chatbot},
            "/api/chat": {"POST": self._ui_chat},
            "/v1/chat/completions": {"POST": self._completions},
            "/v1/models": {"GET": self._models},
            **{path: {"GET": page} for path, page in pages.items()},
        }
        # Those with a name in them, by what stands before it and behind it.
        self._named_routes: dict[tuple[str, str], Route] = {
            ("/api/chat/", "/stream"): {"GET": self._resume},
            (_MODELS, ""): {"GET": self._model},
        }

    async def handle(self, request: Request) -> Response:
        """Find the route and run it. Raises Incomplete where the client left in the middle of its request."""
        request.notes |= traced(request.fields.get("traceparent"))
        try:
            response = await self._route(request)
        except Incomplete:
            raise
        except CfchatError as error:
            # With the fields of CORS, too: without them a page cannot read why.
            return self.refuse(error, request.id, request.fields)
        response.fields = [*response.fields, *self.guard.origins.fields(request.fields)]
        return response

    def refuse(self, error: CfchatError, request_id: str, fields: Fields | None) -> Response:
        """Words an error of the server's own; `fields` are the request's, where they are known."""
        if not isinstance(error, UpstreamError):
            self.metrics.rejected.add(1, error.code)
        response = _refusal(error, request_id)
        response.fields = [*response.fields, *self.guard.origins.fields(fields)]
        return response

    def note(self, entry: Exchange) -> None:
        """Count a request that is over, and log it; what asks every few seconds is no news."""
        self.metrics.requests.add(1, self._name_of(entry.path), str(entry.status))
        log_exchange(entry, logging.DEBUG if entry.path in PROBES and entry.status < 400 else logging.INFO)

    @property
    def streams(self) -> tuple[int, int]:
        """Replies that run, and those that wait for their turn."""
        return self._streams.running, self._streams.waiting

    def _name_of(self, path: str) -> str:
        """The route of a path, so that there are no more of them than routes."""
        if path in self._routes:
            return path
        named = (f"{before}*{behind}" for before, behind in self._named_routes if _between(path, before, behind))
        return next(named, "other")

    async def _route(self, request: Request) -> Response:
        if request.method not in _METHODS or request.method == "CONNECT":
            raise UnknownMethod("This method is not implemented.")
        route = self._find(request.path)
        if route is None:
            if request.method == "OPTIONS" and request.path == "*":
                return Response(204, [("Allow", "GET, HEAD, POST, OPTIONS")])
            raise NotFound("There is nothing at this path. The chat is at POST /api/chatbot.")
        # Of a HEAD the server leaves the body out.
        handler = route.get("GET" if request.method == "HEAD" else request.method)
        if handler is not None:
            return await handler(request)
        methods = [*route, *(["HEAD"] if "GET" in route else []), "OPTIONS"]
        if request.method == "OPTIONS":
            return _options(request, methods)
        allow = ", ".join(methods)
        raise MethodNotAllowed(f"This path takes {allow}.", fields=[("Allow", allow)])

    def _find(self, path: str) -> Route | None:
        if path in self._routes:
            return self._routes[path]
        named = (
            route
            for (before, behind), route in self._named_routes.items()
            if _between(path, before, behind)
        )
        return next(named, None)

    # --- chat ----------------------------------------------------------------------------------------

    async def _chatbot(self, request: Request) -> Response:
        form = negotiate(request.fields.get("accept"))
        asker, body = await self._read(request)
        return await self._answer(request, asker, parse_conversation(body, self._limits), form)

    async def _ui_chat(self, request: Request) -> Response:
        """The AI SDK sends its two transports the same request: only the path can tell."""
        asker, body = await self._read(request)
        return await self._answer(request, asker, parse_conversation(body, self._limits), UIMessage())

    async def _resume(self, request: Request) -> Response:
        """No reply outlives its request, so there is never one to resume."""
        return Response(204)

    async def _completions(self, request: Request) -> Response:
        asker, body = await self._read(request)
        asked = parse_completion(body, self._limits)
        form = openai.Chunks(asked.include_usage) if asked.stream else openai.Completion()
        return await self._answer(request, asker, asked.conversation, form)

    async def _read(self, request: Request) -> tuple[Asker, bytes]:
        """Let the client in, and read what it sends."""
        label = await self._identify(request)
        asker = self.guard.admit(label, request.client, time.monotonic(), time.time())
        _check_body_fields(request)
        return asker, await request.read_body(self._settings.max_body)

    async def _identify(self, request: Request) -> str:
        label = self.guard.identify(request.fields)
        if self._hooks.authenticate is not None:
            label = await run(self._hooks.authenticate(request), "authenticate", request.id) or label
        if label:
            request.notes["key"] = label_of(label)
        return label

    async def _answer(
        self, request: Request, asker: Asker, conversation: Conversation, form: Form
    ) -> Response:
        conversation = with_system(conversation, self._settings.system_prompt, self._settings.client_system)
        await self._streams.enter()
        try:
            if self._hooks.before_call is not None:
                conversation = await run(self._hooks.before_call(conversation, request), "before_call", request.id)
            bill, asked = _Bill(conversation), time.monotonic()
            try:
                answer = await self._ask(conversation, request, bill)
            except (asyncio.CancelledError, UpstreamError) as error:
                # Whoever leaves before the first word has asked, and that is paid for; so are thoughts without a word.
                if bill.lost or not isinstance(error, UpstreamError):
                    model = getattr(error, "model", "") or conversation.options.model or self._settings.model
                    self._settle(request, asker, model, bill)
                raise
        except BaseException:
            self._streams.leave()
            raise
        bill.began = time.monotonic()
        self.metrics.first_token.observe(bill.began - asked)

        async def end() -> None:
            try:
                self._settle(request, asker, answer.model, bill)
            finally:
                self._upstream.end(answer)
                self._streams.leave()

        try:
            relay = _Relay(form, bill)
            answer.relay_to(relay)
            pieces = self._pieces(answer, form, Meta(request.id, int(time.time()), answer.model), bill)
            fields = _fields(answer, form, asker)
            if not form.whole:
                return Response(200, fields, pieces, end, form.fail, form.heartbeat, relay.attach)
            response = Response(200, fields, b"".join([piece async for piece in pieces]))
        except BaseException:
            await end()
            raise
        await end()
        return response

    async def _ask(self, conversation: Conversation, request: Request, bill: _Bill) -> Answer:
        notes = request.notes
        try:
            answer = await self._upstream.begin(
                conversation, client=request.client, tag=request.id, lost=bill.lost.append
            )
        except UpstreamError as error:
            notes |= {"tries": error.tries, "model": error.model, "code": error.code}
            self.metrics.tries.add(error.tries)
            raise
        self.metrics.tries.add(answer.tries)
        notes |= {"tries": answer.tries, "model": answer.model}
        return answer

    def _settle(self, request: Request, asker: Asker, model: str, bill: _Bill) -> None:
        """Count what a reply that is over has cost, however it ended."""
        asked, said, total = bill.counts
        for name in self.guard.spend(asker, total, time.time()):
            log.warning("80 %% of today's tokens are used up: %s", _printable(name))
        self._measure(bill, asked, said)
        if self._hooks.after_reply is not None:
            reply = Reply(request.id, asker.label, request.client, model, asked, said, bill.estimated, bill.whole)
            # In a task of its own: a client that leaves with its reply must not end it.
            task = asyncio.get_running_loop().create_task(_told_only(self._hooks.after_reply(reply), request.id))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    def _measure(self, bill: _Bill, asked: int, said: int) -> None:
        metrics = self.metrics
        metrics.tokens.add(asked, "prompt")
        metrics.tokens.add(said, "completion")
        if bill.began is not None:
            metrics.replies.add(1, "whole" if bill.whole else "broken")
            if bill.whole and said > 1:
                metrics.per_token.observe((time.monotonic() - bill.began) / (said - 1))

    async def _pieces(self, answer: Answer, form: Form, meta: Meta, bill: _Bill) -> AsyncGenerator[bytes, None]:
        """The reply as it goes out; what comes before the first words goes with them."""
        start = form.start(meta)
        try:
            while batch := await answer.next_batch():
                bill.add(batch)
                if piece := start + form.encode(batch):
                    yield piece
                start = b""
        except UpstreamError as error:
            self.metrics.upstream_errors.add(1, error.code)
            raise
        bill.whole = True
        if piece := form.finish():
            yield piece

    async def aclose(self) -> None:
        """Wait for what is done after replies."""
        if self._settling:
            await asyncio.wait(self._settling)

    # --- models --------------------------------------------------------------------------------------

    async def _models(self, request: Request) -> Response:
        await self._identify(request)
        return Response(200, _JSON, openai.encode_models(self._names))

    async def _model(self, request: Request) -> Response:
        """The name may be escaped or not: OpenAI's SDKs escape its slashes."""
        await self._identify(request)
        name = unquote(request.path.removeprefix(_MODELS))
        if name not in self._names:
            raise ModelNotFound("There is no such model here. GET /v1/models lists those there are.", param="model")
        return Response(200, _JSON, openai.encode_model(name))


def _fields(answer: Answer, form: Form, asker: Asker) -> list[tuple[str, str]]:
    fields = [
        ("Content-Type", form.content_type),
        ("Cache-Control", "no-cache"),
        ("X-Accel-Buffering", "no"),
        ("X-Model", answer.model),
        *form.fields,
        *asker.fields,
    ]
    if answer.left_out:
        fields.append(("X-Messages-Left-Out", str(answer.left_out)))
    return fields


def _between(path: str, before: str, behind: str) -> bool:
    return path.startswith(before) and path.endswith(behind) and len(path) > len(before) + len(behind)


def limits_of(settings: Settings) -> Limits:
    """What a conversation may hold and ask for."""
    return Limits(
        messages=settings.max_messages,
        models=settings.models,
        aliases=settings.aliases,
        ranges=lambda model: ranges(model or settings.model),
        caps=settings.caps,
        takes=lambda model, name: takes(model or settings.model, name),
    )


def _refusal(error: CfchatError, request_id: str) -> Response:
    """The error as JSON, in the shape that OpenAI's clients know. What is for the log stays out."""
    body = {"error": {**described(error), "request_id": request_id}}
    fields = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), *error.fields]
    if error.retry_after is not None:
        fields.append(("Retry-After", str(max(1, ceil(error.retry_after)))))
    if isinstance(error, UpstreamError):
        # Our tries are used up, or it cannot pass: a client's own tries would only multiply them.
        fields.append(("x-should-retry", "false"))
    return Response(error.status, fields, json.dumps(body).encode() + b"\n")


def _printable(name: str) -> str:
    """What a hook calls somebody may hold anything; label_of keeps no blank."""
    return " ".join(map(label_of, name.split(" ")))


async def _told_only(hook: Awaitable[None], tag: str) -> None:
    with suppress(CfchatError):
        await run(hook, "after_reply", tag)


class _Bill:
    """What a reply costs in tokens: what Cloudflare says at its end, or an estimate where it has none."""

    def __init__(self, conversation: Conversation) -> None:
        self._asked = sum(map(estimate_tokens, conversation.messages))
        self._said = 0
        self._usage: Mapping[str, object] = {}
        self.lost: list[Lost] = []  # of tries that came to nothing, and are paid for
        self.whole = False
        self.began: float | None = None  # when the first words came

    def add(self, batch: Sequence[Delta]) -> None:
        for delta in batch:
            self._said += len(delta.text)
            if delta.reasoning or delta.tool_calls:
                self._said += len(delta.reasoning) + sum(len(call.arguments) for call in delta.tool_calls)
        self._usage = batch[-1].usage or self._usage

    @property
    def counts(self) -> tuple[int, int, int]:
        """Tokens of the conversation, of the reply, and in all."""
        if not self.lost:
            return self._count(self._usage, self._said)
        tries = [self._count(*told) for told in self._tries()]
        return sum(one[0] for one in tries), sum(one[1] for one in tries), sum(one[2] for one in tries)

    @property
    def estimated(self) -> bool:
        return not all(usage for usage, _ in self._tries())

    def _tries(self) -> list[Lost]:
        return self.lost if self.lost and self.began is None else [*self.lost, (self._usage, self._said)]

    def _count(self, usage: Mapping[str, object], said: int) -> tuple[int, int, int]:
        asked = _told(usage, "prompt_tokens", self._asked)
        answered = _told(usage, "completion_tokens", said // 3)
        return asked, answered, _told(usage, "total_tokens", asked + answered)


def _told(usage: Mapping[str, object], name: str, estimate: int) -> int:
    number = usage.get(name)
    return int(number) if isinstance(number, (int, float)) else estimate


class _Relay:
    """Batches on their way out by a sink, as soon as there is one: what `_pieces` does, without its turns."""

    def __init__(self, form: Form, bill: _Bill) -> None:
        self._form = form
        self._bill = bill
        self._sink: Sink | None = None

    def attach(self, sink: Sink) -> None:
        self._sink = sink

    def ready(self) -> bool:
        return self._sink is not None and self._sink.ready()

    def take(self, batch: list[Delta]) -> None:
        assert self._sink is not None
        self._bill.add(batch)
        self._sink.take(self._form.encode(batch))


class _Streams:
    """How many replies run at once; a few more may wait for their turn."""

    def __init__(self, settings: Settings) -> None:
        self._free = asyncio.Semaphore(settings.max_streams)
        self._settings = settings
        self.running, self.waiting = 0, 0

    async def enter(self) -> None:
        """Raises Overloaded where too many wait already, or the turn does not come in time."""
        if self._free.locked():
            await self._wait()
        else:
            await self._free.acquire()  # without a wait
        self.running += 1

    async def _wait(self) -> None:
        if self.waiting >= self._settings.max_queue:
            raise _too_many()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._settings.queue_timeout):
                await self._free.acquire()
        except TimeoutError:
            raise _too_many() from None
        finally:
            self.waiting -= 1

    def leave(self) -> None:
        self.running -= 1
        self._free.release()


def _too_many() -> Overloaded:
    return Overloaded("Too many conversations at once. Please try again in a moment.", retry_after=1)


def _options(request: Request, methods: list[str]) -> Response:
    fields = [("Allow", ", ".join(methods))]
    if is_preflight(request.fields):
        fields += preflight_fields(request.fields, methods)
    return Response(204, fields)


def _check_body_fields(request: Request) -> None:
    fields = request.fields
    if "content-length" not in fields and "transfer-encoding" not in fields:
        raise LengthRequired("The request has no body: send the messages as JSON.")
    if fields.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType(
            "Send the body uncompressed.", fields=[("Accept-Encoding", "identity")], param="content-encoding"
        )
    if fields.get("content-type", "").partition(";")[0].strip().lower() in FORMS:
        told = "The Content-Type is that of a form: send the messages as application/json."
        raise UnsupportedMediaType(told, param="content-type")
