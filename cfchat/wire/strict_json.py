"""JSON as RFC 8259 has it. Python's own decoder takes NaN and Infinity, which no other program can read again.

Decoders and encoders are made once: `json.loads` and `json.dumps` with arguments build one for each call.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)

# Return what the text holds. Raises ValueError (json.JSONDecodeError where it can name a place), RecursionError.
decode: Callable[[str], Any] = _decoder.decode

# Return the first value of a text that begins with one, and where it ends. Raises as `decode` does.
decode_first: Callable[[str], tuple[Any, int]] = _decoder.raw_decode



class Literal(str):
    """A number as it was written: `3.10` and integers of twenty digits survive."""


# Return what the text holds, each number as a Literal. Raises as `decode` does.
decode_literals: Callable[[str], Any] = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_int=Literal, parse_float=Literal
).decode

# Return compact JSON in one line, so that it is one line of an event, too. Raises ValueError for NaN and infinities.
encode: Callable[[object], str] = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
