"""Who may ask, and how often: origins (CORS), API keys, rates, daily tokens, the address behind a proxy. Pure.

All state is bounded and in memory: it is this process's own, and begins anew with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cfchat.guard.addresses import network_of
from cfchat.guard.budgets import Budget
from cfchat.guard.cors import Origins
from cfchat.guard.keys import Keys
from cfchat.guard.limits import Buckets, Rate
from cfchat.wire.fields import Fields


class Settings(NamedTuple):
    """Who may ask. `keys` None: everybody. Rates and tokens are for each key, or address where there are no keys."""

    origins: Origins = Origins()
    keys: Keys | None = None
    rate: Rate | None = None
    daily_tokens: int | None = None  # of all together
    daily_tokens_each: int | None = None


class Asker(NamedTuple):
    """Who asks: a key's label, or nothing; the name that is counted; fields that tell what is left to them."""

    label: str
    name: str
    fields: Sequence[tuple[str, str]] = ()


_ALL = ""


class Guard:
    """Lets requests in, and counts them. `keys` may be changed while it runs."""

    def __init__(self, settings: Settings = Settings()) -> None:
        self.origins = settings.origins
        self.keys = settings.keys
        self._buckets = None if settings.rate is None else Buckets(settings.rate)
        self._budget = None if settings.daily_tokens is None else Budget(settings.daily_tokens)
        self._each = None if settings.daily_tokens_each is None else Budget(settings.daily_tokens_each)

    def admit(self, label: str, address: str, now: float, epoch: float) -> Asker:
        """Count who asks, by label or else address; `now` is of any steady clock, `epoch` of the calendar's.

        Raises RateLimited, BudgetSpent.
        """
        name = f"key {label}" if label else network_of(address)
        told = [] if self._buckets is None else self._buckets.take(name, now)
        if self._budget is not None:
            self._budget.check(_ALL, epoch)
        if self._each is not None:
            self._each.check(name, epoch)
        return Asker(label, name, told)

    def identify(self, fields: Fields) -> str:
        """The label of a request's key; empty where there are none. Raises OriginNotAllowed, Unauthorized."""
        self.origins.check(fields)
        return "" if self.keys is None else self.keys.label(fields.get("authorization"))

    def spend(self, asker: Asker, tokens: int, epoch: float) -> list[str]:
        """Count the tokens of a reply; whose budget is at 80 % with it."""
        warned = []
        if self._budget is not None and self._budget.spend(_ALL, tokens, epoch):
            warned.append("all together")
        if self._each is not None and self._each.spend(asker.name, tokens, epoch):
            warned.append(asker.name)
        return warned
