"""Let requests in or refuse them: the rules of this room, applied together.

`identify` needs only the request's fields, so it comes before the body is read; a wrong key takes nothing from a
rate. `admit` counts the client, `reserve` holds the tokens that its reply may cost, and `settle` charges those that it
has cost. Clocks are handed in. All state is in memory and bounded; each process has its own, and a restart clears it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cfchat.errors import BudgetSpent
from cfchat.guard.addresses import network_of
from cfchat.guard.budgets import Budget
from cfchat.guard.cors import Origins
from cfchat.guard.keys import Keys
from cfchat.guard.limits import Buckets, Rate
from cfchat.wire.fields import Fields


class Settings(NamedTuple):
    """Which clients may ask, and how much. `keys` None lets in every client.

    Rates and tokens hold for each key, or for each address if there are no keys. `daily_tokens` is the sum of all
    clients, `daily_tokens_each` that of one.
    """

    origins: Origins = Origins()
    keys: Keys | None = None
    rate: Rate | None = None
    daily_tokens: int | None = None
    daily_tokens_each: int | None = None


class Asker(NamedTuple):
    """The client that asks: the label of its key, if any; the name it is counted by; header fields for its reply.

    The fields say how many requests it may still send (draft-ietf-httpapi-ratelimit-headers).
    """

    label: str
    name: str
    fields: Sequence[tuple[str, str]] = ()


_ALL = "all together"  # the name that all clients are counted by


class Guard:
    """Lets requests in, and counts them. `keys` may be replaced while the server runs."""

    def __init__(self, settings: Settings = Settings()) -> None:
        self.origins = settings.origins
        self.keys = settings.keys
        self.daily_tokens = settings.daily_tokens
        self._buckets = None if settings.rate is None else Buckets(settings.rate)
        # Each with the name that all clients share in it, if they do.
        budgets = ((settings.daily_tokens, _ALL), (settings.daily_tokens_each, ""))
        self._budgets = [(Budget(tokens), shared) for tokens, shared in budgets if tokens is not None]

    def admit(self, label: str, address: str, now: float, epoch: float | None = None) -> Asker:
        """Count a request by its key's label, or by its address if the label is empty.

        `now` is the time of any steady clock and `epoch` the calendar's, both in seconds; without `epoch` the request
        costs no tokens, and no budget is looked at.

        Raises:
            RateLimited: the client asks too often.
            BudgetSpent: the day's tokens of the client, or of all clients, are used up.
        """
        name = f"key {label}" if label else network_of(address)
        fields = [] if self._buckets is None else self._buckets.take(name, now)
        if epoch is not None:
            for budget, shared in self._budgets:
                budget.check(shared or name, epoch)
        return Asker(label, name, fields)

    def identify(self, fields: Fields, secure: bool = False) -> str:
        """Return the label of a request's key; empty if this server has no keys. `secure` says if it came over TLS.

        Raises:
            OriginNotAllowed: a page of another origin sends the request.
            Unauthorized: the key is missing or unknown.
        """
        self.origins.check(fields, secure)
        return "" if self.keys is None else self.keys.find_label(fields.get("authorization"))

    def reserve(self, asker: Asker, question: int, reply: int, epoch: float) -> list[int]:
        """Hold the tokens of a question and the most that its reply may have; return what to give to `settle`.

        Raises:
            BudgetSpent: the client, or all clients together, have fewer tokens left.
        """
        held: list[int] = []
        try:
            for budget, shared in self._budgets:
                held.append(budget.reserve(shared or asker.name, question, reply, epoch))
        except BudgetSpent:
            self.settle(asker, held, 0, epoch)
            raise
        return held

    def settle(self, asker: Asker, held: Sequence[int], tokens: int, epoch: float) -> list[str]:
        """Charge a reply instead of what is held for it; return the names whose budgets that brings to 80 %."""
        if not held:
            return []
        return [
            shared or asker.name
            for (budget, shared), each in zip(self._budgets, held, strict=False)
            if budget.settle(shared or asker.name, each, tokens, epoch)
        ]
