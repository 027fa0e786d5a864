"""Fields that are passed on: to the letter, or refused."""

from __future__ import annotations

import json
import sys
from math import isinf
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.conversation.parse import without_surrogates
from cfchat.conversation.passed import MOST_LEVELS, Passed, check_passed, texts_of
from cfchat.errors import BadOption

TEXTS = ("", "a", "\\", "\\ud83d", "\ud83d\ude00", "\ud83d", "\ude00")
LEAVES = st.sampled_from([*TEXTS, 0, 1.5, None, True, 1e999, -1e999])
KEYS = st.sampled_from(["k", "\\\\", "\\udc00", "\udc00", "😀"])
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


def refused(value: object, text: str = "") -> bool:
    try:
        check_passed(value, text, "tools")
    except BadOption:
        return True
    return False


def slowly(value: Any) -> Any:
    """The slow way: the value with each half of a character replaced; raises ValueError if a number is infinite."""
    if isinstance(value, dict):
        return {slowly(key): slowly(item) for key, item in value.items()}
    if isinstance(value, list):
        return [slowly(item) for item in value]
    if isinstance(value, float) and isinf(value):
        raise ValueError
    return without_surrogates(value) if isinstance(value, str) else value


@given(TREES, st.booleans())
def test_what_cannot_be_sent_is_replaced_or_refused(tree: object, upper: bool) -> None:
    text = json.dumps(tree).replace("Infinity", "1e999")
    text = text.replace("\\ud", "\\uD") if upper else text
    value = json.loads(text)
    try:
        wanted = slowly(value)
    except ValueError:
        assert refused(value, text)
    else:
        sent = check_passed(value, text, "tools")
        assert json.loads(sent) == wanted and (sent == text) == (wanted == value)


def nested(levels: int) -> Any:
    value: object = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


def test_levels_are_counted() -> None:
    assert not refused(nested(MOST_LEVELS - 1))
    with pytest.raises(BadOption, match="too deeply"):
        check_passed(nested(MOST_LEVELS), "", "tools")


def test_the_work_grows_with_levels_not_with_values() -> None:
    """A call of Python for each value would take ten times as long as decoding them."""

    def work(value: object) -> int:
        calls = 0

        def note(frame: FrameType, event: str, _: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            assert not refused(value)
        finally:
            sys.setprofile(None)
        return calls

    for item in ([], {"a": [1.5]}, ["x", 1], "x"):
        assert work([item] * 10_000) <= work([item] * 10) + 10


def test_a_text_goes_on_to_the_letter() -> None:
    passed = Passed({"tools": '[ 3.10,{"a":12345678901234567890} ]'})
    assert passed == {"tools": [3.1, {"a": 12345678901234567890}]} and len(passed) == 1
    assert texts_of(passed)["tools"] == '[ 3.10,{"a":12345678901234567890} ]'
    assert texts_of({**passed, "stop": "\ud83d"}) == {"tools": '[3.1,{"a":12345678901234567890}]', "stop": '"\ufffd"'}
