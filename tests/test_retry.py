"""cfchat.upstream.retry: every decision once, then its bounds for all inputs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.errors import UpstreamError, UpstreamOverloaded, UpstreamQuota, UpstreamRefused
from cfchat.upstream.retry import Policy, delay


def failure(retry_after: float | None = None, retryable: bool = True) -> UpstreamError:
    error = UpstreamError("it failed", retry_after=retry_after)
    error.retryable = retryable
    return error


@pytest.mark.parametrize(
    ("error", "attempt", "elapsed", "chance", "expected"),
    [
        pytest.param(failure(), 1, 0.0, 0.5, 0.25, id="half of the base"),
        pytest.param(failure(), 1, 0.0, 0.0, 0.0, id="full jitter reaches down to zero"),
        pytest.param(failure(), 2, 0.0, 0.5, 0.5, id="doubled after the second"),
        pytest.param(failure(), 3, 0.0, 0.5, None, id="attempts used up"),
        pytest.param(failure(), 4, 0.0, 0.5, None, id="attempts more than used up"),
        pytest.param(failure(retryable=False), 1, 0.0, 0.5, None, id="instance not retryable"),
        pytest.param(UpstreamRefused("no"), 1, 0.0, 0.5, None, id="class not retryable"),
        pytest.param(UpstreamQuota("no", retry_after=1), 1, 0.0, 0.5, None, id="quota, though a wait is named"),
        pytest.param(UpstreamOverloaded("busy"), 1, 0.0, 0.5, 0.25, id="overloaded"),
        pytest.param(failure(10.0), 1, 0.0, 0.0, 10.0, id="Retry-After"),
        pytest.param(failure(10.0), 1, 0.0, 0.5, 10.25, id="jitter on top of Retry-After"),
        pytest.param(failure(0.0), 1, 0.0, 0.5, 0.25, id="Retry-After of zero"),
        pytest.param(failure(-5.0), 1, 0.0, 0.5, 0.25, id="Retry-After in the past"),
        pytest.param(failure(math.nan), 1, 0.0, 0.5, 0.25, id="Retry-After that is no number"),
        pytest.param(failure(math.inf), 1, 0.0, 0.5, None, id="Retry-After without end"),
        pytest.param(failure(31.0), 1, 0.0, 0.0, None, id="Retry-After ends beyond the budget"),
        pytest.param(failure(), 1, 29.75, 0.5, 0.25, id="begins just at the end of the budget"),
        pytest.param(failure(), 1, 29.76, 0.5, None, id="would begin after the budget"),
        pytest.param(failure(), 1, 31.0, 0.0, None, id="budget spent by the try itself"),
    ],
)
def test_decision(
    error: UpstreamError, attempt: int, elapsed: float, chance: float, expected: float | None
) -> None:
    assert delay(Policy(), error, attempt, elapsed, lambda: chance) == expected


@pytest.mark.parametrize(("asked", "expected"), [(60.0, 60.0), (60.001, None)])
def test_longest_wait_counts_where_the_budget_allows_it(asked: float, expected: float | None) -> None:
    assert delay(Policy(budget=100.0), failure(asked), 1, 0.0, lambda: 0.0) == expected


@pytest.mark.parametrize(
    ("attempt", "ceiling"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 8.0), (5000, 8.0)]
)
def test_backoff_doubles_up_to_its_cap(attempt: int, ceiling: float) -> None:
    assert delay(Policy(attempts=10_000), failure(), attempt, 0.0, lambda: 1.0) == ceiling


seconds = st.floats(0, 200)


@given(
    policy=st.builds(
        Policy,
        attempts=st.integers(1, 5000), base=seconds, cap=seconds, budget=seconds, longest_wait=seconds,
    ),
    attempt=st.integers(1, 5000),
    elapsed=seconds,
    retry_after=st.none() | seconds,
    retryable=st.booleans(),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_bounds(
    policy: Policy, attempt: int, elapsed: float, retry_after: float | None, retryable: bool, chance: float
) -> None:
    wait = delay(policy, failure(retry_after, retryable), attempt, elapsed, lambda: chance)
    asked = retry_after or 0.0
    if wait is None:
        may_try = retryable and attempt < policy.attempts and asked <= policy.longest_wait
        assert not may_try or elapsed + asked + policy.cap > policy.budget  # given up for a reason
        return
    assert retryable
    assert attempt < policy.attempts
    assert asked <= policy.longest_wait
    assert elapsed + wait <= policy.budget
    assert 0 <= asked <= wait <= asked + policy.cap


@given(st.lists(st.floats(0, 40), min_size=1, max_size=20), st.floats(0, 1, exclude_max=True))
def test_a_whole_run_ends_within_attempts_and_budget(lasting: list[float], chance: float) -> None:
    now, begun = 0.0, [0.0]
    for attempt, cost in enumerate(lasting, 1):
        now += cost
        wait = delay(Policy(), failure(), attempt, now, lambda: chance)
        if wait is None:
            break
        now += wait
        begun.append(now)
    assert len(begun) <= 3
    assert max(begun) <= 30.0
