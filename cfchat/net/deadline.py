"""One timer idea for every wait of a connection.

`asyncio.timeout` makes a timer, and the objects around it, for each wait: too much for a wait a token. A Deadline is
made once for a connection. Moving it assigns a time; the timer that is set already looks at that time when it fires,
and sets itself again if it is not due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


class Deadline:
    """A timeout that is cheap to move. It calls `on_expiry` once a wait has lasted too long.

    Two ends are watched: one that is moved with every step, and a bound for all steps together, which stays.
    `expired` says that one of them has passed, and `missed` which: its seconds, and the label it was set with.
    """

    __slots__ = ("_bound", "_bound_label", "_fires_at", "_label", "_loop", "_on_expiry", "_timer", "_when",
                 "expired", "missed")  # fmt: skip

    def __init__(self, on_expiry: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_expiry = on_expiry
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = inf
        self._when = self._bound = inf
        self._label: tuple[float, object] = (0.0, None)
        self._bound_label: tuple[float, object] = (0.0, None)
        self.missed: tuple[float, object] = (0.0, None)
        self.expired = False

    def move(self, seconds: float, label: object = None) -> None:
        """Expire `seconds` from now, unless it is moved or paused before."""
        self._label = seconds, label
        self._when = when = self._loop.time() + seconds
        if when < self._fires_at:
            self._set_timer(when)

    def bound(self, seconds: float, label: object = None) -> None:
        """Expire `seconds` from now however often it is moved; 0 sets no bound."""
        if seconds:
            self._bound_label = seconds, label
            self._bound = when = self._loop.time() + seconds
            if when < self._fires_at:
                self._set_timer(when)

    def pause(self) -> None:
        """Wait for nothing until it is moved again. The bound stays. So does the timer: letting it fire is cheap."""
        self._when = inf

    def stop(self) -> None:
        """Wait for nothing, and forget the bound."""
        self._when = self._bound = inf

    def cancel(self) -> None:
        """Stop for good. Drop the timer and `on_expiry`, so that no reference cycle keeps their owner in memory."""
        self.stop()
        self._on_expiry = _do_nothing
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._fires_at = None, inf

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = when
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer, self._fires_at = None, inf
        now, due = self._loop.time(), min(self._when, self._bound)
        if now >= due:
            self.expired = True
            self.missed = self._bound_label if now >= self._bound else self._label
            self._on_expiry()
        elif due != inf:
            self._set_timer(due)


def _do_nothing() -> None:
    pass
