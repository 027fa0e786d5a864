"""A section of field lines, as a head or the trailers have it, up to and with its empty line (RFC 9112 §5, §7.1.2).

The section is read at once if all of it has come, and line by line otherwise; both ways give the same fields and the
same errors, and no byte is searched twice.
"""

from __future__ import annotations

import re
from functools import partial

from cfchat.errors import HeadTooLarge, ProtocolError
from cfchat.wire import grammar
from cfchat.wire.buffer import ReceiveBuffer
from cfchat.wire.fields import NO_FIELDS, Fields

_HEAD_TOO_LARGE = partial(HeadTooLarge, "The header fields are too large.")


class FieldSection:
    """Reads the field lines of a head, or the trailers, with the empty line behind them (RFC 9112 §5, §7.1.2)."""

    def __init__(self, size: int, count: int) -> None:
        self._room = size
        self._count = count
        self._items: list[tuple[str, str]] = []
        self._untried = True
        self.whole = b""  # all of it, if it was read at once

    def read(self, buffer: ReceiveBuffer) -> Fields | None:
        """Return the fields, or None if the section has not ended yet."""
        if self._untried:
            # Fast case: the whole section has come. Falls through to line by line; tried once, so the work is linear.
            self._untried = False
            if items := self._read_all(buffer):
                return Fields(items)
        while (line := buffer.take_line(self._room, _HEAD_TOO_LARGE)) is not None:
            if not line:
                items, self._items = self._items, []  # not kept a second time while the body lasts
                return Fields(items) if items else NO_FIELDS
            self._add_line(line)
        return None

    def _read_all(self, buffer: ReceiveBuffer) -> list[tuple[str, str]]:
        """Take all fields at once; none if some are not there yet or malformed, for `read` to find out which."""
        block = buffer.peek_until(b"\r\n\r\n", self._room)
        if not block:
            return []
        matches = grammar.FIELD_LINES.findall(block.decode("latin-1"))
        # Each match is a whole line, and the last line is empty: fewer matches mean that a line is malformed.
        if len(matches) + 1 != block.count(b"\n") or len(matches) > self._count:
            return []
        buffer.skip(len(block))
        self.whole = block
        return [(name, value.strip(" \t")) for name, value in matches]

    def _add_line(self, line: bytes) -> None:
        """Parse one field line (RFC 9112 §5)."""
        self._room -= len(line) + 2
        if len(self._items) == self._count:
            raise HeadTooLarge("There are too many header fields.")
        match = re.fullmatch(grammar.FIELD_LINE, line)
        if match is None:
            raise ProtocolError("A header field is malformed.")
        name, value = match.groups()
        self._items.append((name.decode("ascii"), value.strip(b" \t").decode("latin-1")))
