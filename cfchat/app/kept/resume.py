"""Let clients join replies that are kept: by a chat's id, by the id of an event, or by the key of a question.

`answer` stands before every question. It finds the reply that the question has already, or asks and keeps the answer,
or has it written to the client directly, as without `--resume`: if nobody could find the answer again.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from urllib.parse import parse_qsl, unquote

from cfchat.app.exchange import Exchange
from cfchat.app.kept.replies import Keeping, KeptReplies, KeptReply, Name
from cfchat.app.writer import Writer
from cfchat.conversation.model import Conversation
from cfchat.errors import BadIdempotencyKey, BadOption, IdempotencyKeyReused, ResponseNotFound, TooManyReaders
from cfchat.guard.guard import Asker, Guard
from cfchat.ops.metrics import Metrics
from cfchat.replies import responses
from cfchat.replies.events import Events, NumberedEvents
from cfchat.replies.form import Form
from cfchat.replies.ui_message import UIMessage
from cfchat.server.reply import FieldLines, Handler, Reply
from cfchat.server.request import Request

# What a reply is found by: the id of its chat, of its events, of the response, or the key of its question.
_CHAT, _EVENTS, _RESPONSE, _KEY = "chat", "events", "response", "key"
# Before and behind the id in a path.
STREAM, RESPONSE = ("/api/chat/", "/stream"), ("/v1/responses/", "")
_STOPS = {
    _CHAT: ("/api/chat/", "/stop"),
    _EVENTS: ("/api/chatbot/", "/stop"),
    _RESPONSE: ("/v1/responses/", "/cancel"),
}
# A shorter one can be guessed.
_CHAT_ID = r"[A-Za-z0-9._:-]{16,128}"
_PLACE = r"([0-9a-f]{32})\.([0-9]{1,9})"
# A string of RFC 8941 §3.3.3, or as most clients send it, without the quotes.
_QUOTED, _KEY_TEXT = r'"((?:[!#-\[\]-~]|\\["\\])*)"', r"[!-~]{16,255}"
_STOPPED = b'{"success":true}\n'
_JSON = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))
_REPLAYED = (("Idempotency-Replayed", "true"),)

Parse = Callable[[bytes], tuple[Conversation, Form]]


class Resume:
    """`identify` returns the label of a request's key. With `thoughts` a chat's stream shows the model's reasoning."""

    def __init__(
        self, keeping: Keeping, exchange: Exchange, guard: Guard, metrics: Metrics,
        identify: Callable[[Request], Awaitable[str]], thoughts: bool,
    ) -> None:  # fmt: skip
        self.replies = KeptReplies(keeping)
        self._exchange = exchange
        self._guard = guard
        self._metrics = metrics
        self._identify = identify
        self._thoughts = thoughts
        self._secret = os.urandom(32)
        self.routes: dict[tuple[str, str], Mapping[str, Handler]] = {
            **{around: {"POST": partial(self._stop, kind, around)} for kind, around in _STOPS.items()},
            STREAM: {"GET": self._join_chat},
            RESPONSE: {"GET": self._join_response},
        }

    # --- a question ---------------------------------------------------------------------------

    def may_join(self, request: Request) -> bool:
        """Return whether a client has perhaps come back. Then it spends no tokens, and no budget need be looked at."""
        return "idempotency-key" in request.fields or "last-event-id" in request.fields

    async def answer(
        self, request: Request, reply: Reply, asker: Asker, parse: Parse, body: bytes
    ) -> Awaitable[None]:
        """Return what answers a question when it is awaited. This frame is gone by then, and with it the conversation.

        Raises:
            BadChatRequest: the body is not a conversation.
            BadIdempotencyKey: the key of the question is malformed.
            IdempotencyKeyReused: another question has come with it.
            TooManyReaders: the answer has as many readers as it may have.
        """
        key = read_key(request.fields.get("idempotency-key"))
        conversation, form = parse(body)
        if isinstance(form, Events) and (place := self._find_place(request, asker)) is not None:
            return self._join(request, reply, asker, form, *place)
        if key and conversation.images:
            await asyncio.sleep(0)  # parsing megabytes took a while, and so does hashing them
        names = [Name("", _KEY, self._hash(f"{asker.name}\0{key}".encode()).hex())] if key else []
        # The same body may ask for something else at another path.
        question = self._hash(body, repr(conversation).encode()) if key else b""
        if isinstance(form, UIMessage) and re.fullmatch(_CHAT_ID, form.name):
            names.append(Name(asker.label, _CHAT, form.name))
        if (same := await self._find_same(names, question)) is not None:
            return self._join(request, reply, asker, form, same, fields=_REPLAYED)
        if names or isinstance(form, (Events, responses.Events)):
            kept = self.replies.add(asker.name, form, names, question)
            if kept is not None:
                if isinstance(form, (responses.Events, responses.Response)):
                    kept.again = form.again(-1).again  # of a copy, because this form will hold all the words
                kept.start(request, self._exchange.run(request, asker, conversation, kept))
                return self._follow(reply, asker, form, kept)
        return self._exchange.run(request, asker, conversation, Writer(reply, form, asker.fields))

    def _find_place(self, request: Request, asker: Asker) -> tuple[KeptReply, int] | None:
        """Return the reply of the last event that a client has, and the event's number."""
        place = re.fullmatch(_PLACE, request.fields.get("last-event-id", ""))
        kept = None if place is None else self.replies.find(Name(asker.label, _EVENTS, place[1]))
        if place is None or kept is None or int(place[2]) > len(kept.journal):
            return None
        return kept, int(place[2])

    async def _find_same(self, names: Sequence[Name], question: bytes) -> KeptReply | None:
        """Return the reply that a question with a key has already. Else stop the one that runs in its chat, if any.

        Raises:
            IdempotencyKeyReused: another question has come with the key.
        """
        chat = next((name for name in names if name.kind == _CHAT), None)
        while True:
            if question and (found := self.replies.find(names[0])) is not None:
                if found.question != question:
                    raise IdempotencyKeyReused("This `Idempotency-Key` belongs to another question: send a new one.")
                return found
            if chat is None or not await self.replies.stop(chat):
                return None

    def _join(
        self, request: Request, reply: Reply, asker: Asker, form: Form, kept: KeptReply, number: int = 0,
        fields: FieldLines = (),
    ) -> Awaitable[None]:  # fmt: skip
        if kept.crowded:
            raise TooManyReaders("This reply has as many readers as it may have.", retry_after=1)
        kept.joins += 1
        self._metrics.resumed.add(1)
        request.notes |= {"resumed": kept.joins, "reply": kept.request_id}
        return self._follow(reply, asker, form, kept, number, fields)

    def _follow(
        self, reply: Reply, asker: Asker, form: Form, kept: KeptReply, number: int = 0, fields: FieldLines = ()
    ) -> Awaitable[None]:
        if isinstance(form, Events):
            kept.tell(Name(asker.label, _EVENTS, kept.id))
            form = NumberedEvents(form.thoughts, kept.id, number)
        elif isinstance(form, responses.Events):
            kept.tell(Name(asker.label, _RESPONSE, f"resp_{kept.id}"))
        return kept.follow(Writer(reply, form, [*asker.fields, *fields]), number)

    def _hash(self, *pieces: bytes) -> bytes:
        digest = blake2b(key=self._secret, digest_size=16)
        for piece in pieces:
            digest.update(piece)
        return digest.digest()

    # --- routes that need no question ---------------------------------------------------------

    async def _join_chat(self, request: Request, reply: Reply) -> None:
        """Answer GET /api/chat/ID/stream: the chat's last reply from its start, or 204 if there is none."""
        asker, kept = await self._find(request, _CHAT, STREAM)
        if kept is None:
            reply.send(204, asker.fields)
        else:
            await self._replay(request, reply, asker, UIMessage(self._thoughts), kept)

    async def _join_response(self, request: Request, reply: Reply) -> None:
        """Answer GET /v1/responses/ID?stream=true&starting_after=N: the events behind the one of that number.

        Raises:
            ResponseNotFound: it is not kept, or not asked for as a stream.
            BadOption: the number is none.
        """
        asker, kept = await self._find(request, _RESPONSE, RESPONSE)
        asked = dict(parse_qsl(request.query))
        if kept is None or kept.again is None:
            raise ResponseNotFound
        if asked.get("stream") != "true":
            raise ResponseNotFound("A response that is kept can only be read as a stream: add stream=true.")
        after = asked.get("starting_after", "-1")
        if not re.fullmatch(r"-1|[0-9]{1,9}", after):
            raise BadOption("`starting_after` must be the number of an event.", param="starting_after")
        await self._replay(request, reply, asker, kept.again(int(after)), kept)

    async def _find(self, request: Request, kind: str, around: tuple[str, str]) -> tuple[Asker, KeptReply | None]:
        label = await self._identify(request)
        asker = self._guard.admit(label, request.client, time.monotonic())
        await request.read_body(0)  # behind it the server watches for a client that leaves
        return asker, self.replies.find(Name(label, kind, _id_in(request.path, around)))

    async def _replay(self, request: Request, reply: Reply, asker: Asker, form: Form, kept: KeptReply) -> None:
        if request.method == "HEAD":
            Writer(reply, form, asker.fields)
            reply.end()
        else:
            await self._join(request, reply, asker, form, kept)

    async def _stop(self, kind: str, around: tuple[str, str], request: Request, reply: Reply) -> None:
        """Close the call to the model, then answer. A reply that is over, or was never there, is stopped as well."""
        label = await self._identify(request)
        await self.replies.stop(Name(label, kind, _id_in(request.path, around)))
        reply.send(200, _JSON, _STOPPED)


def _id_in(path: str, around: tuple[str, str]) -> str:
    before, behind = around
    return unquote(path.removeprefix(before).removesuffix(behind))


def read_key(field: str | None) -> str:
    """Return the key in an `Idempotency-Key` field, with or without the quotes of a string; empty if there is none.

    Raises:
        BadIdempotencyKey: it is not 16 to 255 characters of visible ASCII.
    """
    if field is None:
        return ""
    quoted = re.fullmatch(_QUOTED, field)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else field
    if not re.fullmatch(_KEY_TEXT, key) or (field[0] == '"' and not quoted):
        message = "An `Idempotency-Key` must be 16 to 255 characters of visible ASCII."
        raise BadIdempotencyKey(message, param="idempotency-key")
    return key
