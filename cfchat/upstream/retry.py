"""Whether and when to send a request to Cloudflare again. Pure: time and randomness are handed in.

Exponential backoff with full jitter, so that clients that failed together do not come back together.
`Retry-After` is a floor under the wait and the jitter comes on top of it: everybody was told the same number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cfchat.errors import UpstreamError

_DOUBLINGS = 64  # any cap is long reached; without it a large `attempts` overflows a float


@dataclass(frozen=True, slots=True)
class Policy:
    """How often and how long to try; all times in seconds."""

    attempts: int = 3  # requests in all for one reply, the first among them
    base: float = 0.5  # the backoff's ceiling after the first failure; doubles with each further one
    cap: float = 8.0  # the backoff's ceiling never grows beyond this
    budget: float = 30.0  # no try begins later than this after the first began
    longest_wait: float = 60.0  # a longer Retry-After is an answer for the client, not a wait


def delay(
    policy: Policy, error: UpstreamError, attempt: int, elapsed: float, random: Callable[[], float]
) -> float | None:
    """Seconds to wait before the next try, or None to give up.

    `attempt` is the number of the try that failed, from 1; `elapsed` is the time since the first try
    began; `random` gives numbers in [0, 1).
    """
    asked = max(0.0, error.retry_after or 0.0)
    if not error.retryable or attempt >= policy.attempts or asked > policy.longest_wait:
        return None
    wait = asked + random() * _ceiling(policy, attempt)
    return wait if elapsed + wait <= policy.budget else None


def _ceiling(policy: Policy, attempt: int) -> float:
    return min(policy.cap, policy.base * 2.0 ** min(attempt - 1, _DOUBLINGS))
