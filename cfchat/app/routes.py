"""The table of routes: which handler answers which path, who is let in, and how an error is worded.

A handler is `async handle(request, reply)` and writes into the reply. The chat routes read the conversation off the
request and give it to `Exchange`, which does the rest.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from http import HTTPMethod
from math import ceil
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import unquote

from cfchat.app.admission import Admission
from cfchat.app.exchange import Exchange
from cfchat.app.health import PROBES
from cfchat.app.hooks import Hooks, label_of, run_hook
from cfchat.app.kept.replies import Keeping
from cfchat.app.kept.resume import RESPONSE, STREAM, Resume
from cfchat.app.pulse import PULSE, Pulse
from cfchat.app.waiting import Kept, Waiting
from cfchat.app.writer import Writer
from cfchat.conversation.model import Conversation
from cfchat.conversation.openai import parse_completion
from cfchat.conversation.parse import Limits, parse_json, read_chat_id, read_conversation
from cfchat.conversation.prepare import MERGE, REJECT
from cfchat.conversation.responses import parse_response
from cfchat.errors import (
    CfchatError,
    LengthRequired,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    ResponseNotFound,
    UnknownMethod,
    UnsupportedMediaType,
    UpstreamError,
)
from cfchat.guard.addresses import network_of
from cfchat.guard.cors import is_preflight, preflight_fields
from cfchat.guard.guard import Asker, Guard
from cfchat.ops.logs import log_request, read_trace
from cfchat.ops.metrics import Metrics
from cfchat.replies import openai, responses
from cfchat.replies.form import Form, Meta, describe
from cfchat.replies.negotiation import negotiate
from cfchat.replies.ui_message import UIMessage
from cfchat.server.files import share_of
from cfchat.server.record import Record
from cfchat.server.reply import Handler, Refusal, Reply
from cfchat.server.request import Request
from cfchat.upstream.client import Upstream
from cfchat.upstream.cloudflare.models import DEFAULT_MODEL, efforts, ranges, takes
from cfchat.wire.fields import Fields

log = logging.getLogger("cfchat.app")

Route = Mapping[str, Handler]  # by method

_MODELS = "/v1/models/"
_OTHER = "other"  # the route of a path that there is not
_QUIET = (*PROBES, PULSE)  # paths whose successes are logged at debug
_JSON = (("Content-Type", "application/json"), ("Cache-Control", "no-cache"))

_METHODS = frozenset(HTTPMethod.__members__)
# Other sites may send an HTML form without a preflight. It is never a conversation.
HTML_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class Settings(NamedTuple):
    """What a conversation may be, and how many may run at once. `max_body` is in bytes.

    A client may name one of `models`, also by one of `aliases`, and options up to `caps`; if it names no model, `model`
    is asked. Beyond `max_streams` replies, `max_queue` conversations wait for a turn, at most `queue_timeout` seconds.
    `max_streams_each` is the share of one key or address, by default a quarter; its share of the queue is as large.
    `max_waiting` bounds the bytes of all requests that wait, for whatever reason. With `thoughts` replies show the
    model's reasoning, where their form has a place for it. `keeping` says which replies outlive their connection. A
    conversation may hold so many `images`.
    """

    system_prompt: str = "You are a friendly assistant"
    client_system: str = MERGE
    thoughts: bool = False
    max_body: int = 1 << 20
    max_messages: int = 1000
    max_streams: int = 1000
    max_streams_each: int | None = None
    max_queue: int = 100
    queue_timeout: float = 5.0
    max_waiting: int = 256 << 20
    model: str = DEFAULT_MODEL
    models: tuple[str, ...] = (DEFAULT_MODEL,)
    aliases: Mapping[str, str] = MappingProxyType({})
    caps: Mapping[str, float] = MappingProxyType({"max_tokens": 4096})
    keeping: Keeping = Keeping()
    images: int = 0


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
        self._settings = settings
        self._hooks = hooks
        self._limits = limits_of(settings)
        self.waiting = Waiting(settings.max_waiting)
        each = settings.max_streams_each or share_of(settings.max_streams)
        self._admission = Admission(settings.max_streams, settings.max_queue, settings.queue_timeout, each)
        self._exchange = Exchange(
            upstream, self._admission, self.guard, hooks, self.metrics,
            settings.system_prompt, settings.client_system, settings.model, settings.models,
        )  # fmt: skip
        self._resume: Resume | None = None
        if settings.keeping.seconds:
            self._resume = Resume(
                settings.keeping, self._exchange, self.guard, self.metrics, self._identify, settings.thoughts
            )
        self._names = tuple(dict.fromkeys((*settings.models, *settings.aliases)))
        self._routes: dict[str, Route] = {
            "/api/chatbot": {"POST": self._chatbot},
            "/api/chat": {"POST": self._ui_chat},
            "/v1/chat/completions": {"POST": self._completions},
            "/v1/responses": {"POST": self._responses},
            "/v1/models": {"GET": self._models},
            PULSE: {"GET": Pulse(self._identify, self.guard)},
            **{path: {"GET": page} for path, page in pages.items()},
        }
        named: dict[tuple[str, str], Route] = {
            STREAM: {"GET": self._nothing_kept},
            (_MODELS, ""): {"GET": self._model},
            RESPONSE: {"GET": self._earlier_response, "DELETE": self._earlier_response},
        }
        kept = {} if self._resume is None else self._resume.routes
        # Routes of a path that holds a name, by what stands before the name and behind it. The first that fits counts.
        self._named_routes = {around: {**named.get(around, {}), **kept.get(around, {})} for around in (*kept, *named)}

    def handle(self, request: Request, reply: Reply) -> Awaitable[None]:
        """Find the route and run it.

        Raises:
            CfchatError: `refuse` words it.
        """
        request.notes |= read_trace(request.fields.get("traceparent"))
        request.max_body = self._settings.max_body
        reply.common = self.guard.origins.fields(request.fields)
        return self._route(request, reply)

    def refuse(self, error: CfchatError, request_id: str, fields: Fields | None) -> Refusal:
        """Word an error as JSON, in the shape that OpenAI's clients know. What is for the log stays out.

        `fields` are the request's, None if no whole head came. The reply has CORS fields too: without them a page
        cannot read why it failed.
        """
        if not isinstance(error, UpstreamError):
            self.metrics.rejected.add(1, error.code)
        body = {"error": {**describe(error), "request_id": request_id}}
        answer = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), *error.fields]
        if error.retry_after is not None:
            answer.append(("Retry-After", str(max(1, ceil(error.retry_after)))))
        if isinstance(error, UpstreamError):
            # Our tries are used up, or it cannot pass: a client's own tries would only multiply them.
            answer.append(("x-should-retry", "false"))
        answer += self.guard.origins.fields(fields)
        return Refusal(error.status, answer, json.dumps(body).encode() + b"\n")

    def note(self, record: Record) -> None:
        """Count a request that is over, and log it. What tests come every few seconds is logged at debug."""
        path = record.path
        route = path if path in self._routes else self._name_of(path)
        self.metrics.requests.add(1, route, str(record.status))
        if route != _OTHER:
            record.path = route  # who knows the name in a path can read that reply
        log_request(record, logging.DEBUG if path in _QUIET and record.status < 400 else logging.INFO)

    @property
    def kept(self) -> tuple[int, int, int]:
        """Return how many kept replies run, how many are over, and what they take of the memory, in bytes."""
        return (0, 0, 0) if self._resume is None else self._resume.replies.counts

    @property
    def streams(self) -> tuple[int, int]:
        """Return how many replies run, and how many conversations wait for their turn."""
        return self._admission.running, self._admission.waiting

    def _name_of(self, path: str) -> str:
        """The route of a path that has a name in it, so that there are no more of them than routes."""
        around = self._find_around(path)
        return _OTHER if around is None else "*".join(around)

    async def _route(self, request: Request, reply: Reply) -> None:
        if request.method not in _METHODS or request.method == "CONNECT":
            raise UnknownMethod("This method is not implemented.")
        route = self._find(request.path)
        if route is None:
            if request.method == "OPTIONS" and (request.path == "*" or is_preflight(request.fields)):
                # A page may ask for a path that is not there, so that it can read the 404.
                return _answer_options(request, reply, ["GET", "HEAD", "POST", "OPTIONS"])
            raise NotFound(self._advise(request.path))
        # The server leaves the body of a reply to HEAD out.
        handler = route.get("GET" if request.method == "HEAD" else request.method)
        if handler is not None:
            return await handler(request, reply)
        methods = [*route, *(["HEAD"] if "GET" in route else []), "OPTIONS"]
        if request.method == "OPTIONS":
            return _answer_options(request, reply, methods)
        allow = ", ".join(methods)
        raise MethodNotAllowed(f"This path takes {allow}.", fields=[("Allow", allow)])

    def _find(self, path: str) -> Route | None:
        if path in self._routes:
            return self._routes[path]
        around = self._find_around(path)
        return None if around is None else self._named_routes[around]

    def _find_around(self, path: str) -> tuple[str, str] | None:
        """Return what stands before and behind the name in a path; None if no route has such a path."""
        return next((around for around in self._named_routes if _between(path, *around)), None)

    def _advise(self, path: str) -> str:
        """Return which path was meant, if that can be told; else an empty string.

        Base URLs have a slash, a `/v1` or a prefix too many, or too few.
        """
        asked = re.sub(r"/+", "/", path).rstrip("/")
        for known in self._routes:
            if asked and (asked.endswith(known) or known.endswith(asked)):
                return f"There is nothing at this path. Perhaps {known} is meant."
        if re.search(r"/v1(?:/|$)", asked):
            known = "POST /v1/responses, POST /v1/chat/completions and GET /v1/models"
            return f"There is nothing at this path. OpenAI's clients find {known}."
        return ""

    # --- chat ----------------------------------------------------------------------------------------

    def _chatbot(self, request: Request, reply: Reply) -> Awaitable[None]:
        form = negotiate(request.fields.get("accept"), self._settings.thoughts)
        return self._chat(request, reply, lambda body: (read_conversation(parse_json(body), self._limits), form))

    def _ui_chat(self, request: Request, reply: Reply) -> Awaitable[None]:
        """The AI SDK sends its two transports the same request: only the path tells them apart."""
        return self._chat(request, reply, self._parse_chat)

    def _parse_chat(self, body: bytes) -> tuple[Conversation, Form]:
        document = parse_json(body)
        form = UIMessage(self._settings.thoughts, read_chat_id(document))
        return read_conversation(document, self._limits), form

    async def _nothing_kept(self, request: Request, reply: Reply) -> None:
        """No reply outlives its request, so there is never one to resume."""
        reply.send(204)

    def _completions(self, request: Request, reply: Reply) -> Awaitable[None]:
        return self._chat(request, reply, self._parse_completion)

    def _parse_completion(self, body: bytes) -> tuple[Conversation, Form]:
        asked, thoughts = parse_completion(body, self._limits), self._settings.thoughts
        stream, usage = asked.stream, asked.include_usage
        return asked.conversation, openai.Chunks(usage, thoughts) if stream else openai.Completion(thoughts)

    def _responses(self, request: Request, reply: Reply) -> Awaitable[None]:
        return self._chat(request, reply, lambda body: self._parse_response(body, request.id))

    def _parse_response(self, body: bytes, request_id: str) -> tuple[Conversation, Form]:
        asked = parse_response(body, self._limits)
        model = asked.conversation.options.model or self._settings.model
        # A reply may fail before a model has answered, and an event says so: it names the model that was asked.
        meta = Meta(request_id, int(time.time()), model)
        form = responses.Events if asked.stream else responses.Response
        # The time of its end is read once, so that it is the same for a client that comes back.
        return asked.conversation, form(meta, asked.repeated, cache(time.time), self._settings.thoughts)

    async def _earlier_response(self, request: Request, reply: Reply) -> None:
        await self._identify(request)
        raise ResponseNotFound

    async def _chat(
        self, request: Request, reply: Reply, parse: Callable[[bytes], tuple[Conversation, Form]]
    ) -> None:
        """Let the client in, read what it asks and answer it."""
        kept = Kept(self.waiting, network_of(request.client))
        request.on_body = kept.resize
        try:
            label = await self._identify(request)
            back = self._resume is not None and self._resume.may_join(request)
            asker = self.guard.admit(label, request.client, time.monotonic(), None if back else time.time())
            if label:
                kept.rename(asker.name)
            _check_body_fields(request)
            # Neither the body nor the conversation gets a name here: it would keep them until the reply has ended.
            if self._resume is None:
                await self._answer(request, reply, asker, *parse(_no_form(request, await request.read_body())))
            else:
                body = request.read_body
                await (await self._resume.answer(request, reply, asker, parse, _no_form(request, await body())))
        finally:
            if kept.size and not request.goes_on:
                request.keep(0)

    def _answer(
        self, request: Request, reply: Reply, asker: Asker, conversation: Conversation, form: Form
    ) -> Awaitable[None]:
        return self._exchange.run(request, asker, conversation, Writer(reply, form, asker.fields))

    async def _identify(self, request: Request) -> str:
        label = self.guard.identify(request.fields, request.secure)
        if self._hooks.authenticate is not None:
            label = await run_hook("authenticate", request.id, self._hooks.authenticate, request) or label
        if label:
            request.notes["key"] = label_of(label)
        return label

    async def drain(self, seconds: float) -> None:
        """Let replies that nobody reads just now come to their end, but for so many seconds at most."""
        if self._resume is not None:
            await self._resume.replies.drain(seconds)

    async def aclose(self) -> None:
        """End what outlives its requests: kept replies, and the hooks behind replies."""
        if self._resume is not None:
            await self._resume.replies.aclose()
        await self._exchange.aclose()

    # --- models --------------------------------------------------------------------------------------

    async def _models(self, request: Request, reply: Reply) -> None:
        await self._identify(request)
        reply.send(200, _JSON, openai.encode_models(self._names))

    async def _model(self, request: Request, reply: Reply) -> None:
        """The name may be escaped or not: OpenAI's SDKs escape its slashes."""
        await self._identify(request)
        name = unquote(request.path.removeprefix(_MODELS))
        if name not in self._names:
            raise ModelNotFound("There is no such model here. GET /v1/models lists those there are.", param="model")
        reply.send(200, _JSON, openai.encode_model(name))


def _answer_options(request: Request, reply: Reply, methods: Sequence[str]) -> None:
    preflight = preflight_fields(request.fields, methods) if is_preflight(request.fields) else []
    reply.send(204, [("Allow", ", ".join(methods)), *preflight])


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
        efforts=lambda model: efforts(model or settings.model),
        images=settings.images,
        system=settings.client_system != REJECT,
    )


def _check_body_fields(request: Request) -> None:
    fields = request.fields
    if "content-length" not in fields and "transfer-encoding" not in fields:
        raise LengthRequired("The request has no body: send the messages as JSON.")
    coding = fields.get("content-encoding")
    if coding is not None and coding.lower() != "identity":
        raise UnsupportedMediaType(
            "Send the body uncompressed.", fields=[("Accept-Encoding", "identity")], param="content-encoding"
        )


def _no_form(request: Request, body: bytes) -> bytes:
    """Return the body, but refuse a form. What begins as JSON is none: `curl -d` labels all that it sends as a form."""
    if body.lstrip()[:1] not in (b"[", b"{"):
        kind = request.fields.get("content-type", "").partition(";")[0].strip().lower()
        if kind in HTML_FORMS:
            message = "The body looks like a form: send the messages as a list or object of JSON."
            raise UnsupportedMediaType(message, param="content-type")
    return body
