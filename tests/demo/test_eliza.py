"""ELIZA: her script, and what she answers by it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.demo.eliza import answer, read_script, reflect

# Words of the script itself reach more rules than letters at random do.
SCRIPTED = "I you my your am are me was want don't think if because mother sad hate of is joke xyzzy {0} , . I’m"
WORDS = st.sampled_from(SCRIPTED.split())
TURNS = st.lists(st.one_of(st.text(), st.lists(WORDS, max_size=12).map(" ".join)), max_size=8)


def talk(*turns: str) -> list[str]:
    """Return the answer to each turn of one conversation."""
    messages = [{"role": "system", "content": "You are a friendly assistant"}]
    said = []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        said.append(answer(messages))
        messages.append({"role": "assistant", "content": said[-1]})
    return said


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("Men are all alike.", "In what way?"),
        ("They're always bugging us about something or other.", "Can you think of a specific example?"),
        ("It's true that I'm unhappy", "I am sorry to hear that you are unhappy."),
        ("I need some rest, that much seems certain", "What would it mean to you if you got some rest?"),
        ("My mother takes care of me", "Who else in your family takes care of you?"),
        ("You are like my father in some ways", "Tell me more about your family."),
        ("You are not very aggressive", "What makes you think I am not very aggressive?"),
        ("Do you hate me?", "Why do you think I hate you?"),
        ("I REMEMBER Anna’s house", "Do you often think of Anna's house?"),
        ("I dreamt of you", "Really: of me?"),
        ("", "I am not sure I understand you fully."),
    ],
)
def test_one_turn(said: str, heard: str) -> None:
    assert talk(said) == [heard]


def test_a_turn_without_words_is_answered_each_time() -> None:
    assert len(set(talk(*[""] * 20))) == 6


def test_templates_are_used_in_turn() -> None:
    said = talk(*["because"] * 5)
    assert len(set(said)) == 4
    assert said[4] == said[0]


def test_it_goes_back_to_an_earlier_sentence() -> None:
    assert talk("my cat is ill", "xyzzy")[1] == "Let us go back to what you said: your cat is ill."


def test_asked_who_it_is_it_says_once_that_it_is_a_demo() -> None:
    first, second = talk("Who are you?", "no, what ARE you")
    assert "demo" in first
    assert second != first


def test_without_a_user_it_greets() -> None:
    assert answer([]) == answer([{"role": "system", "content": "x"}]) == read_script().greeting.answers[0]
    assert "demo" in answer([])


@pytest.mark.parametrize(
    ("part", "turned"),
    [
        ("my view of you", "your view of me"),
        ("you are my friend", "I am your friend"),
        ("what you think of me and myself", "what I think of you and yourself"),
        ("I am sure I was with you at Home", "you are sure you were with me at Home"),
        ("are you yours", "am I mine"),
        ("", ""),
    ],
)
def test_pronouns_turn_round(part: str, turned: str) -> None:
    assert reflect(part) == turned


def test_every_template_can_be_filled() -> None:
    script = read_script()
    patterns = [pattern for rule in script.rules for pattern in rule.patterns]
    assert len(patterns) > 50 and all(rule.patterns for rule in script.rules)
    for pattern in (*patterns, script.nothing, script.memory, script.greeting):
        assert pattern.answers
        for template in pattern.answers:
            assert template
            assert template.format("0", *"123456"[: pattern.regex.groups]), template


@given(TURNS)
def test_every_conversation_has_answers_and_always_the_same(turns: list[str]) -> None:
    said = talk(*turns)
    assert all(text.strip() and text.encode() for text in said)
    assert talk(*turns) == said
