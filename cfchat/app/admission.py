"""How many replies run at once, and how many more conversations may wait for their turn."""

from __future__ import annotations

import asyncio

from cfchat.errors import Overloaded


class Admission:
    """`async with admission:` is one reply. `running` and `waiting` say how many there are."""

    def __init__(self, streams: int, queue: int, timeout: float) -> None:
        self.running = 0
        self.waiting = 0
        self._free = asyncio.Semaphore(streams)
        self._queue = queue
        self._timeout = timeout

    async def __aenter__(self) -> None:
        """Wait for a turn, `timeout` seconds at most.

        Raises:
            Overloaded: `queue` conversations wait already, or the turn did not come in time.
        """
        # Fast case: a turn is free, and nobody waits. Falls through to the queue; equal by tests/app/test_admission.py.
        if self._free.locked():
            await self._wait()
        else:
            await self._free.acquire()  # without a wait
        self.running += 1

    async def __aexit__(self, *_: object) -> None:
        self.running -= 1
        self._free.release()

    async def _wait(self) -> None:
        if self.waiting >= self._queue:
            raise _too_many()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._timeout):
                await self._free.acquire()
        except TimeoutError:
            raise _too_many() from None
        finally:
            self.waiting -= 1


def _too_many() -> Overloaded:
    return Overloaded("Too many conversations at once. Please try again in a moment.", retry_after=1)
