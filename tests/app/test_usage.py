"""What a reply costs: Cloudflare's numbers, an estimate where it reported none, and the tries before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.app.usage import Tokens, Usage
from cfchat.conversation.model import Conversation, Delta, Message, ToolCall
from cfchat.conversation.prepare import estimate_tokens

MESSAGES = (Message("system", "Be brief"), Message("user", "Hello there"))
PROMPT = sum(map(estimate_tokens, MESSAGES))
REPORTED = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 9}


def usage() -> Usage:
    begun = Usage(Conversation(MESSAGES))
    begun.began = 1.0
    return begun


def test_nothing_said_costs_the_prompt() -> None:
    for begun in (usage(), Usage(Conversation(MESSAGES))):
        assert begun.tokens == Tokens(PROMPT, 0, PROMPT) and begun.estimated


TEXTS = st.sampled_from(["", "a", "words", "é😀", "x" * 100])
DELTAS = st.tuples(TEXTS, TEXTS, st.lists(TEXTS, max_size=2)).map(
    lambda made: Delta(made[0], reasoning=made[1], tool_calls=tuple(ToolCall(0, "", "", text) for text in made[2]))
)


@given(st.lists(st.lists(DELTAS, min_size=1, max_size=4)))
def test_an_estimate_counts_all_characters_however_they_are_batched(batches: list[list[Delta]]) -> None:
    one, other = usage(), usage()
    for batch in batches:
        one.add(batch)
        for delta in batch:
            other.add([delta])
    deltas = [delta for batch in batches for delta in batch]
    characters = sum(len(delta.text) + len(delta.reasoning) for delta in deltas)
    characters += sum(len(call.arguments) for delta in deltas for call in delta.tool_calls)
    assert one.tokens == other.tokens == Tokens(PROMPT, characters // 3, PROMPT + characters // 3)
    assert one.estimated and other.estimated


def test_reported_numbers_count_and_the_last_ones() -> None:
    counted = usage()
    counted.add([Delta("x" * 300, usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 1})])
    counted.add([Delta(finish_reason="stop", usage=REPORTED)])
    counted.add([Delta()])
    assert counted.tokens == Tokens(5, 2, 9) and not counted.estimated


@pytest.mark.parametrize(
    ("reported", "tokens"),
    [
        ({"completion_tokens": 2}, Tokens(PROMPT, 2, PROMPT + 2)),
        ({"prompt_tokens": 5}, Tokens(5, 100, 105)),
        ({"total_tokens": 7.0}, Tokens(PROMPT, 100, 7)),
        ({"prompt_tokens": "5", "completion_tokens": None}, Tokens(PROMPT, 100, PROMPT + 100)),
    ],
)
def test_what_is_not_reported_is_estimated(reported: dict[str, object], tokens: Tokens) -> None:
    counted = usage()
    counted.add([Delta("x" * 300, usage=reported)])
    assert counted.tokens == tokens


def test_failed_tries_are_added_to_the_reply() -> None:
    counted = usage()
    counted.lost += [(REPORTED, 0), ({}, 30)]
    counted.add([Delta("x" * 9, usage=REPORTED)])
    assert counted.tokens == Tokens(5 + PROMPT + 5, 2 + 10 + 2, 9 + PROMPT + 10 + 9) and counted.estimated
    counted.lost.pop()
    assert not counted.estimated


def test_where_no_words_came_only_the_failed_tries_count() -> None:
    counted = Usage(Conversation(MESSAGES))
    counted.lost.append((REPORTED, 0))
    assert counted.tokens == Tokens(5, 2, 9) and not counted.estimated
