"""Split the reasoning that a model writes into its text from the answer. Pure.

Some models think in the text itself, `<think>...</think>` before the answer. The tags may be cut anywhere between two
events. What may be the start of a tag is held back until the next text shows whether it is one: a few characters at
most, and blanks before an opening tag.
"""

from __future__ import annotations

from enum import Enum

_OPEN, _CLOSE = "<think>", "</think>"
_MOST_BLANKS = 64  # before an opening tag


class _Place(Enum):
    START = 1  # nothing but blanks so far
    THOUGHT = 2
    BETWEEN = 3  # behind the closing tag: blanks there belong neither to the reasoning nor to the answer
    ANSWER = 4


class Thoughts:
    """The place in one reply's text: before, in or behind the reasoning.

    With `thinks_first` the text begins with reasoning even without an opening tag: distilled models leave it out.
    """

    def __init__(self, thinks_first: bool) -> None:
        self._place = _Place.START
        self._thinks_first = thinks_first
        self._held = ""

    @property
    def over(self) -> bool:
        """Whether all further text is answer, even if it looks like a tag."""
        return self._place is _Place.ANSWER

    def split(self, text: str) -> tuple[str, str]:
        """Return the answer and the reasoning in this text, with what was held back before it."""
        # Fast case: the answer begins at once. Falls through to the search for tags; equal by test_thoughts.py.
        at_start = self._place is _Place.START and not (self._held or self._thinks_first)
        if at_start and (bare := text.lstrip()) and bare[0] != "<":
            self._place = _Place.ANSWER
            return text, ""
        text, self._held = self._held + text, ""
        if self._place is _Place.START:
            bare = text.lstrip()
            may_open = len(text) - len(bare) < _MOST_BLANKS
            if may_open and len(bare) < len(_OPEN) and _OPEN.startswith(bare):
                self._held = text
                return "", ""
            opened = may_open and bare.startswith(_OPEN)
            text = bare[len(_OPEN) :] if opened else text
            self._place = _Place.THOUGHT if opened or self._thinks_first else _Place.ANSWER
        thought = ""
        if self._place is _Place.THOUGHT:
            thought, tag, text = text.partition(_CLOSE)
            if not tag:
                kept = len(thought) - _started(thought, _CLOSE)
                self._held = thought[kept:]
                return "", thought[:kept]
            self._place = _Place.BETWEEN
        if self._place is _Place.BETWEEN:
            text = text.lstrip()
            if text:
                self._place = _Place.ANSWER
        return text, thought

    def flush(self) -> tuple[str, str]:
        """Return answer and reasoning in what was held back, because the text has ended without the tag."""
        held, self._held = self._held, ""
        thinking = self._place is _Place.THOUGHT or (self._place is _Place.START and self._thinks_first)
        return ("", held) if thinking else (held, "")


def _started(text: str, tag: str) -> int:
    """Return how many characters at the end of the text may be the start of the tag."""
    return next((size for size in range(len(tag) - 1, 0, -1) if text.endswith(tag[:size])), 0)
