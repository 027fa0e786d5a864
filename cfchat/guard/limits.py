"""Rates: how many requests a client may send in a period.

A token bucket for each client, kept as one number: the moment when the bucket is full again (GCRA, ITU-T I.371).
Nothing has to be refilled by a timer. The table of clients is bounded; the client that asked longest ago is
forgotten first, which at worst gives it a full bucket.
"""

from __future__ import annotations

from math import ceil, floor
from typing import NamedTuple, TypeVar

from cfchat.errors import RateLimited

MOST_NAMES = 100_000  # of clients in one table
ValueT = TypeVar("ValueT")


def remember(table: dict[str, ValueT], name: str, value: ValueT, most: int) -> None:
    """Put a value at the end of a table; if it has more than `most` entries then, drop the first.

    The caller has taken the old value out, so the table is in the order of the last request.
    """
    table[name] = value
    if len(table) > most:
        del table[next(iter(table))]


class Rate(NamedTuple):
    """A rate: at most `requests` in `seconds`."""

    requests: int
    seconds: int


class Buckets:
    """A token bucket for each name."""

    def __init__(self, rate: Rate, most: int = MOST_NAMES) -> None:
        self._rate = rate
        self._most = most
        self._full: dict[str, float] = {}  # in the order of the last request

    def __len__(self) -> int:
        return len(self._full)

    def take(self, name: str, now: float) -> list[tuple[str, str]]:
        """Count a request at the time `now`, in seconds; return header fields that say how many are left.

        Raises:
            RateLimited: the bucket is empty; with the same fields and the seconds to wait.
        """
        rate = self._rate
        each = rate.seconds / rate.requests
        full = max(self._full.pop(name, now), now)
        wait = full + each - now - rate.seconds
        # Floats lose a little: the last request that the rate allows must not fail by 1e-12 s.
        if wait > each * 1e-6:
            self._full[name] = full
            raise RateLimited(
                f"Too many requests: this server allows {rate.requests} in {rate.seconds} seconds.",
                retry_after=wait,
                fields=self._describe(full - now),
            )
        remember(self._full, name, full + each, self._most)
        return self._describe(full + each - now)

    def _describe(self, until_full: float) -> list[tuple[str, str]]:
        """Return the fields of draft-ietf-httpapi-ratelimit-headers; the bucket is full in `until_full` seconds."""
        rate = self._rate
        left = floor((rate.seconds - until_full) * rate.requests / rate.seconds + 1e-6)
        return [
            ("RateLimit-Policy", f'"requests";q={rate.requests};w={rate.seconds}'),
            ("RateLimit", f'"requests";r={max(0, left)};t={ceil(until_full - 1e-6)}'),
        ]
