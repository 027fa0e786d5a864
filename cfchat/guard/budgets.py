"""Who may ask, and how often: origins (CORS), API keys, rates, daily tokens, the address behind a proxy. Pure.

All state is bounded and in memory: it is this process's own, and begins anew with it.
"""

from __future__ import annotations

from cfchat.errors import BudgetSpent
from cfchat.guard.limits import MOST_NAMES

DAY = 86_400.0
WARN_AT = 0.8


class Budget:
    """Tokens of a day (UTC) for each name. A reply is counted when it is over: those under way may overrun it."""

    def __init__(self, tokens: int, most: int = MOST_NAMES) -> None:
        self._tokens = tokens
        self._most = most
        self._day = 0
        self._spent: dict[str, int] = {}

    def check(self, name: str, now: float) -> None:
        """Raises BudgetSpent, with the time until midnight, where the day's tokens are used up. `now`: epoch."""
        self._turn(now)
        if self._spent.get(name, 0) >= self._tokens:
            told = "The tokens of today are used up. They are renewed at 00:00 UTC."
            raise BudgetSpent(told, retry_after=DAY - now % DAY)

    def spend(self, name: str, tokens: int, now: float) -> bool:
        """Count a reply; whether this one passed 80 % of the day's tokens."""
        self._turn(now)
        before = self._spent.pop(name, 0)
        self._spent[name] = before + tokens
        if len(self._spent) > self._most:
            del self._spent[next(iter(self._spent))]
        return before < self._tokens * WARN_AT <= before + tokens

    def _turn(self, now: float) -> None:
        day = int(now // DAY)
        if day != self._day:
            self._day = day
            self._spent.clear()
