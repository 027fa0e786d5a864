"""Body fields that are passed on as the client wrote them. Pure.

Tools and schemas may be most of a request, and nothing of them is changed on the way. So their text is kept, and goes
on to the letter: that costs no encoding, and 3.10 stays 3.10.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from math import inf
from typing import Any

from cfchat.conversation.parse import without_surrogates
from cfchat.errors import BadOption
from cfchat.wire.strict_json import decode, encode

MOST_LEVELS = 64  # of nesting
# A character beyond U+FFFF as JSON may escape it (RFC 8259 §7), and half of one. The backslash must not be escaped
# itself; that is checked behind the literal `\u`, which is searched for more quickly.
_PAIR = r"\\u(?<!\\\\u)[dD][89abAB]..\\u[dD][c-fC-F].."
_HALF = r"\\u[dD][89a-fA-F]"
_PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$-]{0,63}", re.ASCII)  # a key that may stand in a place as it is


class Passed(Mapping[str, object]):
    """Fields by name. `texts` has the JSON of each; it is decoded again for a caller that looks at a value."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    def __getitem__(self, name: str) -> object:
        return decode(self.texts[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Passed({', '.join(self.texts)})"


def texts_of(passed: Mapping[str, object]) -> Mapping[str, str]:
    """Return the JSON of each field. A hook may have made other ones of a client's."""
    if isinstance(passed, Passed):
        return passed.texts
    return {name: without_surrogates(encode(value)) for name, value in passed.items()}


def check_passed(value: object, text: str, name: str) -> str:
    """Check the value of a field, decoded from this text, and return the text to pass on.

    It looks at all values of one level together, because a call for each would take longer than decoding them. The text
    is returned as it is unless it has half of a character, which UTF-8 cannot hold.

    Raises:
        BadOption: it is nested too deeply, or has a number that JSON cannot write again.
    """
    # Perhaps: a backslash before it may be the character that is escaped.
    halves = ("\\ud" in text or "\\uD" in text) and re.search(_HALF, re.sub(_PAIR, "", text))
    level, is_text = [value], True
    for _ in range(MOST_LEVELS):
        kinds = set(map(type, level))
        objects = [item for item in level if type(item) is dict] if dict in kinds else []
        lists = [item for item in level if type(item) is list] if list in kinds else []
        if float in kinds and (inf in level or -inf in level):  # 1e999, which RFC 8259 §6 allows
            raise BadOption("This number is too large.", param=name + _find_infinity(value))
        if halves and is_text:
            is_text = _is_text(chain([item for item in level if type(item) is str], *objects))
        if not (objects or lists):
            return text if is_text else without_surrogates(encode(value))
        inner = chain(chain.from_iterable(lists), chain.from_iterable(map(dict.values, objects)))
        level = [*filter(None, inner)]  # nothing is wrong with what is empty
    raise BadOption("This is nested too deeply.", param=name)


def _find_infinity(value: Any) -> str:
    """Return the place of a number that is infinite, inside a value that holds one."""
    place = ""
    while type(value) is not float:
        keys, values = (list(value), list(value.values())) if type(value) is dict else (None, value)
        first, end = 0, len(values)
        while end - first > 1:  # halve it: the encoder looks at everything in C
            middle = (first + end) // 2
            first, end = (first, middle) if _is_infinite(values[first:middle]) else (middle, end)
        key = f"[{first}]" if keys is None else f".{keys[first] if _PLAIN_KEY.fullmatch(keys[first]) else '*'}"
        place, value = place + key, values[first]
    return place


def _is_infinite(values: list[object]) -> bool:
    try:
        encode(values)
    except ValueError:
        return True
    return False


def _is_text(strings: Iterable[str]) -> bool:
    try:
        "".join(strings).encode()
    except UnicodeEncodeError:
        return False
    return True
