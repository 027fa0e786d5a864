"""Read events that look alike without parsing them. Pure.

The events of one stream differ only in their text. With some models they differ also in random padding (`p`) and in
the numbers of a usage. `find` makes one regular expression of one event, for all events that differ from it in nothing
else. The expression reads any number of them at once. Anything else is no match, and is left to the parsers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cfchat.wire.strict_json import decode, decode_first

# The inside of a string, its escapes unchecked; and a number that is a count (usage.py).
_STRING = r'[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+'
_NUMBER = r"(?:0|[1-9][0-9]{0,14}+)(?:\.[0-9]{1,20}+)?+"
# The parts that may vary; `id` and `created` do so from stream to stream. Which string is the text is a guess here:
# the caller tries an example.
_PARTS = re.compile(
    rf'"(?:response|response_text|content)"\s*:\s*"(?P<text>{_STRING})"'
    r'|"(?:p|id)"\s*:\s*"(?P<word>[0-9A-Za-z-]++)"'
    rf'|"created"\s*:\s*(?P<number>{_NUMBER})(?=\s*[,}}])'
    r'|"usage"\s*:\s*(?P<usage>\{(?:[^{}]|\{[^{}]*+\})*+\})'
)
_ANY = {"text": f"(?P<text>{_STRING})", "word": "[0-9A-Za-z-]++", "number": _NUMBER}
_OTHER = {"text": "text", "word": "word", "number": "1"}
_COUNTS = re.compile(rf'(?P<total>"total_tokens")?\s*:\s*(?P<number>{_NUMBER})(?=\s*[,}}])')
_OTHER_DIGITS = str.maketrans("0123456789", "1234567891")
# The more the events share, the longer it takes to compile; those of no model share as many characters.
_LONGEST_PATTERN = 4096
# How many events of another kind a read may end with: the finish reason, a usage or two, [DONE], and one cut in two.
_MOST_OTHERS = 5


class Match(NamedTuple):
    """What some events say together, and the bytes behind them.

    `usage` is the JSON of the first usage with the largest total, `total` that number; empty and 0 if none may vary.
    """

    text: str
    usage: bytes
    total: float
    rest: bytes


class Shape(NamedTuple):
    """What an event shares with those like it: the `pattern` of one.

    `example` is the data of another one, with the text "text" and this `usage`, which is empty if it may not vary.
    """

    pattern: str
    example: str
    usage: str


class Template:
    """Reads the events of one shape."""

    def __init__(self, shape: Shape) -> None:
        # The streams of one model have one pattern, so `re` has it compiled already.
        self._event = re.compile(shape.pattern.encode(), re.MULTILINE)
        self._text = self._event.groupindex["text"]
        self._usage = self._event.groupindex.get("usage", 0)  # 0 if it may not vary

    def read(self, data: bytes) -> Match | None:
        """Match the events that the bytes begin with; None in any doubt."""
        last = data.rfind(b"\ndata: ") + 1
        match = self._event.match(data, last)
        others = 0
        while match is None and last and others < _MOST_OTHERS:
            last = data.rfind(b"\ndata: ", 0, last) + 1
            match = self._event.match(data, last)
            others += 1
        if match is None:
            return None
        if last:
            return self._read_many(data, match.end())
        text = _decode(match["text"])
        if text is None:
            return None
        rest = data[match.end() :]
        return Match(text, match["usage"], float(match["total"]), rest) if self._usage else Match(text, b"", 0, rest)

    def _read_many(self, data: bytes, end: int) -> Match | None:
        """Read up to the end of the last event that matches."""
        rows = self._event.findall(data, 0, end)
        # Each has the two newlines behind it, and no others: then nothing else is among them.
        if len(rows) * 2 != data.count(b"\n", 0, end):
            return None
        columns = [*zip(*rows, strict=True)]
        text = _decode(b"\n".join(columns[self._text - 1]))
        if text is None:
            return None
        if not self._usage:
            return Match(text, b"", 0, data[end:])
        usages, totals = columns[self._usage - 1 : self._usage + 1]  # the total is the next group
        most = max(dict.fromkeys(totals), key=float)
        return Match(text, usages[totals.index(most)], float(most), data[end:])


def _decode(lines: bytes) -> str | None:
    """Return the texts, one a line, as one; None if one of them is wrong in its escapes or no UTF-8."""
    try:
        texts = lines.decode()
        if "\\" not in texts:
            return texts.replace("\n", "")
        return "".join(decode('["' + texts.replace("\n", '","') + '"]'))
    except ValueError:
        return None


def find(data: str) -> Shape | None:
    """Return what an event of this data may share with others; None for data of an unusual form."""
    if "\n" in data:
        return None
    pattern, example, usage, at = "^data: ", "", "", 0
    for part in _PARTS.finditer(data):
        kind = part.lastgroup or ""
        if kind == "usage":
            varied, other = _usages_like(part[kind]), part[kind].translate(_OTHER_DIGITS)
            if usage or not varied:
                continue
            usage = other
        else:
            varied, other = _ANY[kind], _OTHER[kind]
            if kind == "text" and varied in pattern:
                continue  # the first one is the text
        literal = data[at : part.start(kind)]
        pattern += re.escape(literal) + varied
        example += literal + other
        at = part.end(kind)
    if _ANY["text"] not in pattern or len(pattern) + len(data) - at > _LONGEST_PATTERN:
        return None
    # findall returns rows only where there are two groups or more.
    return Shape(f"{pattern}{re.escape(data[at:])}()\n\n", example + data[at:], usage)


def _usages_like(usage: str) -> str:
    """Return the pattern of a usage that differs from this one in its numbers only; nothing if it has no one total."""
    try:
        total = decode_first(usage)[0].get("total_tokens")
    except (ValueError, RecursionError):
        return ""
    pattern, at = "(?P<usage>", 0
    for count in _COUNTS.finditer(usage):
        pattern += re.escape(usage[at : count.start("number")])
        pattern += f"(?P<total>{_NUMBER})" if count["total"] else _NUMBER
        at = count.end()
    varies = type(total) in (int, float) and usage.count('"total_tokens"') == 1 and "(?P<total>" in pattern
    return f"{pattern}{re.escape(usage[at:])})" if varies else ""
