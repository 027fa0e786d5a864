"""Daily budgets of tokens."""

from __future__ import annotations

import pytest
from guard_inputs import NOON
from hypothesis import given
from hypothesis import strategies as st

from cfchat.errors import DAY, BudgetSpent
from cfchat.guard.budgets import SOON, Budget

MIDNIGHT = NOON + DAY / 2


def spend(budget: Budget, name: str, tokens: int, now: float = NOON) -> bool:
    return budget.settle(name, budget.reserve(name, 1, 0, now), tokens, now)


def test_a_budget_is_spent_and_renewed_at_midnight() -> None:
    budget = Budget(100)
    assert [spend(budget, "a", tokens) for tokens in (79, 1, 10)] == [False, True, False]
    budget.check("a", NOON)
    assert not spend(budget, "a", 10)
    with pytest.raises(BudgetSpent, match="00:00 UTC") as caught:
        budget.check("a", NOON + 1)
    assert caught.value.retry_after == 43199
    budget.check("b", NOON)
    budget.check("a", MIDNIGHT)
    assert spend(budget, "a", 80, MIDNIGHT)


def test_what_is_held_is_not_given_again() -> None:
    budget = Budget(100)
    first = budget.reserve("a", 10, 50, NOON)
    assert first == 60
    with pytest.raises(BudgetSpent, match="under way") as caught:
        budget.reserve("a", 10, 31, NOON)
    assert caught.value.retry_after == SOON
    second = budget.reserve("a", 10, 30, NOON)
    with pytest.raises(BudgetSpent, match="under way"):
        budget.check("a", NOON)
    budget.check("b", NOON)
    assert not budget.settle("a", first, 5, NOON)
    with pytest.raises(BudgetSpent, match="may take 96 of today's tokens, and 95 are left") as caught:
        budget.reserve("a", 6, 90, NOON)
    assert caught.value.retry_after == MIDNIGHT - NOON
    budget.settle("a", second, 0, NOON)
    assert budget.reserve("a", 5, 90, NOON) == 95 and "a" in budget._held
    budget.settle("a", 95, 95, NOON)
    assert not budget._held


def test_a_reply_that_may_be_longer_than_the_budget_holds_all_of_it_and_a_question_must_fit() -> None:
    budget = Budget(100)
    with pytest.raises(BudgetSpent):
        budget.reserve("a", 101, 1, NOON)
    assert budget.reserve("a", 100, 2000, NOON) == 100
    assert Budget(100).reserve("a", 1, 2000, NOON) == 100


def test_what_is_held_over_midnight_is_held() -> None:
    budget = Budget(100)
    held = budget.reserve("a", 10, 80, MIDNIGHT - 1)
    with pytest.raises(BudgetSpent, match="under way"):
        budget.reserve("a", 10, 80, MIDNIGHT + 1)
    assert not budget.settle("a", held, 40, MIDNIGHT + 1)
    assert budget.reserve("a", 10, 50, MIDNIGHT + 1) == 60


@pytest.mark.parametrize("back", [2, 3600, DAY / 2])
def test_a_clock_set_back_over_midnight_renews_nothing(back: float) -> None:
    budget, now = Budget(100), MIDNIGHT + 1
    spend(budget, "a", 100, now)
    with pytest.raises(BudgetSpent) as caught:
        budget.check("a", now - back)
    assert caught.value.retry_after == pytest.approx(DAY - 1 + back)
    for later in (now, now + DAY - 2):  # it comes to the same midnight again
        with pytest.raises(BudgetSpent):
            budget.check("a", later)
    budget.check("a", now + DAY)


def test_a_clock_that_was_days_ahead_renews_the_budget_at_the_next_right_midnight() -> None:
    budget = Budget(100)
    spend(budget, "a", 100, NOON + 365 * DAY)
    with pytest.raises(BudgetSpent) as caught:
        budget.check("a", NOON)
    assert caught.value.retry_after == MIDNIGHT - NOON
    budget.check("a", MIDNIGHT)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60), st.integers(0, 60), st.floats(0, 1))))
def test_never_more_than_the_budget(steps: list[tuple[int, int, int, float]]) -> None:
    """Replies overlap as they like, and each costs a part of what it may."""
    budget, running, spent = Budget(100), list[tuple[int, float]](), 0
    for over, question, reply, part in steps:
        for held, used in running[:over]:
            spent += int(held * used)
            budget.settle("a", held, int(held * used), NOON)
        del running[:over]
        try:
            running.append((budget.reserve("a", question, reply, NOON), part))
        except BudgetSpent:
            assert spent + sum(held for held, _ in running) + question + reply > 100
        assert spent + sum(held for held, _ in running) <= 100


def test_a_table_of_budgets_is_bounded() -> None:
    budget = Budget(10, most=2)
    for name in ("a", "b", "c"):
        spend(budget, name, 10)
    budget.check("a", NOON)
    with pytest.raises(BudgetSpent):
        budget.check("c", NOON)
