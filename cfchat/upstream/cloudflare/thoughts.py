"""What a reply says: the events of a stream, or one whole JSON -> Delta. Pure.

Two dialects, the classic `{"response": "..."}` and OpenAI's chunks, meet in one reply: each event is judged
by itself. A token that happens to be JSON arrives as a number or boolean, so text is not always a string.
"""

from __future__ import annotations

from enum import Enum

_OPEN, _CLOSE = "<think>", "</think>"
_MOST_BLANKS = 64  # before an opening tag; they are held back until it comes, or does not


class _Place(Enum):
    START = 1  # nothing but blanks so far
    THOUGHT = 2
    BETWEEN = 3  # behind the closing tag: blanks there belong to neither side
    ANSWER = 4


class Thoughts:
    """Tells thoughts in the text, `<think>...</think>` before the answer, from the answer.

    The distilled models leave out the opening tag (`thinks_first`). A tag may be cut anywhere: what may be
    the start of one is held back, some characters at most.
    """

    def __init__(self, thinks_first: bool) -> None:
        self._place = _Place.START
        self._thinks_first = thinks_first
        self._held = ""

    @property
    def over(self) -> bool:
        """Whether all that follows is answer, whatever it looks like."""
        return self._place is _Place.ANSWER

    def split(self, text: str) -> tuple[str, str]:
        """What of the text is answer, and what is thought."""
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
        """The same for what was held back for a tag that did not come."""
        held, self._held = self._held, ""
        thinking = self._place is _Place.THOUGHT or (self._place is _Place.START and self._thinks_first)
        return ("", held) if thinking else (held, "")


def _started(text: str, tag: str) -> int:
    """How many characters at the end of the text may be the start of the tag."""
    return next((size for size in range(len(tag) - 1, 0, -1) if text.endswith(tag[:size])), 0)
