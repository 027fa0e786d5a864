"""JSON as RFC 8259 defines it.

Python's own decoder and encoder accept NaN and Infinity, which other programs cannot read; these refuse them.
Decoders and encoders are made once, because `json.loads` and `json.dumps` with arguments build one for each call.
The names below are their bound methods, so a call costs no more than the method itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)

# Return the value of a JSON text.
# Raises: ValueError (json.JSONDecodeError if it can name a place), RecursionError.
decode: Callable[[str], Any] = _decoder.decode

# Return the value at the beginning of a text, and the index of its end. Raises as `decode` does.
decode_first: Callable[[str], tuple[Any, int]] = _decoder.raw_decode


class Literal(str):
    """A number as it was written, so that `3.10` and integers of twenty digits survive."""


# Return the value of a JSON text with each number as a Literal. Raises as `decode` does.
decode_literals: Callable[[str], Any] = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_int=Literal, parse_float=Literal
).decode

# Return compact JSON in one line, so that it is one line of an event, too.
# Raises: ValueError for NaN and infinities.
encode: Callable[[object], str] = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
