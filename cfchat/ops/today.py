"""Say what this process has used since 00:00 UTC.

Counters only grow, so nothing is added for each reply: when the day changes their numbers are noted, and what they have
grown by since is of today. A timer looks at the clock at midnight, whether anybody reads the metrics or not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cfchat.errors import DAY
from cfchat.ops.metrics import Metrics

OFTEN = 60.0  # seconds between two looks at most: the clock may be set, or the machine may sleep


class Today:
    """Keeps the numbers of today in `metrics`, for the process that is called `worker` there.

    `clock` returns seconds since the epoch.
    """

    def __init__(self, metrics: Metrics, worker: str, clock: Callable[[], float] = time.time) -> None:
        self._metrics = metrics
        self._worker = worker
        self._clock = clock
        self._day = clock() // DAY
        self._before = (0.0, 0.0)  # tokens and neurons of the days before
        self._timer: asyncio.TimerHandle | None = None

    def update(self) -> None:
        """Set the numbers of today."""
        metrics = self._metrics
        numbers = metrics.tokens.sum(), metrics.neurons.sum()
        day = self._clock() // DAY
        if day != self._day:
            self._day, self._before = day, numbers
        metrics.tokens_today.set(numbers[0] - self._before[0], self._worker)
        metrics.neurons_today.set(numbers[1] - self._before[1], self._worker)

    def start(self) -> None:
        """Update them at each midnight from now on."""
        self.update()
        left = DAY - self._clock() % DAY
        self._timer = asyncio.get_running_loop().call_later(min(OFTEN, left), self.start)

    def stop(self) -> None:
        """Stop to look at the clock; does nothing if `start` was never called."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
