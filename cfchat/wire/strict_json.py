"""JSON as RFC 8259 defines it.

Python's own decoder and encoder accept NaN and Infinity, which other programs cannot read; these refuse them.
Decoders and encoders are made once, because `json.loads` and `json.dumps` with arguments build one for each call.
The names below are their bound methods, so a call costs no more than the method itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container
from typing import Any, NoReturn


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)

# Return the value of a JSON text.
# Raises: ValueError (json.JSONDecodeError if it can name a place), RecursionError.
decode: Callable[[str], Any] = _decoder.decode

# Return the value at the beginning of a text, or at an index, and the index of its end. Raises as `decode` does.
decode_first: Callable[..., tuple[Any, int]] = _decoder.raw_decode


class Literal(str):
    """A number as it was written, so that `3.10` and integers of twenty digits survive."""


# Return the value of a JSON text with each number as a Literal. Raises as `decode` does.
decode_literals: Callable[[str], Any] = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_int=Literal, parse_float=Literal
).decode

# Return compact JSON in one line, so that it is one line of an event, too.
# Raises: ValueError for NaN and infinities.
encode: Callable[[object], str] = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

# The same in ASCII alone, as fields of HTTP need it.
encode_ascii: Callable[[object], str] = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode

_OPEN = re.compile(r"[ \t\n\r]*\{[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_NEXT = re.compile(r"[ \t\n\r]*(?:,[ \t\n\r]*(?=\")|\}[ \t\n\r]*\Z)")


class TooManyMembers(ValueError):
    """An object with more members than the caller allows."""


def decode_members(text: str, names: Container[str], most: int) -> tuple[Any, dict[str, str]]:
    """Return the value of a JSON text; and if that is an object, the texts of its members that have these names.

    Raises:
        TooManyMembers: an object has more than `most` members.
        ValueError, RecursionError: as `decode` does.
    """
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    begin = _OPEN.match(text)
    at = begin.end() if begin else len(text)
    for _ in range(most):
        if not text.startswith('"', at):
            break
        name, at = decode_first(text, at)
        colon = _COLON.match(text, at)
        if colon is None:
            break
        values[name], at = decode_first(text, colon.end())
        if name in names:
            texts[name] = text[colon.end() : at]
        behind = _NEXT.match(text, at)
        if behind is None:
            break
        at = behind.end()
        if at == len(text):
            return values, texts
    else:
        raise TooManyMembers
    return decode(text), {}  # no object, an empty one, or an error, which has its place there
