"""Whether, when and whom to ask again. Pure: time and randomness are handed in.

Exponential backoff with full jitter, so that clients that failed together do not come back together.
`Retry-After` is a floor under the wait and the jitter comes on top of it: everybody was told the same number.
A fault that another model may not share gives the next try to that model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cfchat.errors import UpstreamError, UpstreamModelGone

_DOUBLINGS = 64  # any cap is long reached; without it a large `attempts` overflows a float


class Policy(NamedTuple):
    """How often and how long to try; all times in seconds."""

    attempts: int = 3  # requests in all for one reply, the first among them, whichever models they go to
    base: float = 0.5  # the backoff's ceiling after the first failure; doubles with each further one
    cap: float = 8.0  # the backoff's ceiling never grows beyond this
    budget: float = 30.0  # no try begins later than this after the first began
    longest_wait: float = 60.0  # a longer Retry-After is an answer for the client, not a wait


class Next(NamedTuple):
    """The next try: which model, after how many seconds."""

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
    """Whom to ask next, or None to give up.

    `attempt` is the number of the try that failed, from 1, and `model` whom it asked; `others` are further
    models worth asking, best first; `elapsed` is the time since the first try began; `random` gives numbers
    in [0, 1).
    """
    if attempt >= policy.attempts:
        return None
    if error.elsewhere and others:
        # What the one model asked to be spared (Retry-After) does not bind the other.
        wait = 0.0 if isinstance(error, UpstreamModelGone) else random() * _ceiling(policy, attempt)
        return _in_budget(policy, elapsed, Next(others[0], wait))
    asked = max(0.0, error.retry_after or 0.0)
    spent = error.most_tries is not None and attempt >= error.most_tries
    if not error.retryable or spent or asked > policy.longest_wait:
        return None
    return _in_budget(policy, elapsed, Next(model, asked + random() * _ceiling(policy, attempt)))


def _in_budget(policy: Policy, elapsed: float, following: Next) -> Next | None:
    return following if elapsed + following.wait <= policy.budget else None


def _ceiling(policy: Policy, attempt: int) -> float:
    return min(policy.cap, policy.base * 2.0 ** min(attempt - 1, _DOUBLINGS))
