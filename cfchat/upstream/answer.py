"""One reply that has begun, and how it is read: up to the first words, then in batches."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import NamedTuple, Protocol

from cfchat.conversation.model import Delta
from cfchat.errors import EventTooLarge, UpstreamError, UpstreamProtocolError, UpstreamTimeout
from cfchat.upstream.cloudflare import faults
from cfchat.upstream.cloudflare.models import thinks_first
from cfchat.upstream.cloudflare.reply import ReplyReader, read_json_reply
from cfchat.upstream.cloudflare.skim import EventReader
from cfchat.upstream.connection import AFTER_DONE, FIRST_TOKEN, NEXT_TOKEN, WHOLE_REPLY, Connection
from cfchat.wire.messages import Data

log = logging.getLogger("cfchat.upstream")

# How long the end of the message may take after [DONE]; behind it the connection is not worth keeping.
DRAIN_AFTER_DONE = 1.0
# An error reply or a reply that is plain JSON is read whole, up to this many bytes.
WHOLE_BODY = 1 << 20


class Deadlines(NamedTuple):
    """In seconds: until connected, until the first delta, from one delta to the next, the whole reply (0: none)."""

    connect: float = 5.0
    first_delta: float = 60.0
    between_deltas: float = 30.0
    whole_reply: float = 0.0


Lost = tuple[Mapping[str, object], int]


class Relay(Protocol):
    """Who takes batches the moment they come, without a task being woken for each."""

    def ready(self) -> bool:
        """Whether the next batch may be taken now."""

    def take(self, batch: list[Delta]) -> None:
        """A batch, when ready."""


class Answer:
    """One reply, by a connection of its own for as long.

    `model` said it, after `tries` requests, without `left_out` messages that did not fit.
    """

    def __init__(
        self, lent: Connection, model: str, max_tokens: int, deadlines: Deadlines, tag: str, tools: bool = False
    ) -> None:
        self.model = model
        self.tries = 1
        self.left_out = 0
        self.connection = lent
        self._deadlines = deadlines
        self._tag = tag
        self._shape = (max_tokens, thinks_first(model), tools)
        self._reply = ReplyReader(*self._shape)
        self._events = EventReader(self._reply)
        self._first: list[Delta] = []
        self._over = False

    async def begin(self, request: bytes) -> None:
        """Send the request and read up to the first text or call: what fails here can be tried again."""
        deadline = self.connection.deadline
        deadline.bound(self._deadlines.whole_reply, WHOLE_REPLY)
        deadline.move(self._deadlines.first_delta, FIRST_TOKEN)
        self.connection.send(request)
        try:
            await self._read_head()
            if self._over:
                return
            while batch := await self._read():
                self._first += batch
                if self._reply.answered:
                    return
                # It thinks, and asking again would only make it think anew.
                deadline.move(self._deadlines.between_deltas, NEXT_TOKEN)
        except UpstreamTimeout as error:
            if error.origin_status is None:
                # It took the request and kept silent: that is the model's own slowness.
                error.elsewhere = True
            raise
        raise self._reply.empty_error()

    async def batches(self) -> AsyncGenerator[list[Delta], None]:
        """The reply, once: lists of Delta, none empty. Raises an UpstreamError where it breaks off."""
        while batch := await self.next_batch():
            yield batch

    async def next_batch(self) -> list[Delta]:
        """The next deltas of the reply; empty at its end. Raises an UpstreamError where it breaks off."""
        if self._first:
            batch, self._first = self._first, []
        else:
            self.connection.deadline.move(self._deadlines.between_deltas, NEXT_TOKEN)
            batch = await self._read()
        # While the client takes its time the upstream is not late.
        self.connection.deadline.pause()
        return batch

    @property
    def lost(self) -> Lost | None:
        """Where it came to nothing, what was paid for: the usage, as far as it was told, and characters of thought."""
        usage, thought = self._reply.usage or {}, sum(len(delta.reasoning) for delta in self._first)
        return (usage, thought) if usage or thought else None

    def relay_to(self, relay: Relay) -> None:
        """Give `relay` what comes while the next batch is awaited, if it is ready and words are all that comes."""
        self.connection.offer(relay.ready, partial(self._relay, relay))

    def close(self) -> None:
        """Log what was left out of it."""
        if self._reply.passed_over:
            log.info("%s passed over %d events without text", self._tag, self._reply.passed_over)

    def _relay(self, relay: Relay, data: bytes) -> bool:
        """Whether the relay has taken what the bytes say. They are not looked at again then."""
        words = self._events.words(data)
        if not words:
            return False
        self.connection.deadline.move(self._deadlines.between_deltas, NEXT_TOKEN)
        delta = self._reply.say(words)
        if delta is not None:
            relay.take([delta])
        return True

    async def _read_head(self) -> None:
        """Read the head; and all, where it is no stream."""
        head = await self.connection.head()
        if head.status != 200:
            body = await whole_body(self.connection)
            raise faults.read_error(head.status, head.fields, body, now=time.time())
        if head.fields.get("content-type", "").lower().startswith("application/json"):
            body = await whole_body(self.connection)
            self._over = True
            self._first = read_json_reply(body, *self._shape)

    async def _read(self) -> list[Delta]:
        """The next batch; empty at the end."""
        if self._over:
            return []
        try:
            while not self._reply.done:
                event = await self.connection.next_event()
                if type(event) is not Data:
                    break
                batch = self._events.feed(event.data)
                if batch:
                    return batch
            else:
                await self._read_to_end()
            self._over = True
            return self._events.close()
        except EventTooLarge as error:
            raise UpstreamProtocolError("The model's server sent nonsense.", detail=error.message) from error

    async def _read_to_end(self) -> None:
        """[DONE] makes the reply whole; only the connection's next life depends on what follows."""
        self.connection.deadline.move(DRAIN_AFTER_DONE, AFTER_DONE)
        try:
            while type(await self.connection.next_event()) is Data:
                pass
        except UpstreamError as error:
            log.debug("%s connection not kept: %s", self._tag, error)


async def whole_body(lent: Connection) -> bytes:
    """The rest of the message. Raises UpstreamProtocolError over 1 MiB, and what `next_event` raises."""
    pieces, size = [], 0
    while type(event := await lent.next_event()) is Data:
        size += len(event.data)
        if size > WHOLE_BODY:
            raise UpstreamProtocolError("The model's server sent nonsense.", detail="reply over 1 MiB")
        pieces.append(event.data)
    return b"".join(pieces)
