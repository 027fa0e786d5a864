"""One reply that has begun, and how it is read.

Up to the first words it is pulled (`begin`): what fails there can be tried again. From there on it is pushed (`pour`):
each read of the socket goes down the whole way in one call, from the decoder to the code that takes the deltas.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple

from cfchat.conversation.model import Delta, Source
from cfchat.errors import EventTooLarge, UpstreamError, UpstreamProtocolError, UpstreamTimeout
from cfchat.net.mailbox import Mailbox
from cfchat.upstream.cloudflare.faults import read_error
from cfchat.upstream.cloudflare.models import thinks_first
from cfchat.upstream.cloudflare.reply import ReplyReader
from cfchat.upstream.cloudflare.skim import EventReader, Learned
from cfchat.upstream.cloudflare.sources import Sources
from cfchat.upstream.cloudflare.usage import Cost, read_neurons
from cfchat.upstream.connection import AFTER_DONE, FIRST_TOKEN, NEXT_TOKEN, WHOLE_REPLY, Connection
from cfchat.wire.fields import Fields
from cfchat.wire.messages import Data

log = logging.getLogger("cfchat.upstream")

# What the end of the message may take after [DONE], in seconds and bytes; then the connection is not worth keeping.
END_AFTER_DONE = 1.0
BYTES_AFTER_DONE = 64 * 1024
# An error reply or a reply that is plain JSON is read whole, up to this many bytes.
WHOLE_BODY = 1 << 20
_CHOSEN = re.compile(r"[A-Za-z0-9@._:/-]{1,200}")  # the name of any provider's model

Take = Callable[[list[Delta]], None]


class Deadlines(NamedTuple):
    """In seconds: until connected, until the first delta, from one delta to the next, the whole reply (0: none)."""

    connect: float = 5.0
    first_delta: float = 60.0
    between_deltas: float = 30.0
    whole_reply: float = 0.0


class Answer:
    """One reply, on a connection of its own until it is over.

    `model` answers, and `tries` requests were sent until it did. `left_out` messages were left out of them, because
    they did not fit the model's window. With `thoughts` the first words may be reasoning. `sources` reads what AI
    Search has found.
    """

    def __init__(
        self, lent: Connection, model: str, max_tokens: int, deadlines: Deadlines, tag: str,
        tools: bool = False, json_mode: bool = False, learned: Learned | None = None, thoughts: bool = False,
        sources: Sources | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.tries = 1
        self.left_out = 0
        self.connection = lent
        self._deadlines = deadlines
        self._tag = tag
        self._thoughts = thoughts
        self._reply = ReplyReader(max_tokens, thinks_first(model), tools, json_mode, sources=sources)
        self._events = EventReader(self._reply, learned)
        self._first: list[Delta] = []
        # A reply goes through these states:
        #            _whole  _over
        #   words    False   False   what comes goes to `_first` until `pour` has handed that on, then to `_take`
        #   whole    True    False   [DONE] was read: `_tail` has the last deltas; only the message's end is awaited
        #   over     any     True    nothing more is read; `_error` says why if the reply was not read to its end
        self._whole = False
        self._over = False
        self._fields: Fields | None = None  # of a head that accepts the request
        self._refused = False
        self._take: Take | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._tail: list[Delta] = []

    # --- pull: up to the first words ----------------------------------------------------------

    def send(self, request: bytes) -> None:
        """Send the request. Its deadlines begin now."""
        deadline = self.connection.deadline
        if self._deadlines.whole_reply:
            deadline.bound(self._deadlines.whole_reply, WHOLE_REPLY)
        deadline.move(self._deadlines.first_delta, FIRST_TOKEN)
        self.connection.send(request)

    async def begin(self) -> None:
        """Read up to the first text or call, or the first reasoning if it is asked for.

        Raises:
            UpstreamError: what fails here can be tried again.
        """
        deadline = self.connection.deadline
        try:
            if not await self._read_head():
                while not (self._reply.answered or self._over or (self._thoughts and self._first)):
                    unsure = self._reply.unsure
                    deltas = await self._read()
                    self._first += deltas
                    if deltas or self._reply.unsure > unsure:
                        # The model thinks. Asking again would only make it think again.
                        deadline.move(self._deadlines.between_deltas, NEXT_TOKEN)
                if self._over and not self._reply.answered:
                    raise self._reply.empty_error()
        except UpstreamError as error:
            if isinstance(error, UpstreamTimeout) and error.origin_status is None:
                # The model took the request and kept silent: another model may be quicker.
                error.elsewhere = True
            else:
                self._refused = self._fields is None
            raise
        deadline.pause()

    def collect(self) -> None:
        """Bound what is still to come by what was asked for, because the caller keeps all of it."""
        self._reply.collected = True

    @property
    def sources(self) -> Sequence[Source]:
        """The pages that AI Search has found so far. They usually come before the first words."""
        return self._reply.sources

    @property
    def cost(self) -> Cost | None:
        """What this try has cost so far; None if Cloudflare refused it or closed the connection without a head."""
        cost = None if self._refused else self._reply.cost
        if cost is not None and cost.neurons is None and self._fields is not None:
            neurons = self._fields.get("cf-ai-neurons")
            return cost if neurons is None else cost._replace(neurons=read_neurons(neurons))
        return cost

    def note_route(self) -> None:
        """Take the name of the model that AI Gateway chose for `model`, if it tells one."""
        for name in ("cf-aig-routed-model", "cf-aig-model"):  # of the Auto Router; of a dynamic route
            chosen = "" if self._fields is None else self._fields.get(name, "")
            if _CHOSEN.fullmatch(chosen):
                self.model = chosen
                return

    async def _read_head(self) -> bool:
        """Read the head, and all of a reply that is not streamed; return whether that was all."""
        head = await self.connection.head()
        if head.status != 200:
            body = await whole_body(self.connection)
            raise read_error(head.status, head.fields, body, now=time.time())
        self._fields = head.fields
        if head.fields.get("content-type", "")[:16].lower() == "application/json":
            body = await whole_body(self.connection)
            self._first = self._reply.read_json(body)
            self._over = True
        return self._over

    async def _read(self) -> list[Delta]:
        """Return the deltas of one more read, perhaps none."""
        event = await self.connection.next_event()
        try:
            deltas = self._events.feed(event.data) if type(event) is Data else []
            if self._reply.answered or not (self._reply.done or type(event) is not Data):
                return deltas
            if type(event) is Data:
                await self._read_to_end()
            self._over = True
            return deltas + self._events.close()
        except EventTooLarge as error:
            raise UpstreamProtocolError(detail=error.message) from error

    async def _read_to_end(self) -> None:
        """Read what follows [DONE]: only the connection's next use depends on it."""
        self.connection.deadline.move(END_AFTER_DONE, AFTER_DONE)
        left = BYTES_AFTER_DONE
        try:
            while left > 0 and type(event := await self.connection.next_event()) is Data:
                left -= len(event.data)
        except UpstreamError as error:
            log.debug("%s connection not kept: %s", self._tag, str(error))

    # --- push: from the first words on --------------------------------------------------------

    async def pour(self, take: Take) -> list[Delta]:
        """Hand each batch of deltas to `take` as it comes, the first words at once; return the last batch.

        The last batch came with the end of the reply, and can go out together with the end of ours. While the client is
        slow, `pause` keeps Cloudflare from sending: nothing is queued here.

        Raises:
            UpstreamError: the reply breaks off; `take` has had all that came before.
        """
        if not self._over:
            self._take = take
            self.connection.push(self._receive, self._break)  # what has come already is received in this call
        first, self._first = self._first, []
        if not self._over:
            if not self._whole:
                self.connection.deadline.move(self._deadlines.between_deltas, NEXT_TOKEN)
            try:
                take(first)  # after the deadline is moved, because a slow client pauses it in this call
                first = []
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            finally:
                self.connection.pull()
                self.connection.deadline.pause()
        self._take = None  # it holds the reply, which holds this answer
        if self._error is not None:
            if first:
                take(first)
            raise self._error
        return first + self._tail

    def pause(self) -> None:
        """Stop reading, because the client is slow. Meanwhile Cloudflare is not late."""
        self.connection.pause()
        self.connection.deadline.pause()

    def resume(self) -> None:
        """Go on reading."""
        self.connection.resume()
        if self._whole:
            self.connection.deadline.move(END_AFTER_DONE, AFTER_DONE)
        else:
            self.connection.deadline.move(self._deadlines.between_deltas, NEXT_TOKEN)

    async def batches(self) -> AsyncGenerator[list[Delta], None]:
        """Yield the reply, once, in batches of deltas, none empty: `pour` for a task that awaits each.

        Raises:
            UpstreamError: the reply breaks off.
        """
        mailbox: Mailbox[list[Delta]] = Mailbox(lambda full: self.pause() if full else self.resume())
        task = asyncio.get_running_loop().create_task(self._fill(mailbox))
        try:
            while batches := await mailbox.take():
                for batch in batches:
                    yield batch
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _fill(self, mailbox: Mailbox[list[Delta]]) -> None:
        def put(batch: list[Delta]) -> None:
            mailbox.put(batch, sum([len(delta.text) + len(delta.reasoning) for delta in batch]))

        try:
            put(await self.pour(put))
        except Exception as error:
            mailbox.close(error)
        else:
            mailbox.close()

    def _receive(self, body: bytes, ended: bool) -> None:
        """Take a piece of the body, and whether the message has ended with it."""
        if self._whole:
            if ended:
                self._finish(None)
            return
        deltas: list[Delta] = []
        if body:
            deltas = self._events.feed(body)
            if deltas:  # an origin that sends comments for ever gets no further time by them
                self.connection.deadline.move(self._deadlines.between_deltas, NEXT_TOKEN)
        if self._reply.done or ended:
            try:
                self._tail = self._events.close()
                if not self._reply.answered:  # it was all reasoning
                    raise self._reply.empty_error()
            except UpstreamError:
                self._hand(deltas)
                raise
            self._whole = True
            if ended:
                self._tail = deltas + self._tail
                self._finish(None)
                return
            self.connection.deadline.move(END_AFTER_DONE, AFTER_DONE)
        if deltas:  # the deadline is moved before, because a slow client pauses it in this call
            self._hand(deltas)

    def _hand(self, deltas: list[Delta]) -> None:
        if self._first:  # the first words have not gone out yet
            self._first += deltas
        elif deltas and self._take is not None:
            self._take(deltas)

    def _break(self, error: Exception) -> None:
        """End the answer, because the connection has failed or our own code has."""
        if self._whole and isinstance(error, UpstreamError):  # [DONE] made the reply whole: only the connection is lost
            log.debug("%s connection not kept: %s", self._tag, error)
            self._finish(None)
        else:
            self._finish(error)

    def _finish(self, error: Exception | None) -> None:
        if not self._over:
            self._over, self._error = True, error
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    # --- ends ---------------------------------------------------------------------------------

    def log_passed_over(self) -> None:
        """Log how many events were passed over, if there were any."""
        if self._reply.passed_over:
            log.info("%s passed over %d events without text", self._tag, self._reply.passed_over)


async def whole_body(lent: Connection) -> bytes:
    """Return the rest of the message.

    Raises:
        UpstreamProtocolError: it is over 1 MiB. And whatever `next_event` raises.
    """
    pieces, size = [], 0
    while type(event := await lent.next_event()) is Data:
        size += len(event.data)
        if size > WHOLE_BODY:
            raise UpstreamProtocolError(detail="reply over 1 MiB")
        pieces.append(event.data)
    return b"".join(pieces)
