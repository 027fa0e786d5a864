"""Which models to ask: decision by decision, then after any steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.upstream.circuits import Circuits, Settings

MODELS = ("a", "b", "c")


def failing(circuits: Circuits, model: str, clients: Sequence[str], now: float = 0.0) -> list[bool]:
    """Return what `failed` returns for failures of these clients in a row."""
    return [circuits.failed(model, client, now) for client in clients]


def test_all_are_healthy_at_first() -> None:
    assert Circuits().order(MODELS, "x", 0.0) == ["a", "b", "c"]


def test_failures_of_three_clients_in_a_row_open_a_circuit_once() -> None:
    circuits = Circuits()
    assert failing(circuits, "a", "xyxy") == [False] * 4
    assert circuits.order(MODELS, "x", 0.0) == ["a", "b", "c"]
    assert failing(circuits, "a", "zw") == [True, False]
    assert circuits.order(MODELS, "x", 0.0) == circuits.order(MODELS, "new", 0.0) == ["b", "c"]


def test_failures_of_one_client_move_nobody_else() -> None:
    circuits = Circuits()
    assert not any(failing(circuits, "a", "xxxxx"))
    assert circuits.order(MODELS, "x", 0.0) == ["b", "c"]
    assert circuits.order(MODELS, "y", 0.0) == ["a", "b", "c"]
    assert circuits.order(MODELS, "x", 10.0) == ["a", "b", "c"]
    circuits.asked("a", "x", 10.0)
    assert circuits.order(MODELS, "x", 10.0) == ["b", "c"]
    circuits.succeeded("a")  # for whichever client
    assert circuits.order(MODELS, "x", 10.0) == ["a", "b", "c"]


def test_an_answer_between_failures_starts_the_count_again() -> None:
    circuits = Circuits()
    failing(circuits, "a", "xy")
    circuits.succeeded("a")
    assert failing(circuits, "a", "xyz") == [False, False, True]


def test_an_open_circuit_is_tried_by_one_request() -> None:
    circuits = Circuits(Settings(failures=1, rest=10.0))
    failing(circuits, "a", "x")
    assert circuits.order(MODELS, "y", 9.9) == ["b", "c"]
    assert circuits.order(MODELS, "y", 10.0) == ["a", "b", "c"]
    circuits.asked("a", "y", 10.0)
    assert circuits.order(MODELS, "z", 10.0) == ["b", "c"]  # for all others, until it is known how that went
    assert circuits.order(MODELS, "z", 20.0) == ["a", "b", "c"]  # or it was never known
    circuits.succeeded("a")
    assert circuits.order(MODELS, "x", 10.1) == ["a", "b", "c"]


def test_a_trial_that_fails_leaves_it_open() -> None:
    circuits = Circuits(Settings(failures=2, rest=10.0))
    failing(circuits, "a", "xy")
    circuits.asked("a", "z", 10.0)
    assert failing(circuits, "a", "z", now=15.0) == [False]
    assert circuits.order(MODELS, "x", 24.9) == ["b", "c"]
    assert circuits.order(MODELS, "x", 25.0) == ["a", "b", "c"]


def test_with_none_healthy_the_one_that_is_asked_again_first_is_asked() -> None:
    circuits = Circuits(Settings(failures=1))
    for model in MODELS:
        circuits.failed(model, "x", 0.0)
    assert circuits.order(MODELS, "x", 0.0) == ["a"]
    circuits.asked("a", "x", 1.0)
    assert circuits.order(MODELS, "x", 1.0) == ["b"]
    circuits.gone("b", 1.0)
    assert circuits.order(MODELS, "x", 1.0) == ["c"]


def test_a_model_that_is_gone_is_asked_again_after_an_hour() -> None:
    circuits = Circuits()
    assert [circuits.gone("a", now) for now in (0.0, 1.0, 3600.0)] == [True, False, False]
    assert circuits.order(MODELS, "x", 7199.9) == ["b", "c"]
    assert circuits.order(MODELS, "x", 7200.0) == ["a", "b", "c"]
    assert circuits.gone("a", 7200.0)


@pytest.mark.parametrize("seen", [lambda these: these.listed(["z", "a"]), lambda these: these.succeeded("a")])
def test_or_earlier_where_it_is_seen_to_exist(seen: Callable[[Circuits], None]) -> None:
    circuits = Circuits()
    circuits.gone("a", 0.0)
    circuits.gone("b", 0.0)
    seen(circuits)
    assert circuits.order(MODELS, "x", 1.0) == ["a", "c"]


def test_where_all_are_gone_cloudflare_itself_says_so() -> None:
    circuits = Circuits()
    for model in MODELS:
        circuits.gone(model, 0.0)
    assert circuits.order(MODELS, "x", 0.0) == ["a"]


@pytest.mark.parametrize("happening", ["asked", "failed"])
def test_nothing_is_kept_of_a_healthy_model(happening: str) -> None:
    circuits = Circuits()
    getattr(circuits, happening)("a", "x", 0.0)
    circuits.succeeded("a")
    assert vars(circuits) == vars(Circuits()) | {"_settings": vars(circuits)["_settings"]}


def test_no_table_grows_with_the_clients() -> None:
    circuits = Circuits()
    failing(circuits, "a", [str(number) for number in range(1000) for _ in range(3)])
    assert [len(circuits._failures["a"]), len(circuits._open_until)] == [3, 4]


STEPS = st.tuples(st.sampled_from(("asked", "failed", "succeeded", "gone")), st.sampled_from(MODELS),
                  st.sampled_from("wxyz"), st.floats(0, 1500))  # fmt: skip


@given(st.lists(STEPS), st.lists(st.sampled_from(MODELS), min_size=1, unique=True))
def test_there_is_always_a_model_to_ask(
    steps: Sequence[tuple[str, str, str, float]], models: list[str]
) -> None:
    circuits, now = Circuits(), 0.0
    for what, model, client, passing in steps:
        now += passing
        more = {"asked": (client, now), "failed": (client, now), "gone": (now,), "succeeded": ()}[what]
        getattr(circuits, what)(model, *more)
        order = circuits.order(models, client, now)
        assert order
        assert order == [model for model in models if model in order]
        assert circuits.order(models, client, now + 3600.0) == models
