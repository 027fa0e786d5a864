"""What a reply costs: Cloudflare's numbers, an estimate where it reported none, and the tries before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.app.usage import ReplyUsage, Tokens
from cfchat.upstream.cloudflare.usage import Cost

PROMPT, LONGEST = 30, 1000
REPORTED = Cost(5, 2, 9)


def of(*costs: Cost) -> ReplyUsage:
    usage = ReplyUsage(PROMPT, LONGEST)
    for cost in costs:
        usage.add(cost)
    return usage


def test_a_request_that_was_neither_answered_nor_refused_costs_its_question() -> None:
    for usage in (of(), of(Cost())):
        assert usage.tokens == Tokens(PROMPT, 0, PROMPT) and usage.estimated and not usage.impossible
    assert (of().tries, of(Cost()).tries) == (0, 1)


@pytest.mark.parametrize(
    ("cost", "tokens", "estimated"),
    [
        (REPORTED, Tokens(5, 2, 9), False),
        (Cost(5, 2), Tokens(5, 2, 7), False),
        (Cost(completion=2), Tokens(PROMPT, 2, PROMPT + 2), False),
        (Cost(completion=2, total=60), Tokens(58, 2, 60), False),
        (Cost(total=60), Tokens(PROMPT, 30, 60), False),
        (Cost(total=7), Tokens(PROMPT, 0, 7), False),
        (Cost(5, unreported=300), Tokens(5, 100, 105), True),
        (Cost(unreported=300), Tokens(PROMPT, 100, PROMPT + 100), True),
        (Cost(unreported=2), Tokens(PROMPT, 0, PROMPT), True),
        (Cost(5, 2, 9, unreported=31), Tokens(5, 12, 19), True),
        (Cost(unreported=9999), Tokens(PROMPT, LONGEST, PROMPT + LONGEST), True),
        (Cost(5, 900, 905, unreported=9999), Tokens(5, LONGEST, 1005), True),
        # What AI Search has found is read, too: of 3000 bytes, which may be 3000 tokens.
        (Cost(unreported=300, found=3000), Tokens(PROMPT + 1000, 100, PROMPT + 1100), True),
        (Cost(3090, 2, 3092, found=3000), Tokens(3090, 2, 3092), False),
    ],
)
def test_what_is_not_reported_follows_or_is_estimated(cost: Cost, tokens: Tokens, estimated: bool) -> None:
    usage = of(cost)
    assert (usage.tokens, usage.estimated, usage.impossible) == (tokens, estimated, False)


@pytest.mark.parametrize(
    ("cost", "tokens"),
    [
        (Cost(91, 2, 93), Tokens(90, 2, 93)),
        (Cost(5, 1001), Tokens(5, 1000, 1006)),
        (Cost(10**14, 10**14), Tokens(90, 1000, 1090)),
        (Cost(total=10**14), Tokens(PROMPT, 1000, 1090)),
        (Cost(completion=2, total=10**14), Tokens(90, 2, 1090)),
        (Cost(5, 2, total=10**14, unreported=300), Tokens(5, 102, 1090)),
    ],
)
def test_more_than_was_asked_for_is_capped(cost: Cost, tokens: Tokens) -> None:
    usage = of(cost)
    assert usage.tokens == tokens and usage.impossible
    assert of(cost, REPORTED).impossible and of(REPORTED, cost).impossible


def test_tries_are_added_up() -> None:
    usage = of(REPORTED, Cost(unreported=30), Cost(1, 1, 1))
    assert (usage.tokens, usage.estimated) == (Tokens(5 + PROMPT + 1, 2 + 10 + 1, 9 + PROMPT + 10 + 1), True)
    assert not of(REPORTED, REPORTED).estimated and of(Cost(), REPORTED).estimated


def test_neurons_are_added_up_and_none_are_none() -> None:
    assert of().neurons is None and of(REPORTED).neurons is None
    assert of(Cost(neurons=0.5), REPORTED, Cost(neurons=0.25)).neurons == 0.75
    assert of(Cost(neurons=0.0)).neurons == 0.0


NUMBERS = st.none() | st.integers(0, 10**15)


COUNTS = st.integers(0, 10**6)


@given(st.lists(st.builds(Cost, NUMBERS, NUMBERS, NUMBERS, st.none(), COUNTS, COUNTS), min_size=1, max_size=4))
def test_no_numbers_cost_more_than_what_is_possible(costs: list[Cost]) -> None:
    tokens, tries, found = of(*costs).tokens, len(costs), sum(cost.found for cost in costs)
    assert 0 <= tokens.prompt <= 3 * PROMPT * tries + found and 0 <= tokens.completion <= LONGEST * tries
    assert 0 <= tokens.total <= (3 * PROMPT + LONGEST) * tries + found
