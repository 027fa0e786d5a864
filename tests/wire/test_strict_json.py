"""Strict JSON: nothing that other programs cannot read, and numbers as they were written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.wire.strict_json import TooManyMembers, decode, decode_first, decode_literals, decode_members, encode

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


@given(VALUES)
def test_encoded_values_come_back_from_one_line(value: object) -> None:
    text = encode(value)
    assert "\n" not in text and "\r" not in text
    assert decode(text) == value
    assert decode_first(text + " more") == (value, len(text))


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_constants_of_python_are_refused(name: str) -> None:
    for read in (decode, decode_first, decode_literals):
        with pytest.raises(ValueError):
            read(name)
    with pytest.raises(ValueError):
        encode(float(name))


def test_literals_are_kept_as_they_were_written() -> None:
    assert decode_literals('[3.10, 12345678901234567890, "a"]') == ["3.10", "12345678901234567890", "a"]


OBJECTS = st.dictionaries(st.sampled_from(["a", "b", '"', "\\", ""]), VALUES, max_size=4)
SPACED = st.sampled_from([(",", ":"), (" , ", " : "), (",\n\t", "\r: ")])


@given(OBJECTS, SPACED, st.booleans())
def test_the_texts_of_members_are_their_values(value: dict[str, object], blanks: tuple[str, str], ascii: bool) -> None:
    text = f"\n{json.dumps(value, separators=blanks, ensure_ascii=ascii)} "
    read, texts = decode_members(text, ("a", "b"), 4)
    assert read == value and set(texts) == {"a", "b"} & set(value)
    assert all(decode(piece) == value[name] and piece == piece.strip() for name, piece in texts.items())


@given(OBJECTS | VALUES, st.data())
def test_members_are_read_as_all_else_is(value: object, data: st.DataObject) -> None:
    """Texts with one character more or less, wrong ones among them."""
    text = encode(value)
    at = data.draw(st.integers(0, len(text)))
    text = text[:at] + data.draw(st.sampled_from(["", ",", "}", "{", '"', ":", " ", "x"])) + text[at + 1 :]
    try:
        wanted: object = decode(text)
    except json.JSONDecodeError as error:
        with pytest.raises(json.JSONDecodeError) as caught:
            decode_members(text, (), 1000)
        assert caught.value.pos == error.pos
    except ValueError:
        with pytest.raises(ValueError):
            decode_members(text, (), 1000)
    else:
        assert decode_members(text, (), 1000)[0] == wanted


def test_the_last_of_members_with_one_name_counts_and_there_may_not_be_too_many() -> None:
    assert decode_members('{"a":1,"a":[2]}', "a", 2) == ({"a": [2]}, {"a": "[2]"})
    with pytest.raises(TooManyMembers):
        decode_members('{"a":1,"a":2,"a":3}', "a", 2)
