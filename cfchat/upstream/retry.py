"""Decide whether, when and with which model to try again. Pure: time and randomness are handed in.

The wait is an exponential backoff with full jitter, so that requests that failed together do not come back together.
A Retry-After is the shortest wait, and the jitter comes on top of it, because all clients got the same number. If
another model may not share the fault, the next try goes to that model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cfchat.errors import UpstreamError, UpstreamModelGone

_DOUBLINGS = 64  # any cap is reached long before; more would overflow a float


class Policy(NamedTuple):
    """How often and how long to try; all times in seconds."""

    attempts: int = 3  # requests for one reply, including the first one, to all models together
    base: float = 0.5  # the longest backoff after the first failure; it doubles with each further one
    cap: float = 8.0  # the longest backoff after any failure
    budget: float = 30.0  # no try begins later than this after the first one began
    longest_wait: float = 60.0  # a longer Retry-After is passed on to the client instead


class Next(NamedTuple):
    """The next try: the model to ask, and the seconds to wait before."""

    model: str
    wait: float


def next_try(
    policy: Policy,
    error: UpstreamError,
    attempt: int,
    elapsed: float,
    random: Callable[[], float],
    model: str,
    others: Sequence[str] = (),
) -> Next | None:
    """Return the next try, or None to give up.

    `attempt` is the number of the try that failed, from 1, and `model` the model that it asked. `others` are further
    models worth asking, best first. `elapsed` is the time in seconds since the first try began. `random` returns
    numbers in [0, 1).
    """
    if attempt >= policy.attempts:
        return None
    if error.elsewhere and others:
        # The Retry-After of one model does not bind another.
        wait = 0.0 if isinstance(error, UpstreamModelGone) else random() * _ceiling(policy, attempt)
        return _in_budget(policy, elapsed, Next(others[0], wait))
    shortest = max(0.0, error.retry_after or 0.0)
    spent = error.most_tries is not None and attempt >= error.most_tries
    if not error.retryable or spent or shortest > policy.longest_wait:
        return None
    return _in_budget(policy, elapsed, Next(model, shortest + random() * _ceiling(policy, attempt)))


def _in_budget(policy: Policy, elapsed: float, following: Next) -> Next | None:
    return following if elapsed + following.wait <= policy.budget else None


def _ceiling(policy: Policy, attempt: int) -> float:
    return min(policy.cap, policy.base * 2.0 ** min(attempt - 1, _DOUBLINGS))
