"""One timer for many waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


class Alarm:
    """Ends what takes too long, one wait after the other. Setting it is an assignment: it may be done with every token.

    asyncio.timeout makes a timer, and what is around it, for each wait.
    """

    def __init__(self, on_expiry: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_expiry = on_expiry
        self._when = inf
        self._timer: asyncio.TimerHandle | None = None
        self._rings = inf  # when the timer rings, to see whether it is time
        self.expired = False

    def set(self, seconds: float) -> None:
        """Expire `seconds` from now, unless set or stopped before."""
        self._when = self._loop.time() + seconds
        if self._when < self._rings:
            self._watch(self._when)

    def stop(self) -> None:
        """Nothing is waited for. The timer stays, for it costs less to let it ring than to make another."""
        self._when = inf

    def cancel(self) -> None:
        """Stop, and let no timer ring."""
        self.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._rings = None, inf

    def _due(self) -> float:
        return self._when

    def _expire(self, now: float) -> None:
        self.expired = True
        self._on_expiry()

    def _watch(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = when
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer, self._rings = None, inf
        now, due = self._loop.time(), self._due()
        if now >= due:
            self._expire(now)
        elif due != inf:
            self._watch(due)
