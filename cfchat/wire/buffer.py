"""The receive buffer: bytes that were received and not read yet.

Bytes are appended at the end and taken at the front, both in linear time. The buffer remembers how far it has
searched for a line's end, so no byte is searched twice. Every search has a limit and never looks beyond it: the same
bytes give the same line, or the same error, for any cut.
"""

from __future__ import annotations

from collections.abc import Callable

from cfchat.errors import ProtocolError

_CR = 0x0D
_MOST_KEPT = 4096  # bytes that were taken and are still held: a connection may wait long behind a large body


class ReceiveBuffer:
    """Bytes to be read. `size` says how many there are."""

    __slots__ = ("_data", "_searched", "_start", "size")

    def __init__(self) -> None:
        self.size = 0
        self._data = bytearray()
        self._start = 0  # the bytes before it were taken
        self._searched = 0  # there is no LF between _start and here

    def append(self, data: bytes) -> None:
        """Add bytes at the end."""
        if self._start:
            # Cheap however often it is done: CPython moves the front of a bytearray without copying.
            del self._data[: self._start]
            self._searched -= self._start
            self._start = 0
        self._data += data
        self.size += len(data)

    def clear(self) -> None:
        """Drop all bytes."""
        self._data = bytearray()
        self._start = self._searched = self.size = 0

    def take(self, count: int) -> bytes:
        """Take `count` bytes, or all if there are fewer."""
        taken = bytes(self._data[self._start : self._start + count])
        self.skip(len(taken))
        return taken

    def fresh(self) -> bytes:
        """Return all bytes without taking them; none if some of them were searched before."""
        return b"" if self._searched > self._start else bytes(self._data[self._start :])

    def peek_until(self, end: bytes, limit: int) -> bytes:
        """Return the bytes up to and with `end` without taking them; none if `end` is not within `limit` bytes."""
        at = self._data.find(end, self._start, self._start + limit)
        return b"" if at < 0 else bytes(self._data[self._start : at + len(end)])

    def skip(self, count: int) -> None:
        """Drop `count` bytes; the caller knows that they are there."""
        self._start += count
        self.size -= count
        if self._searched < self._start:
            self._searched = self._start
        if not self.size and self._start > _MOST_KEPT:
            self.clear()

    def take_known(self, data: bytes) -> bool:
        """Drop these bytes if the buffer begins with them; return whether it did. No bytes are never there."""
        if not data or not self._data.startswith(data, self._start):
            return False
        self.skip(len(data))
        return True

    def skip_line_end(self) -> bool:
        """Drop a leading CRLF; return whether there was one."""
        is_line_end = self._data.startswith(b"\r\n", self._start)
        if is_line_end:
            self.skip(2)
        return is_line_end

    def take_line(self, limit: int, too_long: Callable[[], ProtocolError]) -> bytes | None:
        """Take one line and return it without its CRLF; return None if the line has not ended yet.

        Raises:
            ProtocolError: the line ends with LF alone, or is over `limit` bytes with its CRLF (then `too_long()`).
        """
        data, start = self._data, self._start
        end = start + limit
        at = data.find(b"\n", self._searched, end)
        if at < 0:
            if len(data) >= end:
                raise too_long()
            self._searched = len(data)
            return None
        # RFC 9112 §2.2 lets a recipient accept LF alone. Where two readers differ in that, requests can be smuggled.
        if at == start or data[at - 1] != _CR:
            raise ProtocolError("A line ends with LF alone.")
        self._start = self._searched = at + 1
        self.size -= at + 1 - start
        return bytes(data[start : at - 1])
