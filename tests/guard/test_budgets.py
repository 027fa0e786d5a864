"""Daily budgets of tokens."""

from __future__ import annotations

import pytest
from guard_inputs import NOON

from cfchat.errors import BudgetSpent
from cfchat.guard.budgets import Budget


def test_a_budget_is_spent_and_renewed_at_midnight() -> None:
    budget = Budget(100)
    assert [budget.spend("a", tokens, NOON) for tokens in (79, 1, 10)] == [False, True, False]
    budget.check("a", NOON)
    assert not budget.spend("a", 10, NOON)
    with pytest.raises(BudgetSpent, match="00:00 UTC") as caught:
        budget.check("a", NOON + 1)
    assert caught.value.retry_after == 43199
    budget.check("b", NOON)
    budget.check("a", NOON + 43200)
    assert budget.spend("a", 80, NOON + 43200)


def test_a_table_of_budgets_is_bounded() -> None:
    budget = Budget(10, most=2)
    for name in ("a", "b", "c"):
        budget.spend(name, 10, NOON)
    budget.check("a", NOON)
    with pytest.raises(BudgetSpent):
        budget.check("c", NOON)
