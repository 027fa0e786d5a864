"""Read events that look alike without parsing them. Pure.

The events of one stream differ only in their text. With some models they differ also in random padding (`p`) and in
the numbers of a usage. `find` makes one regular expression of one event, for all events that differ from it in nothing
else. The expression reads any number of them at once. Anything else is no match, and is left to the parsers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cfchat.wire.strict_json import decode, decode_first

# The inside of a string, its escapes unchecked; padding or an id; and a number that is a count (usage.py).
_STRING = r'[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+'
_WORD = "[0-9A-Za-z-]++"
_NUMBER = r"(?:0|[1-9][0-9]{0,14}+)(?:\.[0-9]{1,20}+)?+"
# The parts that may differ, each by its kind. Whether this string is the text of the event is a guess: the caller tries
# the example. `id` and `created` differ from stream to stream only, but all streams of a model share one pattern.
_PARTS = re.compile(
    rf'"(?:response|response_text|content)"\s*:\s*"(?P<text>{_STRING})"'
    rf'|"(?:p|id)"\s*:\s*"(?P<word>{_WORD})"'
    rf'|"created"\s*:\s*(?P<number>{_NUMBER})(?=\s*[,}}])'
    r'|"usage"\s*:\s*(?P<usage>\{(?:[^{}]|\{[^{}]*+\})*+\})'
)
# What may stand in the place of a part, as a pattern, and what stands there in the example; for a usage see `find`.
_OTHERS = {"text": (f"(?P<text>{_STRING})", "text"), "word": (_WORD, "word"), "number": (_NUMBER, "1")}
_OTHER_DIGITS = str.maketrans("0123456789", "1234567891")
# Each begins with the quote behind its name, so that a million blanks are looked at once and not from each of them.
_COUNTS = re.compile(rf'(?P<total>"total_tokens)?"\s*:\s*(?P<number>{_NUMBER})(?=\s*[,}}])')
# Characters. The longest known has 470, most of them fewer than 200. A longer one would cost too much to search and to
# compile, and an origin may send a mebibyte.
_LONGEST_EVENT = 1024
# How many events of another kind a read may end with: the finish reason, a usage or two, [DONE], and one cut in two.
_MOST_OTHERS = 5


class Match(NamedTuple):
    """What some events say together, and the bytes behind them.

    `usage` is the JSON of the last usage, which has the largest total; `total` is that number. They are empty and 0 if
    no usage may vary.
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
        numbers = [*map(float, totals)]
        # Where totals do not grow, more than the last usage counts (usage.py).
        if numbers != sorted({*numbers}) and len({*usages}) > 1:
            return None
        return Match(text, usages[-1], numbers[-1], data[end:])


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
    if len(data) > _LONGEST_EVENT or "\n" in data:
        return None
    parts = [*_PARTS.finditer(data)]
    kinds = [part.lastgroup for part in parts]
    if kinds.count("text") != 1 or kinds.count("usage") > 1:
        return None  # which one counts is for the parsers to say
    pattern, example, usage, at = "^data: ", "", "", 0
    for part in parts:
        kind = part.lastgroup or ""
        if kind == "usage":
            varied = _usages_like(part[kind])
            if not varied:
                continue  # it must be the same in all events, as all is that is no part
            other = usage = part[kind].translate(_OTHER_DIGITS)
        else:
            varied, other = _OTHERS[kind]
        shared = data[at : part.start(kind)]
        pattern += re.escape(shared) + varied
        example += shared + other
        at = part.end(kind)
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
