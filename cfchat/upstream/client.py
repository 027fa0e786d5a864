"""Upstream.stream(conversation): try, try again, and give the model's words in batches."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import random
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from cfchat.chat import Conversation, Delta
from cfchat.errors import EventTooLarge, UpstreamError, UpstreamProtocolError
from cfchat.upstream import cloudflare, pool, retry
from cfchat.upstream.connection import Connection, Origin, UpstreamStale, connect
from cfchat.upstream.secret import Secret
from cfchat.wire.http11 import Data, encode_request_head
from cfchat.wire.sse import SSEParser

log = logging.getLogger("cfchat.upstream")

# How long the end of the message may take after [DONE]; behind it the connection is not worth keeping.
AFTER_DONE = 1.0
# An error reply or a reply that is plain JSON is read whole, up to this many bytes.
WHOLE_BODY = 1 << 20


@dataclass(frozen=True, slots=True)
class Deadlines:
    """In seconds: until connected, until the first delta, from one delta to the next."""

    connect: float = 5.0
    first_delta: float = 60.0
    between_deltas: float = 30.0


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the way to Cloudflare needs. `max_tokens` bounds one reply."""

    origin: Origin
    account: str
    token: Secret
    model: str = cloudflare.DEFAULT_MODEL
    max_tokens: int = 2048
    deadlines: Deadlines = Deadlines()
    policy: retry.Policy = field(default_factory=retry.Policy)
    pool: pool.Settings = field(default_factory=pool.Settings)


class Answer:
    """One reply that has begun. `model` said it, after `tries` requests."""

    def __init__(self, connection: Connection, request: bytes, settings: Settings, tag: str) -> None:
        self.model = settings.model
        self.tries = 1
        self._connection = connection
        self._request = request
        self._deadlines = settings.deadlines
        self._max_tokens = settings.max_tokens
        self._tag = tag
        self._reply = cloudflare.ReplyReader(settings.max_tokens)
        self._batches = self._exchange()
        self._first: list[Delta] = []

    async def begin(self) -> None:
        """Send the request and read up to the first text: what fails here can be tried again."""
        self._connection.deadline.move(self._deadlines.first_delta, "first token")
        async for batch in self._batches:
            self._first += batch
            if any(delta.text for delta in batch):
                return
        raise self._reply.empty_error()

    async def batches(self) -> AsyncGenerator[list[Delta], None]:
        """The reply, once: lists of Delta, none empty. Raises an UpstreamError where it breaks off."""
        deadline = self._connection.deadline
        deadline.pause()
        yield self._first
        deadline.move(self._deadlines.between_deltas, "further token")
        async for batch in self._batches:
            # While the client takes its time the upstream is not late.
            deadline.pause()
            yield batch
            deadline.move(self._deadlines.between_deltas, "further token")

    async def aclose(self) -> None:
        await self._batches.aclose()
        if self._reply.passed_over:
            log.info("%s passed over %d events without text", self._tag, self._reply.passed_over)

    async def _exchange(self) -> AsyncGenerator[list[Delta], None]:
        self._connection.send(self._request)
        head = await self._connection.head()
        content_type = head.fields.get("content-type", "")
        if head.status != 200:
            body = await self._whole_body()
            raise cloudflare.read_error(head.status, head.fields, body, now=time.time())
        if content_type.lower().startswith("application/json"):
            yield cloudflare.read_json_reply(await self._whole_body(), self._max_tokens)
            return
        try:
            async with aclosing(self._events()) as batches:
                async for batch in batches:
                    yield batch
        except EventTooLarge as error:
            raise UpstreamProtocolError("The model's server sent nonsense.", detail=error.message) from error

    async def _events(self) -> AsyncGenerator[list[Delta], None]:
        parser, reply, connection = SSEParser(), self._reply, self._connection
        pending = None
        while not reply.done:
            event = await connection.next_event()
            if type(event) is not Data:
                pending = parser.pending
                break
            deltas = reply.read(parser.feed(event.data))
            if deltas:
                yield deltas
        else:
            await self._read_to_end()
        deltas = reply.close(pending)
        if deltas:
            yield deltas

    async def _read_to_end(self) -> None:
        """[DONE] makes the reply whole; only the connection's next life depends on what follows."""
        self._connection.deadline.move(AFTER_DONE, "end of message after [DONE]")
        try:
            while type(await self._connection.next_event()) is Data:
                pass
        except UpstreamError as error:
            log.debug("%s connection not kept: %s", self._tag, error)

    async def _whole_body(self) -> bytes:
        pieces, size = [], 0
        while type(event := await self._connection.next_event()) is Data:
            size += len(event.data)
            if size > WHOLE_BODY:
                raise UpstreamProtocolError("The model's server sent nonsense.", detail="reply over 1 MiB")
            pieces.append(event.data)
        return b"".join(pieces)


class Upstream:
    """The way to Cloudflare: a pool of TLS connections and a policy for trying again."""

    def __init__(
        self,
        settings: Settings,
        context: ssl.SSLContext | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._chance = chance
        origin, seconds = settings.origin, settings.deadlines.connect
        self._pool = pool.Pool(lambda: connect(origin, context, seconds), settings.pool, clock)

    def close(self) -> None:
        """Close what lies idle. Replies under way keep their connections and close them after."""
        self._pool.close()

    @asynccontextmanager
    async def stream(self, conversation: Conversation, *, client: str = "", tag: str = "-") -> AsyncIterator[Answer]:
        """Ask the model; leaving the block closes the connection or gives it back.

        `client` is the address the conversation comes from, `tag` what log lines begin with.
        Raises an UpstreamError, its `tries` set, where no words came in all tries.
        """
        request = self._encode(conversation, client)
        answer, connection = await self._begin(request, tag)
        try:
            yield answer
        finally:
            await self._end(answer, connection)

    async def _begin(self, request: bytes, tag: str) -> tuple[Answer, Connection]:
        policy, began, attempt = self._settings.policy, self._clock(), 0
        while True:
            attempt += 1
            try:
                answer, connection = await self._try(request, tag)
            except UpstreamError as error:
                error.tries = attempt
                wait = retry.delay(policy, error, attempt, self._clock() - began, self._chance)
                if wait is None:
                    log.warning("%s try %d/%d failed: %s; giving up", tag, attempt, policy.attempts, error)
                    raise
                log.warning(
                    "%s try %d/%d failed: %s; retrying %d/%d in %.2f s",
                    *(tag, attempt, policy.attempts, error, attempt + 1, policy.attempts, wait),
                )
            else:
                answer.tries = attempt
                return answer, connection
            await asyncio.sleep(wait)

    async def _try(self, request: bytes, tag: str) -> tuple[Answer, Connection]:
        connection, pooled = await self._pool.borrow()
        try:
            return await self._ask(connection, request, tag), connection
        except UpstreamStale:
            if not pooled:
                raise
        log.debug("%s pooled connection had died: replaced", tag)
        connection, _ = await self._pool.borrow(fresh=True)
        return await self._ask(connection, request, tag), connection

    async def _ask(self, connection: Connection, request: bytes, tag: str) -> Answer:
        answer = Answer(connection, request, self._settings, tag)
        try:
            await answer.begin()
        except BaseException:
            await self._end(answer, connection)
            raise
        return answer

    async def _end(self, answer: Answer, connection: Connection) -> None:
        try:
            await answer.aclose()
        finally:
            connection.rest()
            self._pool.give_back(connection, reusable=connection.usable)

    def _encode(self, conversation: Conversation, client: str) -> bytes:
        settings = self._settings
        body = cloudflare.encode_request(conversation, settings.model, settings.max_tokens)
        target = cloudflare.run_path(settings.origin.base_path, settings.account, settings.model)
        fields = (
            ("Host", settings.origin.authority),
            ("Authorization", f"Bearer {settings.token.reveal()}"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Accept", "text/event-stream"),
            # Compression makes a stream arrive in one lump (cloudflare/workers-sdk#5614).
            ("Accept-Encoding", "identity"),
            ("User-Agent", "cfchat"),
            ("X-Session-Affinity", self._affinity(conversation, client)),
        )
        return encode_request_head("POST", target, fields) + body

    def _affinity(self, conversation: Conversation, client: str) -> str:
        """One conversation meets one warm prefix cache, with no state here and no address there."""
        messages = conversation.messages
        first = next((message.content for message in messages if message.role == "user"), "")
        key = self._settings.token.reveal().encode()
        digest = hmac.new(key, digestmod=hashlib.sha256)
        for part in (client, messages[0].content, first):
            raw = part.encode()
            digest.update(b"%d:" % len(raw) + raw)
        return digest.hexdigest()[:32]
