"""Reasoning in the text: split from the answer at any cut, and told from the answer by what the reply shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import permutations
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import load, stream_bytes
from streams import events, read_stream

from cfchat.errors import UpstreamEndless
from cfchat.upstream.cloudflare.reply import ReplyReader
from cfchat.upstream.cloudflare.thoughts import Thoughts


def read(*replies: object, thinks_first: bool = True, json_mode: bool = False) -> tuple[str, str]:
    """Return the answer and the reasoning of a stream of these events."""
    reader = ReplyReader(2048, thinks_first, False, json_mode)
    deltas = [delta for reply in replies for delta in reader.read(events(reply))]
    deltas += reader.read(events("[DONE]")) + reader.close(None)
    assert reader.answered == any(delta.text for delta in deltas)
    return "".join(delta.text for delta in deltas), "".join(delta.reasoning for delta in deltas)


def split(texts: Sequence[str], thinks_first: bool = False, json_mode: bool = False) -> tuple[str, str]:
    return read(*({"response": text} for text in texts), thinks_first=thinks_first, json_mode=json_mode)


def split_anywhere(text: str, thinks_first: bool = False, json_mode: bool = False) -> tuple[str, str]:
    """Return what all cuts of the text give."""
    whole = split([text], thinks_first, json_mode)
    assert split(list(text), thinks_first, json_mode) == whole
    for index in range(len(text)):
        assert split([text[:index], text[index:]], thinks_first, json_mode) == whole
    return whole


HARMONY = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes"


@pytest.mark.parametrize(
    ("text", "thinks_first", "answer", "thought"),
    [
        ("<think>Hm.</think>\n\nYes <b> </think>", False, "Yes <b> </think>", "Hm."),
        ("\n <think>\nHm.\n</think>Yes", False, "Yes", "\nHm.\n"),
        ("<think></think>\n\n Yes", False, "Yes", ""),
        ("<think>Hm.</think>\n<think>So.</think>\nYes", False, "Yes", "Hm.So."),
        ("<think>Hm.</think></think>\nYes", False, "Yes", "Hm."),
        ("Hm.</think>Yes", True, "Yes", "Hm."),
        ("<think>Hm.</think>Yes", True, "Yes", "Hm."),
        ("Hm.</think>\n</think>Yes", True, "Yes", "Hm."),
        ("Yes", True, "Yes", ""),
        ("  Yes </thin", True, "  Yes </thin", ""),
        ("</think>\n\nYes", True, "Yes", ""),
        ("</think>\n\nYes", False, "Yes", ""),
        (" \n</think></think>Yes </think>", False, "Yes </think>", ""),
        ("Hm.</think>Yes", False, "Hm.</think>Yes", ""),
        ("Say <think>x</think>", False, "Say <think>x</think>", ""),
        ("  Yes  ", False, "  Yes  ", ""),
        ("<think>Hm. </thi", False, "", "Hm. </thi"),
        ("<thin", False, "<thin", ""),
        ("<thinner>", False, "<thinner>", ""),
        ("</thin", True, "</thin", ""),
        ("", True, "", ""),
        (" " * 100 + "<think>x", False, " " * 100 + "<think>x", ""),
        ("<|channel>thought\n<channel|>Yes", False, "Yes", ""),
        ("<|channel>thought\nHm.<channel|>\nYes", False, "Yes", "Hm."),
        (HARMONY, False, "Yes", "Hm."),
        ("<|channel|>final<|message|>Yes", False, "Yes", ""),
        ("<|channels|>", False, "<|channels|>", ""),
    ],
)
def test_thoughts_in_the_text_at_any_cut(text: str, thinks_first: bool, answer: str, thought: str) -> None:
    assert split_anywhere(text, thinks_first) == (answer, thought)
    body = json.dumps({"result": {"response": text}}).encode()
    deltas = ReplyReader(9, thinks_first).read_json(body) if answer else []
    assert "".join(delta.text for delta in deltas) == answer


def test_the_recorded_thoughts_without_an_opening_tag() -> None:
    expected, raw = load("streams", "classic_think_tag_unopened"), stream_bytes("classic_think_tag_unopened")
    for pieces in ([raw], [raw[index : index + 1] for index in range(len(raw))]):
        outcome = read_stream(pieces, 2048, True)
        assert (outcome.text, outcome.error) == (expected["visible"], None)
        assert outcome.reasoning == "Okay, the user says hi.\n"


def slow_split(text: str, thinks_first: bool, keeps_blanks: bool = True) -> tuple[str, str]:
    """Split a whole text."""
    bare = text.lstrip()
    if bare.startswith("<think>"):
        thought, tag, rest = bare.removeprefix("<think>").partition("</think>")
    elif bare.startswith("</think>"):
        thought, tag, rest = "", "</think>", bare.removeprefix("</think>")
    elif thinks_first and "</think>" in text:
        thought, tag, rest = text.partition("</think>")
    else:
        return text if keeps_blanks else bare, ""
    answer, more = slow_split(rest, False, keeps_blanks=False) if tag else ("", "")
    return answer, thought + more


CRUMBS = st.lists(st.sampled_from(("<think>", "</think>", "<", "</thi", "nk>", " ", "\n", "a", "ä")))


@given(CRUMBS, st.booleans())
def test_thoughts_and_answer_are_those_of_the_whole_text(texts: list[str], thinks_first: bool) -> None:
    assert split(texts, thinks_first) == slow_split("".join(texts), thinks_first)


# --- what shows that a text is no thought ---------------------------------------------------------

FIELDS = ({"reasoning": "Hm."}, {"choices": [{"delta": {"reasoning_content": "Hm."}}]}, {"reasoning_content": "Hm."})


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("text", ["\n\nYes </think>", "</think>\nYes </think>", "Yes </think>"])
def test_reasoning_in_a_field_makes_the_text_the_answer(field: dict[str, object], text: str) -> None:
    letters = [{"response": letter} for letter in text]
    for thinks_first in (True, False):
        assert read(field, *letters, thinks_first=thinks_first) == ("Yes </think>", "Hm.")
        assert read(field, {"response": text}, thinks_first=thinks_first) == ("Yes </think>", "Hm.")


def test_a_field_in_any_place() -> None:
    for order in permutations([{"response": "\nYes"}, {"response": "!"}, {"reasoning": "Hm."}]):
        said = "".join(event.get("response", "") for event in order)
        assert read(*order) == (said.lstrip(), "Hm.")
    for order in permutations([{"response": "\n\n"}, {"reasoning": "Hm."}]):
        assert read(*order) == ("", "Hm.")


@pytest.mark.parametrize("nothing", [None, "", 0, [], {"effort": "low"}])
def test_an_empty_field_shows_nothing(nothing: object) -> None:
    assert read({"response": "Hm.", "reasoning": nothing}, {"response": "</think>Yes"}) == ("Yes", "Hm.")


def test_a_call_makes_the_words_before_it_the_answer_at_once() -> None:
    reader = ReplyReader(9, thinks_first=True, tools=True)
    assert reader.read(events({"response": "I look "}, {"response": "it up.</th"})) == []
    assert reader.unsure == 13
    (delta,) = reader.read(events({"tool_calls": [{"name": "f", "arguments": {}}]}))
    assert (delta.text, [call.name for call in delta.tool_calls]) == ("I look it up.</th", ["f"])
    assert reader.unsure == 0


@pytest.mark.parametrize("text", ['{"a":"</think>"}', '\n["</think>"]', '{"a":"<think>"}'])
def test_json_in_json_mode_is_never_a_thought(text: str) -> None:
    assert split_anywhere(text, thinks_first=True, json_mode=True) == (text, "")
    assert split_anywhere(f"Hm.</think>{text}", thinks_first=True, json_mode=True) == (text.lstrip(), "Hm.")


@pytest.mark.parametrize("value", [{"a": "</think>"}, [1], 7, True, "Yes"])
def test_any_json_that_came_parsed(value: object) -> None:
    body = json.dumps({"result": {"response": value}}).encode()
    text = "".join(delta.text for delta in ReplyReader(9, True, False, True).read_json(body))
    assert text == (value if isinstance(value, str) else json.dumps(value, separators=(",", ":")))


def test_no_text_is_held_back_for_ever() -> None:
    reader, piece = ReplyReader(9, thinks_first=True), {"response": "a" * (1 << 16)}
    assert [reader.read(events(piece)) for _ in range(4)] == [[]] * 4
    with pytest.raises(UpstreamEndless):
        reader.read(events(piece))
    assert reader.unsure == 5 << 16


@pytest.mark.parametrize("tags", ["</think>", "<think>a</think>", "<think>\n</think>\n"])
def test_the_work_is_linear_in_the_tags(tags: str) -> None:
    """In 16 times as many tags it takes far less than 256 times as long, by the clock of the process."""
    took = []
    for count in (1 << 11, 1 << 15):
        text = tags * count
        began = process_time()
        Thoughts(thinks_first=False).split(text)
        took.append(process_time() - began)
    assert took[1] < 48 * took[0]
