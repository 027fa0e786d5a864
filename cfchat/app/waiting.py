"""How many bytes of requests may wait: for the rest of a body, for a turn, for the model's first words.

A server keeps what it is sent for as long as a request waits, so the bytes are counted as they come. One client may
hold as many as are left for all others (Choudhury and Hahne, "Dynamic queue length thresholds", 1998): one greedy
client gets a half, two get a third each, and there is always room for another one.
"""

from __future__ import annotations

from collections import defaultdict

from cfchat.errors import Overloaded


class Waiting:
    """The bytes that wait, at most `most` of them. `size` says how many there are."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = 0
        self.each: defaultdict[str, int] = defaultdict(int)  # by the client's name


class Kept:
    """What is kept of one request, counted for the client of this name."""

    __slots__ = ("_name", "_waiting", "size")

    def __init__(self, waiting: Waiting, name: str) -> None:
        self._waiting = waiting
        self._name = name
        self.size = 0

    def resize(self, size: int) -> None:
        """Note that it has so many bytes now.

        Raises:
            Overloaded: it has grown, and the client has more than are left. Its old size still counts.
        """
        waiting, name, more = self._waiting, self._name, size - self.size
        each, total = waiting.each[name] + more, waiting.size + more
        refused = more > 0 and each > waiting.most - total
        if not refused:
            self.size, waiting.size, waiting.each[name] = size, total, each
        if not waiting.each[name]:
            del waiting.each[name]  # a client that has gone leaves nothing behind
        if refused:
            raise Overloaded("Too many bytes wait for a reply. Please try again in a moment.", retry_after=1)

    def rename(self, name: str) -> None:
        """Count it for another name from now on."""
        size = self.size
        self.resize(0)
        self._name = name
        self.resize(size)
