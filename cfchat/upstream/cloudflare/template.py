"""Read events that look alike without parsing them. Pure.

The events of one stream differ in their text only, and where the model adds them in random padding (`p`) and in the
numbers of a usage. `find` learns the rest from one event: the template. Bytes that are nothing but such events are
cut at the template's literals, and one call of the JSON decoder reads the texts of all. Anything else is no match,
and is left to the parsers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from cfchat.wire.strict_json import decode_first

# The parts of an event that may vary. Which string is the text is a guess here: the caller tries an example.
_PARTS = re.compile(
    r'"(?:response|content)"\s*:\s*"(?P<text>(?:[^"\\]|\\.)*+)"'
    r'|"p"\s*:\s*"(?P<padding>[0-9A-Za-z]++)"'
    r'|"usage"\s*:\s*(?P<usage>\{(?:[^{}]|\{[^{}]*+\})*+\})'
)
# Two usages that differ in these alone have the same structure, if both are JSON at all.
_DIGITS = b"0123456789."
_total_of = itemgetter("total_tokens")
_NO_TOTAL = 1e15  # from here on a number is no count, as below 0 (usage.py)
_OTHER_DIGITS = str.maketrans("0123456789", "1234567891")


class Match(NamedTuple):
    """What some events say together, and the bytes behind them. `usage` is the largest; empty if none is new."""

    text: str
    usage: Mapping[str, Any]
    rest: bytes


class Template:
    """What the events of one stream share: `kinds` of parts that vary, and the `literals` before, between, behind them.

    `usage` is the usage of one event, as JSON; the others may have other digits in it. `example_usage` is such another
    one. Both are empty if all events have the same usage, or none.
    """

    def __init__(self, literals: Sequence[str], kinds: Sequence[str], usage: str = "") -> None:
        self.example_usage = usage.translate(_OTHER_DIGITS)
        self._literals, self._kinds = literals, kinds
        self._usage = usage.encode()  # the last one that was read
        self._without_digits = self._usage.translate(None, _DIGITS)
        begin, *behind = (literal.encode() for literal in literals)
        self._begin = b"data: " + begin
        self._end = behind.pop() + b"\n\n"
        self._next = self._end + self._begin
        self._parts = [*zip(kinds, [*behind, self._end], strict=True)]  # each part with the literal behind it

    def fill(self, text: str, padding: str, usage: str) -> str:
        """Return the data of an event with these parts; the text is escaped, the usage is JSON."""
        parts = {"text": text, "padding": padding, "usage": usage}
        filled = [literal + parts[kind] for literal, kind in zip(self._literals, self._kinds, strict=False)]
        return "".join([*filled, self._literals[-1]])

    def one(self, data: bytes) -> Match | None:
        """Match one whole event whose text has no escapes; None in any doubt."""
        if not data.startswith(self._begin):
            return None
        text, usage, rest = b"", b"", data[len(self._begin) :]
        for kind, literal in self._parts:
            part, found, rest = rest.partition(literal)
            if not found:
                return None
            if kind == "text":
                text = part
            elif kind == "usage":
                usage = part
            elif not part.isalnum():
                return None
        # A quote or a backslash means another string than it seems to be, or more than one.
        if rest or b'"' in text or b"\\" in text:
            return None
        largest: Mapping[str, Any] = {}
        try:
            decoded = text.decode()
            if not decoded.isprintable():  # JSON escapes what moves the cursor
                return None
            if usage != self._usage:
                if usage.translate(None, _DIGITS) != self._without_digits:
                    return None
                largest, end = decode_first(usage.decode())
                if end != len(usage) or type(largest) is not dict:  # a digit in the wrong place made it another value
                    return None
                self._usage = usage
        except ValueError:
            return None
        return Match(decoded, largest, b"")

    def read(self, data: bytes) -> Match | None:
        """Match the events that the bytes begin with; None in any doubt."""
        if not data.startswith(self._begin):
            return None
        start, last = len(self._begin), data.rfind(self._begin)
        end = data.find(b"\n\n", last) + 2
        if not data.endswith(self._end, last + start, end):
            end = last  # the last event is another one, or not whole
            if not data.endswith(self._end, start, end):
                return None
        pieces: Sequence[bytes] = data[start : end - len(self._end)].split(self._next)
        texts: Sequence[bytes] = ()
        usages: Sequence[bytes] = ()
        for kind, literal in self._parts:
            parts = pieces
            if literal is not self._end:
                parts, found, pieces = zip(*[piece.partition(literal) for piece in pieces], strict=True)
                if b"" in found:
                    return None
            if kind == "text":
                texts = parts
            elif kind == "usage":
                usages = parts
            elif not b"".join(parts).isalnum():
                return None
        text = _decode(texts)
        usage = self._largest(usages) if text is not None and usages else {}
        return None if text is None or usage is None else Match(text, usage, data[end:])

    def _largest(self, usages: Sequence[bytes]) -> Mapping[str, Any] | None:
        """Return the first usage with the largest total; {} if none is new, None in any doubt."""
        new = dict.fromkeys(usages)
        new.pop(self._usage, None)
        if not new:
            return {}
        if b"\n".join(new).translate(None, _DIGITS) != b"\n".join([self._without_digits] * len(new)):
            return None
        try:
            read = decode_first(f"[{b','.join(new).decode()}]")[0]
            totals = [*map(_total_of, read)]
        except (ValueError, KeyError):
            return None
        largest = max(totals)
        if min(totals) < 0 or largest >= _NO_TOTAL:
            return None
        self._usage = usages[-1]
        usage: Mapping[str, Any] = read[totals.index(largest)]
        return usage


def _decode(texts: Sequence[bytes]) -> str | None:
    """Return the texts as one, if each is the inside of one JSON string."""
    listed = b'","'.join(texts)
    if not _are_strings(listed, len(texts)):
        return None
    try:
        return "".join(decode_first(f'["{listed.decode()}"]')[0])
    except ValueError:
        return None


def _are_strings(listed: bytes, count: int) -> bool:
    """Return whether each of the texts, with `","` between them, is one string of JSON, if it is right in its escapes.

    It is if it has a quote only behind a single backslash, and none at its end. Two backslashes could mean anything.
    """
    quotes = 2 * (count - 1)
    if b"\\" in listed:
        if b"\\\\" in listed or b'\\","' in listed:
            return False
        quotes += listed.count(b'\\"')
    return listed.count(b'"') == quotes


def find(data: str) -> Template | None:
    """Return the template that an event of this data may be one of; None for data of an unusual form."""
    if "\n" in data:
        return None
    literals, kinds, usage, at = list[str](), list[str](), "", 0
    for match in _PARTS.finditer(data):
        kind = match.lastgroup or ""
        if kind != "padding" and kind in kinds:
            continue
        if kind == "usage":
            if not _has_total(match[kind]):
                continue
            usage = match[kind]
        literals.append(data[at : match.start(kind)])
        kinds.append(kind)
        at = match.end(kind)
    return Template([*literals, data[at:]], kinds, usage) if "text" in kinds else None


def _has_total(usage: str) -> bool:
    try:
        return type(decode_first(usage)[0].get("total_tokens")) in (int, float)
    except (ValueError, RecursionError):
        return False
