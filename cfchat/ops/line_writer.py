"""Write lines to a file from a thread, so that a reader who stops reading makes nobody wait but that thread.

Lines wait in a queue that is bounded in bytes. A line that does not fit, or that the system refuses, is dropped and
counted. As soon as writing goes on, a line says how many are missing, at the place where they are missing. Each
counter is written from one side alone, by callers or by the thread, so no lock makes a caller wait either.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from cfchat.net.threads import start_daemon

LIMIT = 256 * 1024  # bytes that may wait


class LineWriter:
    """Writes to a file number, each line with one call if the system takes it whole.

    `tell` gets the number of lines that are missing, and returns a line that says so.
    """

    def __init__(self, file: int, tell: Callable[[int], bytes] = lambda missing: b"", limit: int = LIMIT) -> None:
        self._file = file
        self._tell = tell
        self._limit = limit
        self._queue: SimpleQueue[tuple[bytes, int] | threading.Event | None] = SimpleQueue()
        self._taken = self._refused = 0  # bytes, and lines that did not fit; callers count them
        self._gone = self._failed = self._told = 0  # bytes, and lines; the thread counts them
        start_daemon(self._run, "cfchat-lines")  # a write that is stuck must not keep the process from its end

    @property
    def dropped(self) -> int:
        """How many lines were dropped."""
        return self._refused + self._failed

    def put(self, line: bytes) -> None:
        """Write a line soon, or drop it. Never waits. Calls must come one at a time, as a logging handler's do."""
        if self._taken - self._gone + len(line) > self._limit:
            self._refused += 1
        else:
            self._taken += len(line)
            self._queue.put((line, self._refused))

    def flush(self, seconds: float) -> None:
        """Wait until all lines so far are written, at most `seconds`."""
        written = threading.Event()
        self._queue.put(written)
        written.wait(seconds)

    def close(self) -> None:
        """End the thread when all lines so far are written. Does not wait for that."""
        self._queue.put(None)

    def _run(self) -> None:
        works = True
        while True:
            try:
                item = self._queue.get(block=not (works and self.dropped > self._told))
            except Empty:
                works = self._write_told(self.dropped)
                continue
            if item is None:
                return
            if isinstance(item, threading.Event):
                item.set()
                continue
            line, refused = item
            works = self._write_told(refused + self._failed) and self._write(line)
            self._failed += not works
            self._gone += len(line)

    def _write_told(self, dropped: int) -> bool:
        """Say how many lines are missing here, if any are. Return whether the file takes lines."""
        if dropped <= self._told:
            return True
        works = self._write(self._tell(dropped - self._told))
        if works:
            self._told = dropped
        return works

    def _write(self, line: bytes) -> bool:
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self._file, rest) :]
            except BlockingIOError:  # another process has made the file that it shares with us non-blocking
                select.select([], [self._file], [])
            except OSError:
                return False
        return True
