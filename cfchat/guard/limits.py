"""Who may ask, and how often: origins (CORS), API keys, rates, daily tokens, the address behind a proxy. Pure.

All state is bounded and in memory: it is this process's own, and begins anew with it.
"""

from __future__ import annotations

from math import ceil, floor
from typing import NamedTuple

from cfchat.errors import RateLimited

# Names remembered of those who asked; beyond it the one that asked longest ago is forgotten.
MOST_NAMES = 100_000


class Rate(NamedTuple):
    """So many requests in so many seconds."""

    requests: int
    seconds: int


class Buckets:
    """A token bucket for each name, as the one moment when it will be full again (GCRA, of ITU-T I.371)."""

    def __init__(self, rate: Rate, most: int = MOST_NAMES) -> None:
        self._rate = rate
        self._most = most
        self._full: dict[str, float] = {}  # in the order of the last request

    def __len__(self) -> int:
        return len(self._full)

    def take(self, name: str, now: float) -> list[tuple[str, str]]:
        """One request; the fields that tell what is left. Raises RateLimited with the same and a Retry-After."""
        rate = self._rate
        each = rate.seconds / rate.requests
        full = max(self._full.pop(name, now), now)
        wait = full + each - now - rate.seconds
        # A tolerance for what floats lose: the last of the requests must not fail by 1e-12 of a second.
        if wait > each * 1e-6:
            self._full[name] = full
            raise RateLimited(
                f"Too many requests: this server allows {rate.requests} in {rate.seconds} seconds.",
                retry_after=wait,
                fields=self._told(full - now),
            )
        self._full[name] = full + each
        if len(self._full) > self._most:
            del self._full[next(iter(self._full))]
        return self._told(full + each - now)

    def _told(self, until_full: float) -> list[tuple[str, str]]:
        """The fields of draft-ietf-httpapi-ratelimit-headers: what is left, and seconds until all is."""
        rate = self._rate
        left = floor((rate.seconds - until_full) * rate.requests / rate.seconds + 1e-6)
        return [
            ("RateLimit-Policy", f'"requests";q={rate.requests};w={rate.seconds}'),
            ("RateLimit", f'"requests";r={max(0, left)};t={ceil(until_full - 1e-6)}'),
        ]
