"""Token buckets, against a slow reference."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cfchat.errors import RateLimited
from cfchat.guard.limits import Buckets, Rate


def allowed(buckets: Buckets, moments: Sequence[float], name: str = "a") -> list[bool]:
    results = []
    for now in moments:
        try:
            buckets.take(name, now)
            results.append(True)
        except RateLimited:
            results.append(False)
    return results


def test_a_bucket_is_full_at_first_and_fills_evenly() -> None:
    buckets = Buckets(Rate(3, 60))
    assert allowed(buckets, [0, 0, 0, 0, 19.9]) == [True, True, True, False, False]
    assert allowed(buckets, [20, 20, 39.9, 40]) == [True, False, False, True]
    assert allowed(buckets, [10_000] * 4) == [True] * 3 + [False]


def test_each_name_has_its_own_bucket() -> None:
    buckets = Buckets(Rate(1, 60))
    assert allowed(buckets, [0, 0]) == [True, False]
    assert allowed(buckets, [0], "b") == [True]


def test_fields_say_how_many_requests_are_left() -> None:
    buckets = Buckets(Rate(3, 60))
    assert dict(buckets.take("a", 0.0)) == {
        "RateLimit-Policy": '"requests";q=3;w=60',
        "RateLimit": '"requests";r=2;t=20',
    }
    assert dict(buckets.take("a", 0.0))["RateLimit"] == '"requests";r=1;t=40'
    assert dict(buckets.take("a", 0.0))["RateLimit"] == '"requests";r=0;t=60'
    with pytest.raises(RateLimited, match="3 in 60 seconds") as caught:
        buckets.take("a", 5.0)
    assert caught.value.retry_after == pytest.approx(15.0)
    assert dict(caught.value.fields)["RateLimit"] == '"requests";r=0;t=55'


@given(st.floats(0, 1e8))
@example(32210.049064303148)
def test_rounding_of_floats_adds_no_second(now: float) -> None:
    assert ("RateLimit", '"requests";r=1;t=1800') in Buckets(Rate(2, 3600)).take("a", now)


def test_the_table_is_bounded_and_drops_the_oldest_name() -> None:
    buckets = Buckets(Rate(1, 60), most=3)
    for name in ("a", "b", "c", "a", "d"):
        allowed(buckets, [0.0], name)
    assert len(buckets) == 3
    assert allowed(buckets, [0.0], "a") == [False]
    assert allowed(buckets, [0.0], "b") == [True]


@given(
    st.integers(1, 10),
    st.integers(1, 100),
    st.lists(st.floats(0, 50), max_size=60),
)
def test_never_more_than_the_rate_in_any_window(requests: int, seconds: int, waits: list[float]) -> None:
    """Compare a bucket with a level that fills: it allows its content at once, and its rate on top of that."""
    buckets, now, moments = Buckets(Rate(requests, seconds)), 0.0, []
    level, last = float(requests), 0.0  # the slow reference: a level that is filled
    for wait in waits:
        now += wait
        level = min(float(requests), level + (now - last) * requests / seconds)
        last = now
        (admitted,) = allowed(buckets, [now])
        if abs(level - 1) > 1e-3:
            assert admitted is (level >= 1)
        if admitted:
            level -= 1
            moments.append(now)
    for start in moments:
        assert sum(start <= moment < start + seconds for moment in moments) <= 2 * requests
