"""The table of routes; joins guard, chat, upstream and replies."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from http import HTTPMethod
from math import ceil
from types import MappingProxyType
from urllib.parse import unquote

from cfchat import chat
from cfchat.completions import parse_completion
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
from cfchat.guard import Asker, Guard, is_preflight, preflight_fields
from cfchat.replies import openai
from cfchat.replies.form import Form, Meta, described
from cfchat.replies.negotiation import negotiate
from cfchat.replies.ui_message import UIMessage
from cfchat.server import Handler, Request, Response
from cfchat.upstream import cloudflare
from cfchat.upstream.answer import Answer
from cfchat.upstream.client import Upstream

log = logging.getLogger("cfchat.app")

Route = Mapping[str, Handler]  # by method

_MODELS = "/v1/models/"
_JSON = (("Content-Type", "application/json"), ("Cache-Control", "no-cache"))

_METHODS = frozenset(HTTPMethod.__members__)
# Forms are what other sites may send without a preflight, and never a conversation.
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a conversation may be, and how many may run at once. `max_body` is in bytes.

    A client may name one of `models`, by one of `aliases`, too, and options up to `caps`; `model` is asked where it
    names none. Beyond `max_streams` so many as `max_queue` wait for their turn, `queue_timeout` seconds at most.
    """

    system_prompt: str = "You are a friendly assistant"
    client_system: str = chat.MERGE
    max_body: int = 1 << 20
    max_messages: int = 1000
    max_streams: int = 1000
    max_queue: int = 100
    queue_timeout: float = 5.0
    model: str = cloudflare.DEFAULT_MODEL
    models: tuple[str, ...] = (cloudflare.DEFAULT_MODEL,)
    aliases: Mapping[str, str] = field(default_factory=dict)
    caps: Mapping[str, float] = field(default_factory=lambda: {"max_tokens": 4096})


class App:
    """`handle` answers a request; `refuse` words an error. Both fit cfchat.server.Server. `pages` are by path."""

    def __init__(
        self,
        upstream: Upstream,
        settings: Settings = Settings(),
        guard: Guard | None = None,
        pages: Mapping[str, Handler] = MappingProxyType({}),
    ) -> None:
        self.guard = guard or Guard()
        self._upstream = upstream
        self._settings = settings
        self._limits = chat.Limits(
            messages=settings.max_messages,
            models=settings.models,
            aliases=settings.aliases,
            ranges=lambda model: cloudflare.ranges(model or settings.model),
            caps=settings.caps,
            takes=lambda model, name: cloudflare.takes(model or settings.model, name),
        )
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
        try:
            response = await self._route(request)
        except Incomplete:
            raise
        except CfchatError as error:
            response = _refusal(error, request.id)
        # On errors, too: without them a page cannot read why.
        response.fields = [*response.fields, *self.guard.origins.fields(request.fields)]
        return response

    def refuse(self, error: CfchatError, request_id: str) -> Response:
        """Words an error for a request whose fields are not known."""
        response = _refusal(error, request_id)
        response.fields = [*response.fields, *self.guard.origins.fields(None)]
        return response

    async def _route(self, request: Request) -> Response:
        if request.method not in _METHODS or request.method == "CONNECT":
            raise UnknownMethod("This method is not implemented.")
        route = self._find(request.path)
        if route is None:
            if request.method == "OPTIONS" and request.path == "*":
                return Response(204, [("Allow", "GET, HEAD, POST, OPTIONS")])
            raise NotFound("There is nothing at this path. The chat is at POST /api/chatbot.")
        if "GET" in route:
            route = {**route, "HEAD": route["GET"]}  # the server leaves the body out
        methods = [*route, "OPTIONS"]
        if request.method == "OPTIONS":
            return _options(request, methods)
        handler = route.get(request.method)
        if handler is None:
            allow = ", ".join(methods)
            raise MethodNotAllowed(f"This path takes {allow}.", fields=[("Allow", allow)])
        return await handler(request)

    def _find(self, path: str) -> Route | None:
        named = (
            route
            for (before, behind), route in self._named_routes.items()
            if path.startswith(before) and path.endswith(behind) and len(path) > len(before) + len(behind)
        )
        return self._routes.get(path) or next(named, None)

    # --- chat ----------------------------------------------------------------------------------------

    async def _chatbot(self, request: Request) -> Response:
        form = negotiate(request.fields.get("accept"))
        asker, body = await self._read(request)
        return await self._answer(request, asker, chat.parse_conversation(body, self._limits), form)

    async def _ui_chat(self, request: Request) -> Response:
        """The AI SDK sends its two transports the same request: only the path can tell."""
        asker, body = await self._read(request)
        return await self._answer(request, asker, chat.parse_conversation(body, self._limits), UIMessage())

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
        asker = self.guard.admit(request.fields, request.client, time.monotonic(), time.time())
        if asker.label:
            request.notes["key"] = asker.label
        _check_body_fields(request)
        return asker, await request.read_body(self._settings.max_body)

    async def _answer(
        self, request: Request, asker: Asker, conversation: chat.Conversation, form: Form
    ) -> Response:
        conversation = chat.with_system(conversation, self._settings.system_prompt, self._settings.client_system)
        async with AsyncExitStack() as stack:
            await self._streams.enter()
            stack.callback(self._streams.leave)
            bill = _Bill(conversation)
            try:
                answer = await self._ask(stack, conversation, request)
            except asyncio.CancelledError:
                self._count(asker, bill)  # whoever leaves before the first word has asked, and that is paid for
                raise
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
            stack.callback(self._count, asker, bill)
            pieces = _pieces(answer, form, Meta(request.id, int(time.time()), answer.model), bill)
            if form.whole:
                return Response(200, fields, b"".join([piece async for piece in pieces]))
            return Response(200, fields, pieces, stack.pop_all().aclose, form.fail, form.heartbeat)
        raise AssertionError("unreachable: the stack swallows nothing")

    async def _ask(self, stack: AsyncExitStack, conversation: chat.Conversation, request: Request) -> Answer:
        notes = request.notes
        try:
            answer = await stack.enter_async_context(
                self._upstream.stream(conversation, client=request.client, tag=request.id)
            )
        except UpstreamError as error:
            notes |= {"tries": error.tries, "model": error.model, "code": error.code}
            raise
        notes |= {"tries": answer.tries, "model": answer.model}
        return answer

    def _count(self, asker: Asker, bill: _Bill) -> None:
        for name in self.guard.spend(asker, bill.tokens, time.time()):
            log.warning("80 %% of today's tokens are used up: %s", name)

    # --- models --------------------------------------------------------------------------------------

    async def _models(self, request: Request) -> Response:
        self.guard.identify(request.fields)
        return Response(200, _JSON, openai.encode_models(self._names))

    async def _model(self, request: Request) -> Response:
        """The name may be escaped or not: OpenAI's SDKs escape its slashes."""
        self.guard.identify(request.fields)
        name = unquote(request.path.removeprefix(_MODELS))
        if name not in self._names:
            raise ModelNotFound("There is no such model here. GET /v1/models lists those there are.", param="model")
        return Response(200, _JSON, openai.encode_model(name))


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


class _Bill:
    """What a reply costs in tokens: what Cloudflare says at its end, or an estimate where it has none."""

    def __init__(self, conversation: chat.Conversation) -> None:
        self._asked = sum(map(chat.estimate_tokens, conversation.messages))
        self._said = 0
        self._usage: Mapping[str, object] = {}

    def add(self, batch: Sequence[chat.Delta]) -> None:
        for delta in batch:
            self._said += len(delta.text)
        self._usage = batch[-1].usage or self._usage

    @property
    def tokens(self) -> int:
        total = self._usage.get("total_tokens")
        return int(total) if isinstance(total, (int, float)) else self._asked + self._said // 3


class _Streams:
    """How many replies run at once; a few more may wait for their turn."""

    def __init__(self, settings: Settings) -> None:
        self._free = asyncio.Semaphore(settings.max_streams)
        self._settings = settings
        self._waiting = 0

    async def enter(self) -> None:
        """Raises Overloaded where too many wait already, or the turn does not come in time."""
        if not self._free.locked():
            await self._free.acquire()  # without a wait
            return
        if self._waiting >= self._settings.max_queue:
            raise _too_many()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.queue_timeout):
                await self._free.acquire()
        except TimeoutError:
            raise _too_many() from None
        finally:
            self._waiting -= 1

    def leave(self) -> None:
        self._free.release()


def _too_many() -> Overloaded:
    return Overloaded("Too many conversations at once. Please try again in a moment.", retry_after=1)


async def _pieces(answer: Answer, form: Form, meta: Meta, bill: _Bill) -> AsyncGenerator[bytes, None]:
    """The reply as it goes out; what comes before the first words goes with them."""
    start = form.start(meta)
    async with aclosing(answer.batches()) as batches:
        async for batch in batches:
            bill.add(batch)
            yield start + form.encode(batch)
            start = b""
    yield form.finish()


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
