"""What the workers of one parent have counted, added up.

Between each worker and the parent there is a line, a pair of sockets: JSON tells the samples of who writes it, a
worker its own, the parent those of all; an empty line asks the other for them. A worker tells them unasked, too, so
that one that is killed has told all but its last second.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from cfchat.ops.metrics import READY, Samples, lasting, total

EVERY = 1.0  # seconds from one telling to the next
PATIENCE = 0.5  # seconds for an answer; who has none in time counts as it last told
LONGEST = 1 << 22  # bytes of a line

Counted = Callable[[], Awaitable[Samples]]


class Line:
    """One end. `last` is what the other told last, as it came: most of it is never read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: Counted) -> None:
        self._reader, self._writer, self._counted = reader, writer, counted
        self._heard = asyncio.Event()
        self._gone = False
        self.last = b"{}"

    async def listen(self) -> None:
        """Hear and answer, until the other end is closed."""
        async with asyncio.TaskGroup() as answers:
            # Who is killed leaves half a line, or an error where it had not read all.
            with suppress(ConnectionError):
                while (line := await self._reader.readline()).endswith(b"\n"):
                    if line == b"\n":
                        # Not here: an answer may need what is yet to come by this line.
                        answers.create_task(self.tell())
                    else:
                        self.last = line
                        self._heard.set()
            self._gone = True
            self._heard.set()

    async def tell(self) -> None:
        samples = await self._counted()
        with suppress(ConnectionError):
            self._writer.write(json.dumps(samples).encode() + b"\n")
            await self._writer.drain()

    async def ask(self, patience: float) -> bool:
        """Whether it has told anew, within so many seconds."""
        if self._gone:
            return False
        self._heard.clear()
        self._writer.write(b"\n")
        try:
            async with asyncio.timeout(patience):
                await self._heard.wait()
        except TimeoutError:
            return False
        return not self._gone

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


class Tally:
    """The parent's: what all have counted who live, and who have lived."""

    def __init__(self) -> None:
        self._lines: set[Line] = set()
        self._gone: Samples = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, plug: socket.socket) -> None:
        """One worker more, at the other end of this socket, until it closes that."""
        task = asyncio.get_running_loop().create_task(self._follow(plug))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def total(self) -> Samples:
        """By now. Who does not answer in time counts as it told last."""
        await asyncio.gather(*(line.ask(PATIENCE) for line in self._lines))
        return self.known()

    def known(self) -> Samples:
        """As they told last."""
        return total([self._gone, *(json.loads(line.last) for line in self._lines)])

    def ready(self) -> bool:
        """Whether any one says yes to /readyz."""
        return any(numbers.get(READY) for numbers in self.known().values())

    async def _follow(self, plug: socket.socket) -> None:
        line = Line(*await asyncio.open_connection(sock=plug, limit=LONGEST), self.total)
        self._lines.add(line)
        await line.listen()
        self._lines.remove(line)
        self._gone = total([self._gone, lasting(json.loads(line.last))])
        await line.close()


@asynccontextmanager
async def member(plug: socket.socket, counted: Callable[[], Samples]) -> AsyncIterator[Counted]:
    """A worker's end, for as long as the block: tells what it has `counted`, and gives what all have, when called."""

    async def own() -> Samples:
        return counted()

    async def of_all() -> Samples:
        return json.loads(line.last) if await line.ask(2 * PATIENCE) else counted()

    async def keep_telling() -> None:
        while True:
            await line.tell()
            await asyncio.sleep(EVERY)

    line = Line(*await asyncio.open_connection(sock=plug, limit=LONGEST), own)
    tasks = [asyncio.create_task(line.listen()), asyncio.create_task(keep_telling())]
    try:
        yield of_all
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await line.tell()
        await line.close()
