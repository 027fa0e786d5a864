"""Keep replies for clients that come back: after a lost connection, a reload, or a second try of a question.

The model is asked in a task of its own, which writes the answer into a journal. Each client, also the one that has
asked, follows the journal at its own pace and in its own form. The model's server is not slowed down by clients, so a
journal has bounds. Beyond them nobody can join any more: what all its readers have taken is let go, and the slowest of
them sets the pace. While nobody reads, the answer goes on for a while, and then it is ended. All is in memory, and of
one process.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import NamedTuple

from cfchat.app.kept.journal import BASE, Journal
from cfchat.app.writer import Writer
from cfchat.conversation.model import Delta
from cfchat.errors import CfchatError, Overloaded, Stopped, UpstreamEndless
from cfchat.replies.form import Form, Meta
from cfchat.server.reply import Pausable
from cfchat.server.request import Request

log = logging.getLogger("cfchat.app")

WINDOW = 64 * 1024  # bytes that wait for the slowest reader of a reply that nobody can join any more


class Keeping(NamedTuple):
    """Whether and how long replies are kept: `seconds` without a reader, and as many behind their end; 0 keeps none.

    A journal has at most `each` bytes of UTF-8, all together have `most` bytes, and a reply has at most `readers`.
    """

    seconds: float = 0.0
    each: int = 256 << 10
    most: int = 64 << 20
    readers: int = 8


class Name(NamedTuple):
    """What a reply is found by: the label of its asker's key, the kind of the id, and the id."""

    label: str
    kind: str
    id: str


class KeptReply:
    """One reply and the clients that read it; it is what an answer goes into (`writer.Into`).

    `owner` is the name that its asker is counted by, and `question` tells one question from another. `id` is a name
    that nobody can guess. `meta` is known when the first words have come. `error` says why a reply that is `over` is
    not whole. Nobody can join one that is not `open`. `joins` counts the clients that have come back. `again` makes
    the form of one that goes on behind an event, if events are numbered by the form.
    """

    def __init__(self, replies: KeptReplies, owner: str, form: Form, question: bytes) -> None:
        self.owner = owner
        self.question = question
        self.collects = form.collects
        self.thoughts = form.thoughts and not form.whole
        self.id = os.urandom(16).hex()
        self.request_id = ""  # of the question
        self.names: list[Name] = []
        self.journal = Journal()
        self.meta: Meta | None = None
        self.open = True
        self.over = False
        self.error: CfchatError | None = None
        self.joins = 0
        self.again: Callable[[int], Form] | None = None
        self.task: asyncio.Task[None] | None = None  # while it runs
        self._replies = replies
        self._left_out = 0
        self._readers: set[_Reader] = set()
        self._source: Pausable | None = None
        self._paused = False  # the source is
        self._stopped = False
        self._untold: list[Name] = []  # names that nobody knows before the first words
        self._request: Request | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._weight = 0  # as it is counted in the sum of all

    def weigh(self) -> None:
        """Count the memory that it takes now: none once nobody can read it any more."""
        weight = self.journal.weight if self.open or self._readers or not self.over else 0
        self._replies.weigh(self.owner, weight - self._weight)
        self._weight = weight

    @property
    def crowded(self) -> bool:
        """Return whether as many clients read it as may."""
        return len(self._readers) >= self._replies.keeping.readers

    def start(self, request: Request, asking: Coroutine[None, None, None]) -> None:
        """Ask. What waits of the request belongs to this reply from now on."""
        request.goes_on = True
        self._request, self.request_id = request, request.id
        self.task = asyncio.get_running_loop().create_task(asking)
        self.task.add_done_callback(self._end)

    def tell(self, name: Name) -> None:
        """Take a name that clients learn from the reply. Before its first words nobody can know it."""
        if self.meta is None:
            self._untold.append(name)
        elif self.open:
            self._replies.name(self, name)

    async def follow(self, writer: Writer, number: int = 0) -> None:
        """Write the reply to one client, from an entry on, until it is over.

        Raises:
            CfchatError: why the reply is not whole.
        """
        reader = _Reader(number)
        self._readers.add(reader)
        if self._timer is not None and not self.over:
            self._timer.cancel()
        try:
            await self._follow(reader, writer)
        finally:
            self._readers.discard(reader)
            self._left()

    async def _follow(self, reader: _Reader, writer: Writer) -> None:
        while self.meta is None and not self.over:
            await reader.wait()
        if self.meta is not None:
            writer.begin(self.meta, self._left_out, reader)
        while True:
            entries = [] if reader.full else self.journal.read(reader.number)
            reader.number += len(entries)
            if entries:
                if writer.collects and not self.collects and self.journal.written > self._replies.keeping.each:
                    raise UpstreamEndless(detail="too long a reply to be collected")
                writer.take_each(entries)
                self._let_go()
            if self.over and reader.number == len(self.journal):
                break
            if entries:
                await asyncio.sleep(0)  # a long journal is read in turns with all else
            else:
                await reader.wait()
        if self.error is None:
            writer.end()
        elif isinstance(self.error, Stopped):
            writer.stop(self.error)
        else:
            raise _copy(self.error)

    async def stop(self) -> None:
        """End the answer, because its user wants no more. Return when the call to the model is closed."""
        if self.task is not None:
            self._stopped = True
            self.cancel()
            await asyncio.wait([self.task])

    def cancel(self) -> None:
        """End the answer soon."""
        self._source = None
        if self.task is not None:
            self.task.cancel()

    def close(self) -> None:
        """Be forgotten: from now on nobody can join."""
        self.open = False
        self.names.clear()
        if self._timer is not None:
            self._timer.cancel()
        self.weigh()

    # --- what the answer goes into ------------------------------------------------------------

    def begin(self, meta: Meta, left_out: int, source: Pausable) -> None:
        """See Into."""
        # Who knows the id of a response can read it, and the request's own id stands in logs.
        self.meta, self._left_out, self._source = meta._replace(id=self.id), left_out, source
        for name in self._untold:
            self._replies.name(self, name)

    def take(self, batch: Sequence[Delta]) -> None:
        """See Into."""
        self.journal.add(batch)
        self.weigh()
        if self.open and (self.journal.written > self._replies.keeping.each or not self._replies.make_room()):
            self.open = False
            if not self._readers:
                self.cancel()
        self._let_go()
        self._wake()

    def end(self, last: Sequence[Delta] = ()) -> None:
        """See Into."""
        self._source = None  # it may serve another reply by now
        self.take(last)

    # --- within -------------------------------------------------------------------------------

    def _let_go(self) -> None:
        """If nobody else can come, forget what all readers have, and let the slowest of them set the pace."""
        if self.open:
            return
        self.journal.let_go(min([reader.number for reader in self._readers], default=0))
        self.weigh()
        full = self.journal.weight - BASE > WINDOW
        if self._source is not None and full != self._paused:
            self._paused = full
            if full:
                self._source.pause()
            else:
                self._source.resume()

    def _left(self) -> None:
        """See what becomes of the reply, because a reader has left."""
        if self._readers or self.over:
            self._let_go()
        elif not self.open or not self.names:
            self.cancel()
        else:
            seconds = self._replies.keeping.seconds
            self._timer = asyncio.get_running_loop().call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        self._replies.forget(self)
        self.cancel()

    def _end(self, task: asyncio.Task[None]) -> None:
        """Note how the answer has ended, and let go of all that it needed."""
        assert self._request is not None
        if task.cancelled():
            self.error = Stopped() if self._stopped else Overloaded("This server is stopping.")
        elif (fault := task.exception()) is not None:
            if not isinstance(fault, CfchatError):
                log.error("%s reply failed", self._request.id, exc_info=fault)
            self.error = _copy(fault) if isinstance(fault, CfchatError) else CfchatError()
        if not self._readers:
            how = "whole" if self.error is None else "cut short" if task.cancelled() else self.error.code
            log.info("%s ended after its client had left: %s", self._request.id, how)
        self._request.keep(0)
        self.over = True
        self.task = self._request = self._source = None
        if self._timer is not None:
            self._timer.cancel()
        self._replies.finish(self)
        if self.open:
            seconds = self._replies.keeping.seconds
            self._timer = asyncio.get_running_loop().call_later(seconds, self._replies.forget, self)
        self._wake()

    def _wake(self) -> None:
        for reader in self._readers:
            reader.wake()


class _Reader:
    """One client that follows a journal: the source of its Reply. `number` is that of the entry it gets next."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.full = False  # the client takes less than is written
        self._more = asyncio.Event()

    def pause(self) -> None:
        self.full = True

    def resume(self) -> None:
        self.full = False
        self.wake()

    def wake(self) -> None:
        self._more.set()

    async def wait(self) -> None:
        """Wait until there is more, or the client takes more."""
        await self._more.wait()
        self._more.clear()


class KeptReplies:
    """All replies that are kept. `size` is the memory that they take, in bytes.

    If there is too much of them, that client loses a reply whose replies take the most.
    """

    def __init__(self, keeping: Keeping) -> None:
        self.keeping = keeping
        self.size = 0
        self._named: dict[Name, KeptReply] = {}
        self._running: set[KeptReply] = set()
        self._finished: dict[KeptReply, None] = {}  # the oldest first
        self._sizes: Counter[str] = Counter()  # by owner

    @property
    def counts(self) -> tuple[int, int, int]:
        """Return how many replies run, how many are kept after their end, and `size`."""
        return len(self._running), len(self._finished), self.size

    def find(self, name: Name) -> KeptReply | None:
        """Return the reply of this name that can be joined."""
        kept = self._named.get(name)
        return kept if kept is not None and kept.open else None

    async def stop(self, name: Name) -> bool:
        """Stop the reply of this name, also one that cannot be joined; return whether there is one that ran."""
        kept = self._named.get(name)
        if kept is None or kept.over:
            return False
        await kept.stop()
        return True

    def add(self, owner: str, form: Form, names: Sequence[Name], question: bytes = b"") -> KeptReply | None:
        """Return a new reply, to be started; None if there is no room for it."""
        if not self.make_room(BASE):
            return None
        kept = KeptReply(self, owner, form, question)
        self._running.add(kept)
        kept.weigh()
        for name in names:
            self.name(kept, name)
        return kept

    def name(self, kept: KeptReply, name: Name) -> None:
        """Give a reply a name, which an older one may lose by it. One that is over is kept for its names alone."""
        older = self._named.get(name)
        if older is not kept:
            self._named[name] = kept
            kept.names.append(name)
        if older is not None and older is not kept:
            older.names.remove(name)
            if older.over and not older.names:
                self.forget(older)

    def weigh(self, owner: str, more: int) -> None:
        """Count so many bytes more for a client and for all."""
        self.size += more
        self._sizes[owner] += more
        if not self._sizes[owner]:
            del self._sizes[owner]

    def make_room(self, size: int = 0) -> bool:
        """Forget replies that are over, the oldest first, while there is no room; return whether there is room then."""
        while self.size + size > self.keeping.most and self._finished:
            most = max(self._sizes[kept.owner] for kept in self._finished)
            self.forget(next(kept for kept in self._finished if self._sizes[kept.owner] == most))
        return self.size + size <= self.keeping.most

    def finish(self, kept: KeptReply) -> None:
        """Note that a reply is over. One without a word is forgotten, so that its question can be asked again."""
        self._running.discard(kept)
        if kept.open and kept.meta is not None:
            self._finished[kept] = None
        else:
            self.forget(kept)

    def forget(self, kept: KeptReply) -> None:
        """Let nobody join a reply any more."""
        self._finished.pop(kept, None)
        for name in kept.names:
            del self._named[name]
        kept.close()

    async def drain(self, seconds: float) -> None:
        """Let the replies that run come to their end, but for so many seconds at most."""
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=seconds)

    async def aclose(self) -> None:
        """End the replies that run, and forget all."""
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for kept in [*self._running, *self._finished]:
            self.forget(kept)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [kept.task for kept in self._running if kept.task is not None]


def _copy(error: CfchatError) -> CfchatError:
    """Return the same error without its traceback, which would keep all that the answer needed in memory."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy
