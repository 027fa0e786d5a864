"""Strict JSON: nothing that other programs cannot read, and numbers as they were written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.wire.strict_json import decode, decode_first, decode_literals, encode

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
