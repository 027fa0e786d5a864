"""When to try again: every decision once, then its bounds for all inputs."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.errors import UpstreamError, UpstreamModelGone, UpstreamOverloaded, UpstreamQuota, UpstreamRefused
from cfchat.upstream.retry import Next, Policy, next_try


def failure(
    retry_after: float | None = None, retryable: bool = True, elsewhere: bool = False, most_tries: int | None = None
) -> UpstreamError:
    error = UpstreamError("it failed", retry_after=retry_after)
    error.retryable, error.elsewhere, error.most_tries = retryable, elsewhere, most_tries
    return error


def delay(
    policy: Policy, error: UpstreamError, attempt: int, elapsed: float, chance: Callable[[], float]
) -> float | None:
    """Return the wait before the only model, `m`, is asked again."""
    following = next_try(policy, error, attempt, elapsed, chance, "m")
    assert following is None or following.model == "m"
    return None if following is None else following.wait


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
        pytest.param(failure(most_tries=2), 1, 0.0, 0.5, 0.25, id="worth a second try"),
        pytest.param(failure(most_tries=2), 2, 0.0, 0.5, None, id="not worth a third"),
        pytest.param(failure(elsewhere=True), 1, 0.0, 0.5, 0.25, id="another might, but there is none"),
        pytest.param(UpstreamModelGone("gone"), 1, 0.0, 0.5, None, id="gone, and no other"),
    ],
)
def test_decision(
    error: UpstreamError, attempt: int, elapsed: float, chance: float, expected: float | None
) -> None:
    assert delay(Policy(), error, attempt, elapsed, lambda: chance) == expected


OTHERS = ("b", "c")


@pytest.mark.parametrize(
    ("error", "attempt", "elapsed", "expected"),
    [
        pytest.param(failure(), 1, 0.0, Next("a", 0.25), id="a fault of the connection is not the model's"),
        pytest.param(failure(elsewhere=True), 1, 0.0, Next("b", 0.25), id="a fault of the model"),
        pytest.param(failure(elsewhere=True), 2, 0.0, Next("b", 0.5), id="the wait grows with each try, of any model"),
        pytest.param(failure(10.0, elsewhere=True), 1, 0.0, Next("b", 0.25), id="Retry-After binds one model"),
        pytest.param(failure(90.0, elsewhere=True), 1, 0.0, Next("b", 0.25), id="however long it is"),
        pytest.param(failure(10.0), 1, 0.0, Next("a", 10.25), id="Retry-After of the whole account"),
        pytest.param(failure(retryable=False, elsewhere=True), 1, 0.0, Next("b", 0.25), id="only elsewhere"),
        pytest.param(failure(elsewhere=True, most_tries=2), 2, 0.0, Next("b", 0.5), id="most tries of one model"),
        pytest.param(UpstreamModelGone("gone"), 1, 0.0, Next("b", 0.0), id="gone: at once"),
        pytest.param(UpstreamModelGone("gone"), 3, 0.0, None, id="three requests, to any models"),
        pytest.param(UpstreamModelGone("gone"), 1, 30.1, None, id="gone, but the budget is spent"),
        pytest.param(UpstreamRefused("no"), 1, 0.0, None, id="refused: another would, too"),
        pytest.param(UpstreamQuota("no"), 1, 0.0, None, id="a quota is the account's"),
    ],
)
def test_which_model_is_next(error: UpstreamError, attempt: int, elapsed: float, expected: Next | None) -> None:
    assert next_try(Policy(), error, attempt, elapsed, lambda: 0.5, "a", OTHERS) == expected


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


# --- a thousand clients ----------------------------------------------------------------------------


def one_client(
    chance: random.Random, models: Sequence[str], fails: Callable[[str], UpstreamError | None]
) -> list[tuple[float, str]]:
    """Return the times and the models of one client's requests, from 0 on. A failure takes up to a second to come."""
    now, model, asked = 0.0, models[0], list[tuple[float, str]]()
    while True:
        asked.append((now, model))
        error = fails(model)
        if error is None:
            return asked
        now += chance.random()
        others = [other for other in models if other != model]
        following = next_try(Policy(), error, len(asked), now, chance.random, model, others)
        if following is None:
            return asked
        now, model = now + following.wait, following.model


@pytest.mark.parametrize("models", [("a",), ("a", "b"), ("a", "b", "c")])
def test_a_thousand_clients_at_an_upstream_that_fails_half_the_time(models: Sequence[str]) -> None:
    chance = random.Random(1)
    faults = (failure(), failure(elsewhere=True), failure(2.0), UpstreamModelGone("gone"), failure(retryable=False))

    def fails(model: str) -> UpstreamError | None:
        return chance.choice(faults) if chance.random() < 0.5 else None

    runs = [one_client(chance, models, fails) for _ in range(1000)]
    extra = [len(run) - 1 for run in runs]
    assert max(extra) == 2  # never more than three requests for one reply
    assert sum(extra) < 1000 * (1 / 2 + 1 / 4)  # a second for each that failed, a third for each that failed again
    assert max(now for run in runs for now, _ in run) <= 30.0


def test_a_thousand_clients_in_an_outage_do_not_come_back_together() -> None:
    chance = random.Random(2)
    runs = [one_client(chance, ("a",), lambda model: failure()) for _ in range(1000)]
    assert {len(run) for run in runs} == {3}
    moments = Counter(int(now * 20) for run in runs for now, _ in run[1:])
    assert max(moments.values()) < 2000 * 0.05  # requests in the fullest twentieth of a second
