"""System messages, default options and trimming."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from conversations import ROUND, TALKS
from hypothesis import given
from hypothesis import strategies as st
from pictures import PNG

from cfchat.conversation.images import Image
from cfchat.conversation.model import Conversation, Message, Options
from cfchat.conversation.prepare import estimate, estimate_tokens, in_turns, trim, with_defaults, with_system

HI = (Message("user", "Hi"),)


@given(ROUND, st.text())
def test_there_is_one_leading_system_message(messages: list[Message], prompt: str) -> None:
    conversation = with_system(Conversation(tuple(messages)), prompt)
    own = [message.content for message in messages if message.role == "system" and message.content]
    text = "\n\n".join([prompt, *own] if prompt else own)
    rest = tuple(message for message in messages if message.role != "system")
    if "user" not in [message.role for message in rest]:
        rest = (Message("user", "Go on."), *rest)
    assert conversation.messages == ((Message("system", text), *rest) if text else rest)


def test_with_system_keeps_the_options() -> None:
    options = Options()
    assert with_system(Conversation(HI, options), "Be kind.").options is options


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.text("ab"))))
def test_in_turns_no_neighbours_have_one_role_and_no_text_is_lost(said: list[tuple[str, str]]) -> None:
    before = with_system(Conversation(tuple(Message(*it) for it in said)), "Be kind.")
    after = in_turns(before).messages
    roles = [message.role for message in after]
    assert all(role != following or role == "tool" for role, following in pairwise(roles))
    assert roles[0] == "system" and roles[1] != "assistant"
    words, expected = (
        [word for it in messages for word in it.content.split("\n\n") if word not in ("", "Go on.")]
        for messages in (after, before.messages)
    )
    assert words == expected
    assert in_turns(Conversation(after)).messages == after


def test_results_of_tools_stay_by_themselves() -> None:
    calls = [{"id": name} for name in "ab"]
    results = tuple(Message("tool", "x", tool_call_id=name) for name in "ab")
    asked = (*HI, Message("assistant", "I look it up.", (calls[0],)), Message("assistant", "", (calls[1],)), *results)
    joined = Message("assistant", "I look it up.", tuple(calls))
    assert in_turns(Conversation(asked)).messages == (*HI, joined, *results)


def test_defaults_fill_the_open_options() -> None:
    asked = Conversation(HI, Options(temperature=0.0, seed=1))
    assert with_defaults(asked, Options(temperature=1.0, top_p=0.5)) == Conversation(
        HI, Options(temperature=0.0, top_p=0.5, seed=1)
    )
    assert with_defaults(asked, Options()) is asked
    assert with_defaults(asked, Options(seed=2)) is asked


def tokens(messages: Sequence[Message]) -> int:
    return sum(map(estimate_tokens, messages))


def test_an_estimate_is_rather_too_high() -> None:
    # About 10, 6 and 9 tokens of common tokenizers.
    for text, real in (("The quick brown fox jumps over the lazy dog.", 10), ("こんにちは世界", 6), ("é" * 9, 9)):
        assert real <= estimate_tokens(Message("user", text)) <= 3 * real
    assert estimate_tokens(Message("user", "")) > 0


def test_all_that_goes_upstream_is_in_the_estimate() -> None:
    hello = estimate(Conversation(HI))
    assert hello == tokens(HI)
    tool = {"type": "function", "function": {"name": "f", "description": "é" * 3000}}
    assert 2000 <= estimate(Conversation(HI, passed={"tools": [tool]})) - hello <= 2050
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["\ud800"] * 1000}}}
    assert 1999 <= estimate(Conversation(HI, passed={"response_format": schema})) - hello <= 2050
    call = {"id": "i" * 300, "type": "function", "function": {"name": "f", "arguments": "a" * 300}}
    assert estimate_tokens(Message("assistant", "", (call,))) >= 200
    assert estimate_tokens(Message("tool", "", tool_call_id="i" * 300)) >= 100


def test_an_image_costs_as_much_as_the_dearest_model_takes_for_one() -> None:
    question = estimate_tokens(Message("user", "What is this?"))
    assert estimate_tokens(Message("user", "What is this?", images=(Image(PNG), Image(PNG)))) == question + 2 * 4096


def test_tools_take_their_part_of_the_window() -> None:
    talk = (Message("user", "u" * 300), Message("assistant", "a"), Message("user", "last"))
    conversation = Conversation(talk, passed={"tools": ["t" * 300]})
    assert trim(conversation, estimate(conversation))[1] == 0
    assert trim(conversation, estimate(conversation) - 1) == (Conversation(talk[2:], passed=conversation.passed), 2)


def test_the_oldest_turns_go_first() -> None:
    system, talk = Message("system", "s"), [Message("user", "u"), Message("assistant", "a" * 30)]
    conversation = Conversation((system, *talk, *talk, Message("user", "last")))
    whole = tokens(conversation.messages)
    assert trim(conversation, whole) == (conversation, 0)
    assert trim(conversation, whole - 1) == (Conversation((system, *talk, Message("user", "last"))), 2)
    assert trim(conversation, whole - tokens(talk)) == (Conversation((system, *talk, Message("user", "last"))), 2)
    for budget in (whole - tokens(talk) - 1, 0, -5):
        assert trim(conversation, budget) == (Conversation((system, Message("user", "last"))), 4)


@given(TALKS, st.integers(-50, 300))
def test_trim_leaves_the_longest_tail_of_turns_that_fits(messages: list[Message], budget: int) -> None:
    conversation = Conversation(tuple(messages), Options(seed=1))
    trimmed, left_out = trim(conversation, budget)
    assert trimmed.options == conversation.options
    assert left_out == len(messages) - len(trimmed.messages)
    starts = [index for index, message in enumerate(messages) if message.role == "user"]
    tails = [
        [message for index, message in enumerate(messages) if index >= start or message.role == "system"]
        for start in starts
    ]
    fitting = [tail for tail in [messages, *tails] if tokens(tail) <= budget]
    assert list(trimmed.messages) == [*fitting, *tails[-1:], messages][0]
