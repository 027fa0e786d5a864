"""The receive buffer: what has come and is not read yet. No byte is looked at twice."""

from __future__ import annotations

from collections.abc import Callable

from cfchat.errors import ProtocolError

_CR = 0x0D


class ReceiveBuffer:
    """Bytes go in at the end and come out at the front, all in linear time. `size` is how many are there."""

    __slots__ = ("_data", "_searched", "_start", "size")

    def __init__(self) -> None:
        self.size = 0
        self._data = bytearray()
        self._start = 0  # what is before it has been taken
        self._searched = 0  # there is no LF between start and here

    def append(self, data: bytes) -> None:
        """Add what was read."""
        if self._start:
            # CPython moves the front of a bytearray without copying, so this is cheap however often it is done.
            del self._data[: self._start]
            self._searched -= self._start
            self._start = 0
        self._data += data
        self.size += len(data)

    def clear(self) -> None:
        """Drop everything."""
        self._data = bytearray()
        self._start = self._searched = self.size = 0

    def take(self, count: int) -> bytes:
        """Take at most `count` bytes, and as many as there are."""
        end = min(self._start + count, len(self._data))
        taken = bytes(self._data[self._start : end])
        self._start = end
        self.size -= len(taken)
        self._searched = max(self._searched, end)
        return taken

    def fresh(self) -> bytes:
        """All that is there, and stays; nothing where some of it was looked at before."""
        return b"" if self._searched > self._start else bytes(self._data[self._start :])

    def peek_until(self, end: bytes, limit: int) -> bytes:
        """What is there up to and with `end`, if that is within `limit` bytes; it stays."""
        found = self._data.find(end, self._start, self._start + limit)
        return b"" if found < 0 else bytes(self._data[self._start : found + len(end)])

    def skip(self, count: int) -> None:
        """Drop so many bytes of those that are there."""
        self._start += count
        self.size -= count
        self._searched = max(self._searched, self._start)

    def skip_line_end(self) -> bool:
        """Drop a CRLF, if it comes first."""
        found = self._data.startswith(b"\r\n", self._start)
        if found:
            self.skip(2)
        return found

    def take_line(self, limit: int, too_long: Callable[[], ProtocolError]) -> bytes | None:
        """Take one line, without its CRLF; None if it has not ended yet.

        Only the first `limit` bytes are looked at, so the verdict is the same however the bytes came.

        Raises:
            ProtocolError: the line ends with LF alone; or `too_long()`: with its CRLF it is over `limit` bytes.
        """
        data, start = self._data, self._start
        end = start + limit
        found = data.find(b"\n", self._searched, end)
        if found < 0:
            if len(data) >= end:
                raise too_long()
            self._searched = len(data)
            return None
        # RFC 9112 §2.2 lets a recipient take LF alone. Two readers who differ in that can be played off.
        if found == start or data[found - 1] != _CR:
            raise ProtocolError("A line ends with LF alone.")
        self._start = self._searched = found + 1
        self.size -= found + 1 - start
        return bytes(data[start : found - 1])
