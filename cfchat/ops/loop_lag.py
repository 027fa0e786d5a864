"""Measure how late the event loop is, and say which code holds it up.

A timer in the loop fires every 50 ms and reports how late it was. Nothing in a blocked loop can look at itself, so a
thread watches the timer from outside. When the timer is overdue the thread logs the stack of the loop's thread: files,
lines and functions, and no values, because a value may be what a user wrote.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger("cfchat.loop_lag")

INTERVAL = 0.05  # seconds between two ticks
STALL = 0.1  # seconds; a tick that is later than this is a stall
FRAMES = 6  # of the stack, from the innermost, that a log line names


class LoopLag:
    """A timer in the running loop. `report` gets the seconds by which each tick was late."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report
        self._timer: asyncio.TimerHandle | None = None
        self.due = 0.0  # of time.monotonic, which is the loop's own clock
        self.thread = 0  # the loop's, by its ident

    def start(self) -> None:
        """Start to measure the loop that runs in this thread."""
        self.thread = threading.get_ident()
        self._schedule()

    def stop(self) -> None:
        """Stop to measure; does nothing if it was never started."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self.due = time.monotonic() + INTERVAL
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._tick)

    def _tick(self) -> None:
        self._report(max(0.0, time.monotonic() - self.due))
        self._schedule()


@contextmanager
def log_stalls(lag: LoopLag) -> Iterator[None]:
    """Watch a started LoopLag from a thread, within the block, and log each stall with the code that causes it."""
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(lag, stop), name="cfchat-loop-lag", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(lag: LoopLag, stop: threading.Event) -> None:
    logged = 0.0
    while not stop.wait(INTERVAL):
        due = lag.due
        late = time.monotonic() - due
        if late < STALL or due == logged:
            continue
        logged = due  # one line for each stall
        if where := locate(lag.thread):
            log.warning("the event loop has been busy for %.0f ms at %s", (late + INTERVAL) * 1000, where)


def locate(thread: int) -> str:
    """Return where a thread is: file, line and function of each frame, the innermost first.

    Empty if the thread has ended or waits in a selector: then not its code is slow, but the machine.
    """
    frame = sys._current_frames().get(thread)
    if frame is None or frame.f_code.co_filename == selectors.__file__:
        return ""
    places: list[str] = []
    while frame is not None and len(places) < FRAMES:
        code = frame.f_code
        places.append(f"{'/'.join(code.co_filename.rsplit('/', 2)[-2:])}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return " < ".join(places)
