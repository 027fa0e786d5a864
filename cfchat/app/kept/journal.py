"""Keep the deltas of one reply in their order and in little memory. Pure.

A reply makes a delta for every few characters, and as Python objects these would take a hundred times their text. So
all words stand behind each other as UTF-8; the end and the kind of each entry stand beside them. Only what has no words
(sources, calls of tools, the end of a reply) is kept as a Delta. An entry is text, or reasoning, or the rest, so it is
at most one event for a client that numbers events. Entries are numbered from 0, and keep their numbers.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from cfchat.conversation.model import Delta
from cfchat.replies.form import reasoning_of, sources_of, text_of

BASE = 4096  # bytes that a kept reply takes beside its entries
READ = 16 * 1024  # bytes, and
READ_ENTRIES = 64  # entries, that are read at a time
_ENTRY = 9  # bytes for the end and the kind of an entry
_TEXT, _REASONING, _OTHER = range(3)
_NOTHING = Delta()


class Journal:
    """The entries of one reply. `written` counts the bytes of UTF-8 of all entries so far.

    `weight` is about what the journal takes of the memory now, in bytes.
    """

    __slots__ = ("_begin", "_ends", "_first", "_kinds", "_others", "_others_weight", "_words", "written")

    def __init__(self) -> None:
        self.written = 0
        self._first = 0  # the number of the first entry that is still there
        self._begin = 0  # where its words begin, counted from the first word of all
        self._words = bytearray()
        self._ends = array("Q")
        self._kinds = bytearray()
        self._others: dict[int, Delta] = {}
        self._others_weight = 0

    def __len__(self) -> int:
        """Return how many entries there have been, which is the number of the next."""
        return self._first + len(self._kinds)

    @property
    def weight(self) -> int:
        return BASE + len(self._words) + _ENTRY * len(self._kinds) + self._others_weight

    def add(self, batch: Sequence[Delta]) -> None:
        """Add the deltas of one read: their sources, reasoning and text, as the forms order them, then the rest."""
        if sources := sources_of(batch):
            self._add_other(Delta(sources=tuple(sources)))
        for kind, words in ((_REASONING, reasoning_of(batch)), (_TEXT, text_of(batch))):
            if words:
                self._add(kind, words.encode())
        for delta in batch:
            rest = delta._replace(text="", reasoning="", sources=())
            if rest != _NOTHING:
                self._add_other(rest)

    def _add_other(self, delta: Delta) -> None:
        self._others[len(self)] = delta
        self._others_weight += _weight_of(delta)
        self.written += len(repr(delta))
        self._add(_OTHER, b"")

    def _add(self, kind: int, words: bytes) -> None:
        self.written += len(words)
        self._words += words
        self._ends.append(self._begin + len(self._words))
        self._kinds.append(kind)

    def read(self, number: int) -> list[Delta]:
        """Return some entries from a number on; none if it is the next one's.

        Raises:
            IndexError: the journal has let go of the entry.
        """
        first = number - self._first
        if first < 0:
            raise IndexError(number)
        begin = stop = (self._ends[first - 1] if first else self._begin) - self._begin
        entries = []
        for index in range(first, min(first + READ_ENTRIES, len(self._kinds))):
            if begin - stop > READ:
                break
            end, kind = self._ends[index] - self._begin, self._kinds[index]
            if kind == _OTHER:
                entries.append(self._others[self._first + index])
            else:
                words = self._words[begin:end].decode()
                entries.append(Delta(words) if kind == _TEXT else Delta(reasoning=words))
            begin = end
        return entries

    def let_go(self, number: int) -> None:
        """Forget the entries before a number, now or later: as soon as they are half of all."""
        count = number - self._first
        if count <= 0:
            return
        end = self._ends[count - 1]
        # What stays has to be moved, so that each byte is moved about once.
        if 2 * count < len(self._kinds) and 2 * (end - self._begin) < len(self._words):
            return
        del self._words[: end - self._begin], self._ends[:count], self._kinds[:count]
        for gone in [entry for entry in self._others if entry < number]:
            self._others_weight -= _weight_of(self._others.pop(gone))
        self._first, self._begin = number, end


def _weight_of(delta: Delta) -> int:
    return 512 + 2 * len(repr(delta))
