"""The guard: its rules applied together."""

from __future__ import annotations

import pytest
from guard_inputs import KEY, NOON, fields

from cfchat.errors import BudgetSpent, RateLimited, Unauthorized
from cfchat.guard.guard import Guard, Settings
from cfchat.guard.keys import parse_keys
from cfchat.guard.limits import Rate


def test_a_key_is_counted_by_its_label_and_others_by_their_address() -> None:
    guard = Guard(Settings(keys=parse_keys(f"laptop {KEY}")))
    asker = guard.admit(guard.identify(fields(authorization=f"Bearer {KEY}")), "1.2.3.4", 0.0, NOON)
    assert (asker.label, asker.name, asker.fields) == ("laptop", "key laptop", [])
    assert Guard().admit("", "2001:db8::1", 0.0, NOON).name == "2001:db8::/64"


def test_budgets_of_all_and_of_each() -> None:
    guard = Guard(Settings(daily_tokens=100, daily_tokens_each=50))
    one = guard.admit("", "1.1.1.1", 0.0, NOON)
    assert guard.settle(one, guard.reserve(one, 1, 9, NOON), 50, NOON) == ["1.1.1.1"]
    with pytest.raises(BudgetSpent):
        guard.admit("", "1.1.1.1", 0.0, NOON)
    two = guard.admit("", "2.2.2.2", 0.0, NOON)
    assert guard.settle(two, guard.reserve(two, 1, 9, NOON), 49, NOON) == ["all together", "2.2.2.2"]
    guard.settle(two, guard.reserve(two, 1, 0, NOON), 1, NOON)
    with pytest.raises(BudgetSpent):
        guard.admit("", "3.3.3.3", 0.0, NOON)


def test_what_one_budget_refuses_is_not_held_by_another() -> None:
    guard = Guard(Settings(daily_tokens=100, daily_tokens_each=50))
    one, two = (guard.admit("", address, 0.0, NOON) for address in ("1.1.1.1", "2.2.2.2"))
    held = guard.reserve(one, 10, 30, NOON)
    with pytest.raises(BudgetSpent):
        guard.reserve(one, 10, 1, NOON)
    with pytest.raises(BudgetSpent):
        guard.reserve(two, 51, 1, NOON)
    guard.reserve(two, 10, 40, NOON)
    three = guard.admit("", "3.3.3.3", 0.0, NOON)
    guard.reserve(three, 5, 5, NOON)
    assert guard.settle(one, held, 0, NOON) == []
    guard.reserve(one, 10, 30, NOON)


def test_a_wrong_key_takes_nothing_from_the_rate() -> None:
    guard = Guard(Settings(keys=parse_keys(f"laptop {KEY}"), rate=Rate(1, 60)))
    for _ in range(3):
        with pytest.raises(Unauthorized):
            guard.admit(guard.identify(fields()), "1.1.1.1", 0.0, NOON)
    guard.admit(guard.identify(fields(authorization=f"Bearer {KEY}")), "1.1.1.1", 0.0, NOON)
    with pytest.raises(RateLimited):
        guard.admit(guard.identify(fields(authorization=f"Bearer {KEY}")), "9.9.9.9", 0.0, NOON)
