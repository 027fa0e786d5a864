"""Event streams, read and written (WHATWG HTML §9.2.6, "Interpreting an event stream").

Lines are cut and joined as bytes and decoded once per event. CR and LF are never part of a longer UTF-8
sequence, and Python replaces a broken sequence as the Encoding Standard does, so this gives the same text as
decoding first would.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cfchat.errors import EventTooLarge

_BOM = b"\xef\xbb\xbf"
_NEWLINE = r"\r\n|\r|\n"
# The standard says "only ASCII digits". More than these are no waiting time; int() refuses thousands of them.
_DIGITS = rb"[0-9]{1,18}"


class Event(NamedTuple):
    """One dispatched event; `id` is the last one seen so far."""

    data: str
    event: str = "message"
    id: str = ""


class SSEParser:
    """Bytes in, events out; the same events and the same error however the bytes are cut.

    Limits are in bytes: `max_line` without the line's end, `max_event` for its data with a newline per line.
    `retry` is the last reconnection time asked for, in milliseconds.
    """

    def __init__(self, max_line: int = 1 << 20, max_event: int = 1 << 20) -> None:
        self.retry: int | None = None
        self._max_line = max_line
        self._max_event = max_event
        self._line = bytearray()  # the line that has not ended yet
        self._data = bytearray()
        self._type = b""
        self._id = ""
        self._at_start = True
        self._after_cr = False  # an LF that comes first in the next bytes belongs to the CR before it
        self._error: EventTooLarge | None = None

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete.

        Raises EventTooLarge; where events came before the fault in the same bytes, the next call raises it.
        """
        if self._error is not None:
            raise self._error
        events: list[Event] = []
        try:
            self._feed(data, events)
        except EventTooLarge as error:
            self._error = error
            self._line, self._data = bytearray(), bytearray()
            if not events:
                raise
        return events

    def close(self) -> list[Event]:
        """The stream has ended: an unfinished event is dropped, nothing comes out. Raises EventTooLarge."""
        if self._error is not None:
            raise self._error
        return []

    @property
    def between(self) -> bool:
        """Whether nothing of an event, or of what comes before the first, has been read."""
        begun = self._line or self._data or self._type or self._at_start or self._after_cr
        return not begun and self._error is None

    @property
    def pending(self) -> Event | None:
        """The event that the end of its line and an empty line would dispatch. Raises EventTooLarge."""
        if self._error is not None:
            raise self._error
        twin = SSEParser(self._max_line, self._max_event)
        twin._data, twin._type, twin._id = self._data[:], self._type, self._id
        twin._at_start = self._at_start
        events = twin.feed(bytes(self._line) + b"\n\n")
        return events[0] if events else None

    def _feed(self, data: bytes, events: list[Event]) -> None:
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines:
            if self._line or self._at_start:
                lines[0] = self._finish_line(lines[0])
            self._read_lines(lines, events)
        self._line += rest
        if len(self._line) > self._max_line:
            raise EventTooLarge("A line of the event stream is too long.")

    def _finish_line(self, end: bytes) -> bytes:
        """The first line that these bytes end, with what earlier bytes held of it."""
        line = bytes(self._line) + end
        self._line.clear()
        if self._at_start and len(line) <= self._max_line:
            line = line.removeprefix(_BOM)
        self._at_start = False
        return line

    def _read_lines(self, lines: list[bytes], events: list[Event]) -> None:
        for line in lines:
            if not line:
                if self._data:
                    events.append(self._dispatch())
                self._type = b""
            elif len(line) > self._max_line:
                raise EventTooLarge("A line of the event stream is too long.")
            elif line[:6] == b"data: ":  # what almost every line of a chat is
                self._add_data(line[6:])
            else:
                self._read_field(line)

    def _read_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._add_data(value)
        elif name == b"event":
            self._type = value
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and re.fullmatch(_DIGITS, value):
            self.retry = int(value)

    def _add_data(self, value: bytes) -> None:
        self._data += value
        self._data += b"\n"
        if len(self._data) > self._max_event:
            raise EventTooLarge("An event of the event stream is too large.")

    def _dispatch(self) -> Event:
        data = self._data[:-1].decode("utf-8", "replace")
        self._data.clear()
        return Event(data, self._type.decode("utf-8", "replace") if self._type else "message", self._id)


def encode_event(data: str, event: str | None = None) -> bytes:
    """One event as bytes; newlines of any kind in `data` arrive as LF.

    Raises ValueError where `event` holds a newline, or where either cannot be UTF-8.
    """
    head = ""
    if event is not None:
        if re.search(_NEWLINE, event):
            raise ValueError("the name of an event is one line")
        head = f"event: {event}\n"
    if "\n" in data or "\r" in data:
        data = re.sub(_NEWLINE, "\ndata: ", data)
    return f"{head}data: {data}\n\n".encode()
