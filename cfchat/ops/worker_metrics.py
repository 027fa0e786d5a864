"""Add up the metrics of all workers of one parent.

A socket pair links each worker with the parent. A line of JSON is a report: a worker reports its own samples, the
parent reports the sum over all workers. An empty line asks the other end for a report. A worker also reports once a
second without being asked, so that a worker that is killed loses at most its last second.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from cfchat.errors import DAY
from cfchat.ops.logs import count_dropped_lines
from cfchat.ops.metrics import READY, Metrics, Samples, lasting, lasting_today, total

INTERVAL = 1.0  # seconds between two reports of a worker
PATIENCE = 0.5  # seconds to wait for a report; without one the last report counts
LONGEST = 1 << 22  # bytes of a line

Collect = Callable[[], Awaitable[Samples]]


class Link:
    """One end of a socket pair. `last` is the last report as it came: most reports are never parsed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, collect: Collect) -> None:
        self._reader, self._writer, self._collect = reader, writer, collect
        self._reported = asyncio.Event()
        self._closed = False
        self.last = b"{}"

    async def listen(self) -> None:
        """Take reports and answer requests for one, until the other end is closed."""
        async with asyncio.TaskGroup() as answers:
            # A killed process leaves half a line, or a reset if it had not read everything.
            with suppress(ConnectionError):
                while (line := await self._reader.readline()).endswith(b"\n"):
                    if line == b"\n":
                        # As a task, because what is collected may have to come by this very link.
                        answers.create_task(self.report())
                    else:
                        self.last = line
                        self._reported.set()
            self._closed = True
            self._reported.set()

    async def report(self) -> None:
        """Send our samples."""
        samples = await self._collect()
        with suppress(ConnectionError):
            self._writer.write(json.dumps(samples).encode() + b"\n")
            await self._writer.drain()

    async def ask(self, patience: float) -> bool:
        """Ask the other end for a report. Return whether one came within `patience` seconds."""
        if self._closed:
            return False
        self._reported.clear()
        self._writer.write(b"\n")
        try:
            async with asyncio.timeout(patience):
                await self._reported.wait()
        except TimeoutError:
            return False
        return not self._closed

    async def close(self) -> None:
        """Close our end."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


def _count_own() -> Samples:
    """Return what a parent counts by itself: the log lines that it dropped.

    It answers no chat, so it adds 0 to `cfchat_ready`. So /metrics has that number even if no worker is left.
    """
    own = Metrics()
    own.dropped_lines.set(count_dropped_lines())
    return {family.head: family.samples() for family in (own.ready, own.dropped_lines)}


class WorkerMetrics:
    """The parent's side: the samples of all workers, what the ended ones have left, and the parent's `own`."""

    def __init__(self, own: Callable[[], Samples] = _count_own, clock: Callable[[], float] = time.time) -> None:
        self._links: set[Link] = set()
        self._ended: Samples = {}
        self._ended_today: tuple[float, Samples] = (0.0, {})  # on which day
        self._own = own
        self._clock = clock  # in seconds since the epoch
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, sock: socket.socket) -> None:
        """Count a further worker, which has the other end of this socket pair, until it closes it."""
        task = asyncio.get_running_loop().create_task(self._follow(sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def total(self) -> Samples:
        """Return the current sum. A worker that does not answer in time counts with its last report."""
        await asyncio.gather(*(link.ask(PATIENCE) for link in self._links))
        return self.known()

    def known(self) -> Samples:
        """Return the sum of the last reports."""
        return total([self._ended, self._used(), self._own(), *(json.loads(link.last) for link in self._links)])

    def ready(self) -> bool:
        """Return whether at least one worker answers yes to /readyz."""
        return any(numbers.get(READY) for numbers in self.known().values())

    async def _follow(self, sock: socket.socket) -> None:
        link = Link(*await asyncio.open_connection(sock=sock, limit=LONGEST), self.total)
        self._links.add(link)
        await link.listen()
        self._links.remove(link)
        last = json.loads(link.last)
        self._ended = total([self._ended, lasting(last)])
        self._ended_today = self._clock() // DAY, total([self._used(), lasting_today(last)])
        await link.close()

    def _used(self) -> Samples:
        """Return what workers that have ended have used today."""
        day, samples = self._ended_today
        return samples if day == self._clock() // DAY else {}


@asynccontextmanager
async def share_metrics(sock: socket.socket, collect: Callable[[], Samples]) -> AsyncIterator[Collect]:
    """Report a worker's samples to its parent within the block. Gives a function that returns the sum over all workers.

    That function falls back to the worker's own samples if the parent does not answer.
    """

    async def collect_own() -> Samples:
        return collect()

    async def collect_all() -> Samples:
        return json.loads(link.last) if await link.ask(2 * PATIENCE) else collect()

    async def keep_reporting() -> None:
        while True:
            await link.report()
            await asyncio.sleep(INTERVAL)

    link = Link(*await asyncio.open_connection(sock=sock, limit=LONGEST), collect_own)
    tasks = [asyncio.create_task(link.listen()), asyncio.create_task(keep_reporting())]
    try:
        yield collect_all
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await link.report()
        await link.close()
