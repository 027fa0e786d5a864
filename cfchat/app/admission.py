"""How many replies run at once, how many more conversations may wait for their turn, and whose turn is next.

Each client has a share of the replies and of the places in the queue, so none of them can take all. Clients that wait
get their turns one after the other, however many conversations each of them has waiting.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator

from cfchat.errors import Overloaded


class Admission:
    """A turn is the time from `enter` to `leave`. `running` and `waiting` say how many conversations do so.

    At most `streams` run and `queue` wait, `each` of a client's run, and as large a part of the queue is its share.
    `what` a refusal calls them.
    """

    def __init__(self, streams: int, queue: int, timeout: float, each: int, what: str = "conversations") -> None:
        self.running = 0
        self.waiting = 0
        self._streams = streams
        self._queue = queue
        self._timeout = timeout
        self._each = each
        self._what = what
        self._queue_each = -(-queue * min(each, streams) // streams)  # rounded up
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the client whose turn is next comes first

    async def enter(self, name: str) -> None:
        """Wait for a turn of a client, `timeout` seconds at most. The caller must `leave` after it.

        Raises:
            Overloaded: the client's share of the queue is full, or all of it, or the turn did not come in time.
        """
        # Fast case: a turn is free. Nobody waits for it: those who wait have their shares running. Falls through to
        # the queue; equal by tests/app/test_admission.py.
        if self.running < self._streams and self._running[name] < self._each:
            self._begin(name)
        else:
            await self._wait(name)

    def leave(self, name: str) -> None:
        """End a turn. If others wait, the next client that has less than its share gets it."""
        self.running -= 1
        self._running[name] -= 1
        if not self._running[name]:
            del self._running[name]
        if self._waiting:
            self._give_turn()

    def _give_turn(self) -> None:
        entitled = next(self._entitled(), None)
        if entitled is None:
            return
        name, turn = entitled
        self._begin(name)
        self._take_out(name, turn)
        turn.set_result(None)
        if name in self._waiting:
            self._waiting[name] = self._waiting.pop(name)  # behind all others

    def _entitled(self) -> Iterator[tuple[str, asyncio.Future[None]]]:
        """Give those who may have a turn that is free, the next one first."""
        for name, turns in self._waiting.items():
            if self._running[name] < self._each:
                yield from ((name, turn) for turn in turns if not turn.cancelled())

    def _begin(self, name: str) -> None:
        self.running += 1
        self._running[name] += 1

    async def _wait(self, name: str) -> None:
        turns = self._waiting.get(name, deque())
        if self.waiting >= self._queue:
            raise self._too_many()
        if len(turns) >= self._queue_each:
            raise self._too_many(" of yours")
        turn = asyncio.get_running_loop().create_future()
        turns.append(turn)
        self._waiting[name] = turns
        self.waiting += 1
        try:
            async with asyncio.timeout(self._timeout):
                await turn
        except BaseException as error:
            if turn.cancelled():
                self._take_out(name, turn)
            else:  # the turn came in the same moment
                self.leave(name)
            if isinstance(error, TimeoutError):
                raise self._too_many() from None
            raise

    def _take_out(self, name: str, turn: asyncio.Future[None]) -> None:
        """Take a turn out of the queue, whether it has come or is given up."""
        self.waiting -= 1
        self._waiting[name].remove(turn)
        if not self._waiting[name]:
            del self._waiting[name]

    def _too_many(self, whose: str = "") -> Overloaded:
        return Overloaded(f"Too many {self._what}{whose} at once. Please try again in a moment.", retry_after=1)
