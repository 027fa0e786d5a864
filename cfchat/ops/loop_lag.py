"""The pulse of the event loop: how late its timer is, and where the loop is when it does not beat."""

from __future__ import annotations

import asyncio
import logging
import selectors
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger("cfchat.pulse")

EVERY = 0.05  # seconds from one beat to the next
LATE = 0.1  # later than this the loop has stalled
FRAMES = 6  # of the stack that are told, from the innermost


class Pulse:
    """A timer in the loop; `late` gets the seconds by which each beat was late."""

    def __init__(self, late: Callable[[float], None]) -> None:
        self._late = late
        self._timer: asyncio.TimerHandle | None = None
        self.due = 0.0  # of time.monotonic, as the loop's own clock is
        self.thread = 0

    def start(self) -> None:
        self.thread = threading.get_ident()
        self._wait()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self.due = time.monotonic() + EVERY
        self._timer = asyncio.get_running_loop().call_later(EVERY, self._beat)

    def _beat(self) -> None:
        self._late(max(0.0, time.monotonic() - self.due))
        self._wait()


@contextmanager
def stalls_told(pulse: Pulse) -> Iterator[None]:
    """Within the block a thread looks after a running pulse, and logs where the loop is when it stalls."""
    stop = threading.Event()
    thread = threading.Thread(target=_look, args=(pulse, stop), name="cfchat-pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _look(pulse: Pulse, stop: threading.Event) -> None:
    told = 0.0
    while not stop.wait(EVERY):
        due = pulse.due
        late = time.monotonic() - due
        if late < LATE or due == told:
            continue
        told = due  # once for each stall
        if where := place(pulse.thread):
            log.warning("the event loop has been busy for %.0f ms at %s", (late + EVERY) * 1000, where)


def place(thread: int) -> str:
    """Files, lines and functions, the innermost first; nothing where the thread waits for something to read.

    Then it is the machine that is late. No values are told: they may be what a user said.
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
