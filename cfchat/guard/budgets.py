"""Budgets: how many of Cloudflare's tokens may be used in a day (UTC).

A reply is charged when it is over and its tokens are known, so replies under way may overrun a budget. All budgets
begin again at midnight, when the table is cleared. The table is bounded; the client that was charged longest ago is
forgotten first.
"""

from __future__ import annotations

from cfchat.errors import DAY, BudgetSpent
from cfchat.guard.limits import MOST_NAMES, remember

WARN_AT = 0.8  # of the day's tokens


class Budget:
    """A budget of `tokens` a day for each name, with at most `most` names."""

    def __init__(self, tokens: int, most: int = MOST_NAMES) -> None:
        self._tokens = tokens
        self._most = most
        self._day = 0
        self._spent: dict[str, int] = {}

    def check(self, name: str, now: float) -> None:
        """Check that a name has tokens left. `now` is in seconds since the epoch.

        Raises:
            BudgetSpent: the day's tokens are used up; with the seconds until midnight.
        """
        self._start_day(now)
        if self._spent.get(name, 0) >= self._tokens:
            message = "The tokens of today are used up. They are renewed at 00:00 UTC."
            raise BudgetSpent(message, retry_after=DAY - now % DAY)

    def spend(self, name: str, tokens: int, now: float) -> bool:
        """Charge a reply; return whether it brings the name to 80 % of the day's tokens."""
        self._start_day(now)
        before = self._spent.pop(name, 0)
        remember(self._spent, name, before + tokens, self._most)
        return before < self._tokens * WARN_AT <= before + tokens

    def _start_day(self, now: float) -> None:
        """Forget what was spent if another day has begun."""
        day = int(now // DAY)
        if day != self._day:
            self._day = day
            self._spent.clear()
