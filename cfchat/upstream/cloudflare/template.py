"""Events of one stream are alike but for their words: what they share, learned from one, makes the others cheap. Pure.

The data of an event is `before`, the words as JSON writes them, `after`; or, where models add padding of random length,
`before`, words, `middle`, padding, `after`. Bytes that are nothing but such events need no parser: the words are cut
out, and one call of the JSON decoder reads them all. Whatever is not exactly so is left to the parsers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cfchat.wire.strict_json import decode_first

# The first such string; whether it is what the model says, whoever learns must try. Padding is letters and digits.
_WORDS = re.compile(r'"(?:response|content)"\s*:\s*"((?:[^"\\]|\\.)*+)"')
_PADDING = re.compile(r'"p"\s*:\s*"([0-9A-Za-z]++)"')


class Likeness:
    """What the events of one stream share. Its quotes are its own: no part of it has a backslash or a line's end."""

    def __init__(self, before: str, middle: str, after: str) -> None:
        self._parts = before, middle, after
        self._before = f"data: {before}".encode()
        self._middle = middle.encode()
        self._after = f"{after}\n\n".encode()
        self._between = self._after + self._before

    def example(self, words: str, padding: str) -> str:
        """The data of an event with these words and this padding, both of letters."""
        before, middle, after = self._parts
        return f"{before}{words}{middle}{padding}{after}" if middle else f"{before}{words}{after}"

    def one(self, data: bytes) -> str:
        """The words of the one event that these bytes are, where they have no escapes; none where in any doubt."""
        before, after = self._before, self._after
        if not data.startswith(before) or not data.endswith(after):
            return ""
        words = data[len(before) : -len(after)]
        if self._middle:
            words, _, padding = words.partition(self._middle)
            if not padding.isalnum():
                return ""
        # With a quote or a backslash in it, it may be another string than it seems to be, or more than one.
        if b'"' in words or b"\\" in words:
            return ""
        try:
            told = words.decode()
        except UnicodeDecodeError:
            return ""
        return told if told.isprintable() else ""  # JSON escapes what moves the cursor

    def read(self, data: bytes) -> tuple[str, bytes]:
        """The words of the events that the bytes begin with, and what is behind them; no words where in any doubt."""
        end = data.rfind(self._after) + len(self._after)
        if end < len(self._between) or not data.startswith(self._before):
            return "", data
        pieces: Sequence[bytes] = data[len(self._before) : end - len(self._after)].split(self._between)
        if self._middle:
            pieces, middles, padding = zip(*[piece.partition(self._middle) for piece in pieces], strict=True)
            if b"" in middles or not b"".join(padding).isalnum():
                return "", data
        listed = b'","'.join(pieces)
        if not _are_strings(listed, len(pieces)):
            return "", data
        try:
            return "".join(decode_first(f'["{listed.decode()}"]')[0]), data[end:]
        except ValueError:
            return "", data


def _are_strings(listed: bytes, count: int) -> bool:
    """Whether each of these, with `","` between them, is one string of JSON, if it is right in its escapes.

    It is where it has a quote only behind a single backslash, and none at its end. Two backslashes could mean anything.
    """
    quotes = 2 * (count - 1)
    if b"\\" in listed:
        if b"\\\\" in listed or b'\\","' in listed:
            return False
        quotes += listed.count(b'\\"')
    return listed.count(b'"') == quotes


def find(data: str) -> Likeness | None:
    """What other events may share with one of this data, if it is written as these mostly are."""
    found = _WORDS.search(data)
    if found is None:
        return None
    before, after, middle = data[: found.start(1)], data[found.end(1) :], ""
    padding = _PADDING.search(after)
    if padding is not None:
        middle, after = after[: padding.start(1)], after[padding.end(1) :]
    shared = before + middle + after
    return None if "\\" in shared or "\n" in shared or "\r" in shared else Likeness(before, middle, after)
