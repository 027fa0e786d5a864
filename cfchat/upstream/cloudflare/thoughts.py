"""Split the reasoning that a model writes into its text from the answer. Pure.

Some models think in the text itself, `<think>...</think>` before the answer. Some leave out the opening tag, or close
a thought that they never began. The tags may be cut anywhere between two events. What may be the start of a tag is held
back until the next text shows whether it is one: a few characters at most, and blanks before it. If a model may leave
out the opening tag, its text is unsure, and is held back until the reply shows what it is: the closing tag makes it
reasoning. Reasoning in a field of its own, a call of a tool or the end of the reply make it the answer.

A closing tag behind the first words of the answer stays in the text. The words before it may have been sent already,
and an answer may speak of tags.
"""

from __future__ import annotations

import re
from enum import Enum
from io import StringIO

_THINK, _CLOSE = "<think>", "</think>"
# Opening tags with the tags that close them. The others are of Gemma's template and of gpt-oss's, which Workers AI
# should have read: no user must see them.
_TAGS = {
    _THINK: _CLOSE,
    "<|channel>thought\n": "<channel|>",
    "<|channel|>analysis<|message|>": "<|end|><|start|>assistant<|channel|>final<|message|>",
}
# A thought may end that never began. No tag begins with another one.
_TAGS_AT_START = (*_TAGS, _CLOSE, "<channel|>", "<|channel|>final<|message|>")
_BLANKS = re.compile(r"\s*")
_MOST_BLANKS = 64  # before a tag


class _Place(Enum):
    START = 1  # nothing but blanks so far, or behind the reasoning
    UNSURE = 2  # reasoning or the answer: a closing tag decides
    THOUGHT = 3
    ANSWER = 4


class Thoughts:
    """The place in one reply's text: before, in or behind the reasoning.

    With `thinks_first` the text may begin with reasoning even without an opening tag: distilled models leave it out. In
    `json_mode` a text that begins as JSON does is the answer.
    """

    def __init__(self, thinks_first: bool, json_mode: bool = False) -> None:
        self._place = _Place.START
        self._thinks_first = thinks_first
        self._json_mode = json_mode
        self._keeps_blanks = True  # blanks at the start are the answer's; those behind reasoning are not
        self._closing = _CLOSE
        self._held = ""
        self._unsure = StringIO()
        self.unsure = 0  # how many characters are held back as unsure

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
            return text if self._keeps_blanks else bare, ""
        text, self._held = self._held + text, ""
        at, thoughts = 0, []  # an index, because a text of many tags is not to be copied for each of them
        while at < len(text) and self._place is not _Place.ANSWER:
            if self._place is _Place.START:
                at = self._begin(text, at)
            else:
                thought, at = self._think(text, at)
                thoughts.append(thought)
        return text[at:], "".join(thoughts)

    def settle(self, in_field: bool = False) -> str:
        """Return the text that was unsure, because it is the answer; `in_field` if the reasoning is in a field."""
        self._thinks_first = False
        if in_field and self._place is not _Place.ANSWER:
            self._keeps_blanks = False
        if self._place is not _Place.UNSURE:
            return ""
        self._place = _Place.ANSWER
        text = self._take_unsure() + self._held
        self._held = ""
        return text if self._keeps_blanks else text.lstrip()

    def flush(self) -> tuple[str, str]:
        """Return answer and reasoning in what was held back, because the text has ended without the tag."""
        text = self.settle()
        held, self._held = self._held, ""
        if self._place is _Place.THOUGHT:
            return text, held
        return text + (held if self._keeps_blanks else held.lstrip()), ""

    def _begin(self, text: str, at: int) -> int:
        """Find the place of what begins here. Return where the text goes on: behind a tag, or where it is held back."""
        start = _BLANKS.match(text, at).end()  # type: ignore[union-attr]
        if not self._keeps_blanks:
            at = start
        if start - at < _MOST_BLANKS:
            tag = next((tag for tag in _TAGS_AT_START if text.startswith(tag, start)), "")
            if tag:
                self._thinks_first = self._keeps_blanks = False
                if tag in _TAGS:
                    self._place, self._closing = _Place.THOUGHT, _TAGS[tag]
                return start + len(tag)
            if any(tag.startswith(text[start : start + len(tag)]) for tag in _TAGS_AT_START):
                self._held = text[at:]
                return len(text)
        is_json = self._json_mode and text.startswith(("{", "["), start)
        self._place = _Place.UNSURE if self._thinks_first and not is_json else _Place.ANSWER
        return at

    def _think(self, text: str, at: int) -> tuple[str, int]:
        """Return the reasoning up to the closing tag, and where the text goes on behind it."""
        closing = text.find(self._closing, at)
        if closing < 0:
            end = len(text) - _started(text, at, self._closing)
            self._held = text[end:]
        else:
            end = closing
        thought = text[at:end]
        if self._place is _Place.UNSURE:
            self.unsure += self._unsure.write(thought)
            thought = "" if closing < 0 else self._take_unsure()
        if closing < 0:
            return thought, len(text)
        self._place, self._thinks_first, self._keeps_blanks = _Place.START, False, False
        return thought, end + len(self._closing)

    def _take_unsure(self) -> str:
        text, self._unsure, self.unsure = self._unsure.getvalue(), StringIO(), 0
        return text


def _started(text: str, at: int, tag: str) -> int:
    """Return how many characters at the end of the text, which begins here, may be the start of the tag."""
    return next((size for size in range(len(tag) - 1, 0, -1) if text.endswith(tag[:size], at)), 0)
