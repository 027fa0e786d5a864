"""Which models to ask: decision by decision, then after any steps."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.upstream.circuits import Circuits, Settings

MODELS = ("a", "b", "c")


def failing(circuits: Circuits, model: str, times: int, now: float = 0.0) -> list[bool]:
    """Return what `failed` returns for each of these failures in a row."""
    return [circuits.failed(model, now) for _ in range(times)]


def test_all_are_healthy_at_first() -> None:
    assert Circuits().order(MODELS, 0.0) == ["a", "b", "c"]


def test_three_failures_in_a_row_open_a_circuit_once() -> None:
    circuits = Circuits()
    assert failing(circuits, "a", 2) == [False, False]
    assert circuits.order(MODELS, 0.0) == ["a", "b", "c"]
    assert failing(circuits, "a", 2) == [True, False]
    assert circuits.order(MODELS, 0.0) == ["b", "c"]


def test_an_answer_between_failures_starts_the_count_again() -> None:
    circuits = Circuits()
    failing(circuits, "a", 2)
    circuits.succeeded("a")
    assert failing(circuits, "a", 3) == [False, False, True]


def test_an_open_circuit_is_tried_by_one_request() -> None:
    circuits = Circuits(Settings(failures=1, rest=10.0))
    failing(circuits, "a", 1)
    assert circuits.order(MODELS, 9.9) == ["b", "c"]
    assert circuits.order(MODELS, 10.0) == ["a", "b", "c"]
    circuits.asked("a", 10.0)
    assert circuits.order(MODELS, 10.0) == ["b", "c"]  # for all others, until it is known how that went
    assert circuits.order(MODELS, 20.0) == ["a", "b", "c"]  # or it was never known
    circuits.succeeded("a")
    assert circuits.order(MODELS, 10.1) == ["a", "b", "c"]


def test_a_trial_that_fails_leaves_it_open() -> None:
    circuits = Circuits(Settings(failures=2, rest=10.0))
    failing(circuits, "a", 2)
    circuits.asked("a", 10.0)
    assert failing(circuits, "a", 1, now=15.0) == [False]
    assert circuits.order(MODELS, 24.9) == ["b", "c"]
    assert circuits.order(MODELS, 25.0) == ["a", "b", "c"]


def test_with_all_open_the_first_is_asked_all_the_same() -> None:
    circuits = Circuits(Settings(failures=1))
    for model in MODELS:
        circuits.failed(model, 0.0)
    assert circuits.order(MODELS, 0.0) == ["a"]
    circuits.gone("a")
    assert circuits.order(MODELS, 0.0) == ["b"]


def test_a_model_that_is_gone_stays_gone_and_is_news_once() -> None:
    circuits = Circuits()
    assert (circuits.gone("a"), circuits.gone("a")) == (True, False)
    assert circuits.order(MODELS, 1e9) == ["b", "c"]
    circuits.succeeded("a")
    assert circuits.order(MODELS, 1e9) == ["b", "c"]


def test_where_all_are_gone_cloudflare_itself_says_so() -> None:
    circuits = Circuits()
    for model in MODELS:
        circuits.gone(model)
    assert circuits.order(MODELS, 0.0) == ["a"]


@pytest.mark.parametrize("happening", ["asked", "failed"])
def test_nothing_is_kept_of_a_healthy_model(happening: str) -> None:
    circuits = Circuits()
    getattr(circuits, happening)("a", 0.0)
    circuits.succeeded("a")
    assert vars(circuits) == vars(Circuits()) | {"_settings": vars(circuits)["_settings"]}


STEPS = st.tuples(st.sampled_from(("asked", "failed", "succeeded", "gone")), st.sampled_from(MODELS), st.floats(0, 9))


@given(st.lists(STEPS), st.lists(st.sampled_from(MODELS), min_size=1, unique=True))
def test_there_is_always_a_model_to_ask(steps: Sequence[tuple[str, str, float]], models: list[str]) -> None:
    circuits, now = Circuits(), 0.0
    for what, model, passing in steps:
        now += passing
        getattr(circuits, what)(*((model, now) if what in ("asked", "failed") else (model,)))
        order = circuits.order(models, now)
        assert order
        assert order == [model for model in models if model in order]
