"""Reasoning in the text: split from the answer at any cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import load, stream_bytes
from streams import events, read_stream

from cfchat.upstream.cloudflare.reply import ReplyReader


def split(texts: Sequence[str], thinks_first: bool = False) -> tuple[str, str]:
    """Return the answer and the reasoning of a stream of these texts."""
    reader = ReplyReader(2048, thinks_first)
    deltas = [delta for text in texts for delta in reader.read(events({"response": text}))]
    deltas += reader.read(events("[DONE]")) + reader.close(None)
    assert reader.answered == any(delta.text for delta in deltas)
    return "".join(delta.text for delta in deltas), "".join(delta.reasoning for delta in deltas)


@pytest.mark.parametrize(
    ("text", "thinks_first", "answer", "thought"),
    [
        ("<think>Hm.</think>\n\nYes <b> </think>", False, "Yes <b> </think>", "Hm."),
        ("\n <think>\nHm.\n</think>Yes", False, "Yes", "\nHm.\n"),
        ("<think></think>\n\n Yes", False, "Yes", ""),
        ("Hm.</think>Yes", True, "Yes", "Hm."),
        ("<think>Hm.</think>Yes", True, "Yes", "Hm."),
        ("Hm.</think>Yes", False, "Hm.</think>Yes", ""),
        ("Say <think>x</think>", False, "Say <think>x</think>", ""),
        ("  Yes  ", False, "  Yes  ", ""),
        ("<think>Hm. </thi", False, "", "Hm. </thi"),
        ("<thin", False, "<thin", ""),
        ("<thinner>", False, "<thinner>", ""),
        ("", True, "", ""),
        (" " * 100 + "<think>x", False, " " * 100 + "<think>x", ""),
    ],
)
def test_thoughts_in_the_text_at_any_cut(text: str, thinks_first: bool, answer: str, thought: str) -> None:
    assert split([text], thinks_first) == (answer, thought)
    assert split(list(text), thinks_first) == (answer, thought)
    for index in range(len(text)):
        assert split([text[:index], text[index:]], thinks_first) == (answer, thought)


def test_the_recorded_thoughts_without_an_opening_tag() -> None:
    expected, raw = load("streams", "classic_think_tag_unopened"), stream_bytes("classic_think_tag_unopened")
    for pieces in ([raw], [raw[index : index + 1] for index in range(len(raw))]):
        outcome = read_stream(pieces, thinks_first=True)
        assert (outcome.text, outcome.error) == (expected["visible"], None)
        assert outcome.reasoning == "Okay, the user says hi.\n"


@given(st.lists(st.sampled_from(("<think>", "</think>", "<", "</thi", "nk>", " ", "\n", "a", "ä"))), st.booleans())
def test_thoughts_and_answer_are_the_whole_but_for_tags_and_blanks(texts: list[str], thinks_first: bool) -> None:
    answer, thought = split(texts, thinks_first)
    whole = "".join(texts)
    if not thinks_first and not whole.lstrip().startswith("<think>"):
        assert (answer, thought) == (whole, "")
    else:
        behind = whole.lstrip().removeprefix("<think>") if whole.lstrip().startswith("<think>") else whole
        before, _, after = behind.partition("</think>")
        assert (answer, thought) == (after.lstrip(), before)


def test_an_answer_that_is_all_thought_says_so() -> None:
    reader = ReplyReader(9, thinks_first=True)
    reader.read(events({"response": "Hm."}, "[DONE]"))
    reader.close(None)
    assert reader.empty_error().message == "The model thought about it, but gave no answer."
