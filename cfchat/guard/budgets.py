"""Budgets: how many of Cloudflare's tokens may be used in a day (UTC).

What a reply may cost is held before it is asked for, and settled when it is over and its tokens are known. So replies
that run at the same time cannot overrun a budget together. If a reply may be longer than the whole budget, it holds
all of it. At midnight what was spent is forgotten; what is held is not. The table is bounded; the client that was
charged longest ago is forgotten first.
"""

from __future__ import annotations

from cfchat.errors import DAY, BudgetSpent
from cfchat.guard.limits import MOST_NAMES, remember

WARN_AT = 0.8  # of the day's tokens
SOON = 10.0  # seconds, in which some of the replies under way are likely to be over


class Budget:
    """A budget of `tokens` a day for each name, with at most `most` names."""

    def __init__(self, tokens: int, most: int = MOST_NAMES) -> None:
        self._tokens = tokens
        self._most = most
        self._day = 0
        self._spent: dict[str, int] = {}
        self._held: dict[str, int] = {}  # for replies under way, whose number is bounded elsewhere

    def check(self, name: str, now: float, tokens: int = 1) -> None:
        """Check that a name has this many tokens left. `now` is in seconds since the epoch.

        Raises:
            BudgetSpent: it has fewer; with the seconds until midnight, or fewer if replies under way hold them.
        """
        self._start_day(now)
        left = self._tokens - self._spent.get(name, 0)
        if tokens + self._held.get(name, 0) <= left:
            return
        midnight = (self._day + 1) * DAY - now
        if left <= 0:
            raise BudgetSpent("The tokens of today are used up. They are renewed at 00:00 UTC.", retry_after=midnight)
        if tokens > left:
            message = f"This may take {tokens} of today's tokens, and {left} are left. Send less, or lower max_tokens."
            raise BudgetSpent(message, retry_after=midnight)
        message = "Replies under way may use up today's tokens. Please try again when they are over."
        raise BudgetSpent(message, retry_after=min(SOON, midnight))

    def reserve(self, name: str, question: int, reply: int, now: float) -> int:
        """Hold the tokens of a question and the most that its reply may have, until `settle`; return how many.

        Raises:
            BudgetSpent: the name has fewer tokens left.
        """
        tokens = max(question, min(question + reply, self._tokens))
        self.check(name, now, tokens)
        self._held[name] = self._held.get(name, 0) + tokens
        return tokens

    def settle(self, name: str, held: int, tokens: int, now: float) -> bool:
        """Charge a reply instead of what is held for it; return whether that brings the name to 80 % of the day's."""
        self._start_day(now)
        self._held[name] -= held
        if not self._held[name]:
            del self._held[name]
        if not tokens:
            return False
        before = self._spent.pop(name, 0)
        remember(self._spent, name, before + tokens, self._most)
        return before < self._tokens * WARN_AT <= before + tokens

    def _start_day(self, now: float) -> None:
        """Forget what was spent if another day has begun.

        A clock that is set back over midnight begins no day. One that was wrong by more than that sets the day right.
        """
        day = int(now // DAY)
        if day > self._day:
            self._spent.clear()
        if day != self._day - 1:
            self._day = day
