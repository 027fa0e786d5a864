"""Read events that look alike without parsing them. Pure.

The events of one stream differ in their text only, and where the model adds them in random padding (`p`) and in the
numbers of a usage. `find` learns the rest from one event: the template. Bytes that are nothing but such events are
cut at the template's literals, and one call of the JSON decoder reads the texts of all. Anything else is no match,
and is left to the parsers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from cfchat.wire.strict_json import decode_first

# The parts of an event that may vary. Which string is the text is a guess here: the caller tries an example.
_PARTS = re.compile(
    r'"(?:response|content)"\s*:\s*"(?P<text>(?:[^"\\]|\\.)*+)"'
    r'|"p"\s*:\s*"(?P<padding>[0-9A-Za-z]++)"'
    r'|"usage"\s*:\s*(?P<usage>\{(?:[^{}]|\{[^{}]*+\})*+\})'
)
# A number of JSON as the value of a name, and the one that says which usage is the largest.
_NUMBER = re.compile(rb"(?<=[: ])-?+(?:0|[1-9][0-9]{0,14}+)(?:\.[0-9]{1,30}+)?+(?:[eE][-+]?+[0-9]{1,3}+)?+(?=[,}])")
_TOTAL = re.compile(rb'("total_tokens": ?+)(0|[1-9][0-9]{0,14}+)(?=[,}])')
_EXAMPLE_TOTAL = 987_654_321


class Match(NamedTuple):
    """The text of some events, the JSON of the largest usage among them (empty if none), and the bytes behind them."""

    text: str
    usage: bytes
    rest: bytes


class Template:
    """What the events of one stream share: `kinds` of parts that vary, and the `literals` before, between, behind them.

    `usage` is the usage of one event, as JSON; the others may have other numbers in it. It is empty if all events
    have the same, or none. `example_usage` is one that another event may have.
    """

    def __init__(self, literals: Sequence[str], kinds: Sequence[str], usage: str = "") -> None:
        self.example_usage = _example_of(usage)
        self._literals, self._kinds, self._usage = literals, kinds, usage.encode()
        begin, *behind = (literal.encode() for literal in literals)
        self._begin = b"data: " + begin
        self._end = behind.pop() + b"\n\n"
        self._next = self._end + self._begin
        self._parts = [*zip(kinds, [*behind, self._end], strict=True)]  # each part with the literal behind it
        self._numberless = _NUMBER.sub(b"0", self._usage)

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
        if usage != self._usage and _NUMBER.sub(b"0", usage) != self._numberless:
            return None
        try:
            decoded = text.decode()
        except UnicodeDecodeError:
            return None
        return Match(decoded, usage, b"") if decoded.isprintable() else None  # JSON escapes what moves the cursor

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
        texts, usage = pieces, b""
        for kind, literal in self._parts:
            parts = pieces
            if literal is not self._end:
                parts, found, pieces = zip(*[piece.partition(literal) for piece in pieces], strict=True)
                if b"" in found:
                    return None
            if kind == "text":
                texts = parts
            elif kind == "usage":
                usage = self._largest(parts)
                if not usage:
                    return None
            elif not b"".join(parts).isalnum():
                return None
        text = _decode(texts)
        return None if text is None else Match(text, usage, data[end:])

    def _largest(self, usages: Sequence[bytes]) -> bytes:
        """Return the first with the largest total; empty if one of them differs in more than its numbers."""
        lines = b"\n".join(usages)
        totals = [total for _, total in _TOTAL.findall(lines)]
        if len(totals) != len(usages) or _NUMBER.sub(b"0", lines) != b"\n".join([self._numberless] * len(usages)):
            return b""
        return usages[totals.index(max(totals, key=int))]


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
            if not _example_of(match[kind]):
                continue
            usage = match[kind]
        literals.append(data[at : match.start(kind)])
        kinds.append(kind)
        at = match.end(kind)
    return Template([*literals, data[at:]], kinds, usage) if "text" in kinds else None


def _example_of(usage: str) -> str:
    """Return the usage with another total; empty if the total is not one number that can be found by its name."""
    example, totals = _TOTAL.subn(rb"\g<1>%d" % _EXAMPLE_TOTAL, usage.encode())
    try:
        known = totals == 1 and decode_first(example.decode())[0].get("total_tokens") == _EXAMPLE_TOTAL
    except (ValueError, RecursionError):
        known = False
    return example.decode() if known else ""
