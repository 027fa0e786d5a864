"""The table of routes; joins guard, chat, upstream and replies."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from http import HTTPMethod

from cfchat import chat, guard
from cfchat.errors import (
    CfchatError,
    LengthRequired,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    UnknownMethod,
    UnsupportedMediaType,
    UpstreamError,
)
from cfchat.replies import text
from cfchat.server import Handler, Request, Response
from cfchat.upstream import cloudflare
from cfchat.upstream.answer import Answer
from cfchat.upstream.client import Upstream

# Forms are what other sites may send without a preflight, and never a conversation.
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a conversation may be, and how many may run at once. `max_body` is in bytes.

    A client may name one of `models`, and options up to `caps`; `model` is asked where it names none.
    """

    system_prompt: str = "You are a friendly assistant"
    max_body: int = 1 << 20
    max_messages: int = 1000
    max_streams: int = 1000
    model: str = cloudflare.DEFAULT_MODEL
    models: tuple[str, ...] = (cloudflare.DEFAULT_MODEL,)
    caps: Mapping[str, float] = field(default_factory=lambda: {"max_tokens": 4096})


class App:
    """`handle` answers a request; `refuse` words an error. Both fit cfchat.server.Server."""

    def __init__(self, upstream: Upstream, settings: Settings = Settings()) -> None:
        self._upstream = upstream
        self._settings = settings
        self._limits = chat.Limits(
            messages=settings.max_messages,
            models=settings.models,
            ranges=lambda model: cloudflare.ranges(model or settings.model),
            caps=settings.caps,
        )
        self._streams = 0
        self._routes: dict[str, dict[str, Handler]] = {"/api/chatbot": {"POST": self._chatbot}}

    async def handle(self, request: Request) -> Response:
        """Find the route and run it. Raises a CfchatError for `refuse` to word."""
        if request.method not in HTTPMethod.__members__ or request.method == "CONNECT":
            raise UnknownMethod("This method is not implemented.")
        route = self._routes.get(request.path)
        if route is None:
            if request.method == "OPTIONS" and request.path == "*":
                return Response(204, [("Allow", "GET, HEAD, POST, OPTIONS")])
            raise NotFound("There is nothing at this path. The chat is at POST /api/chatbot.")
        methods = [*route, "OPTIONS"]
        if request.method == "OPTIONS":
            return _options(request, methods)
        handler = route.get(request.method)
        if handler is None:
            allow = ", ".join(methods)
            raise MethodNotAllowed(f"This path takes {allow}.", fields=[("Allow", allow)])
        return await handler(request)

    def refuse(self, error: CfchatError, request_id: str) -> Response:
        """The error as JSON, in the shape that OpenAI's clients know. What is for the log stays out."""
        body = {
            "error": {
                "message": error.message,
                "type": error.type,
                "code": error.code,
                "param": error.param,
                "request_id": request_id,
            }
        }
        fields = [
            ("Content-Type", "application/json"),
            ("Cache-Control", "no-store"),
            *guard.CORS_FIELDS,
            *error.fields,
        ]
        if error.retry_after is not None:
            fields.append(("Retry-After", str(max(1, round(error.retry_after)))))
        if isinstance(error, UpstreamError):
            # Our tries are used up, or it cannot pass: a client's own tries would only multiply them.
            fields.append(("x-should-retry", "false"))
        return Response(error.status, fields, json.dumps(body).encode() + b"\n")

    async def _chatbot(self, request: Request) -> Response:
        _check_body_fields(request)
        body = await request.read_body(self._settings.max_body)
        conversation = chat.parse_conversation(body, self._limits)
        conversation = chat.with_system(conversation, self._settings.system_prompt)
        async with AsyncExitStack() as stack:
            self._take_stream()
            stack.callback(self._leave_stream)
            answer = await self._ask(stack, conversation, request)
            fields = [
                ("Content-Type", text.CONTENT_TYPE),
                ("Cache-Control", "no-cache"),
                ("X-Accel-Buffering", "no"),
                ("X-Model", answer.model),
                *guard.CORS_FIELDS,
            ]
            if answer.left_out:
                fields.append(("X-Messages-Left-Out", str(answer.left_out)))
            return Response(200, fields, _text(answer), stack.pop_all().aclose)
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

    def _take_stream(self) -> None:
        if self._streams >= self._settings.max_streams:
            raise Overloaded("Too many conversations at once. Please try again in a moment.", retry_after=1)
        self._streams += 1

    def _leave_stream(self) -> None:
        self._streams -= 1


async def _text(answer: Answer) -> AsyncGenerator[bytes, None]:
    async with aclosing(answer.batches()) as batches:
        async for batch in batches:
            yield text.encode(batch)


def _options(request: Request, methods: list[str]) -> Response:
    fields = [("Allow", ", ".join(methods)), *guard.CORS_FIELDS]
    if guard.is_preflight(request.fields):
        fields += guard.preflight_fields(request.fields, methods)
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
