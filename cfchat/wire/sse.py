"""Event streams, read and written (WHATWG HTML §9.2.6, "Interpreting an event stream").

The parser takes bytes and gives whole events; an event that the stream does not finish is dropped, as the standard
says. Lines are split and joined as bytes and decoded once per event. That gives the same text as decoding first:
CR and LF are never part of a longer UTF-8 sequence, and Python replaces a broken sequence as the Encoding Standard
does. A line and an event each have a limit, which does not depend on how the bytes were cut.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from typing import NamedTuple

from cfchat.errors import EventTooLarge

_LINE_TOO_LONG = "A line of the event stream is too long."
_NEWLINE = r"\r\n|\r|\n"
# The standard says "only ASCII digits". More than 18 are no waiting time, and int() refuses thousands of them.
_DIGITS = rb"[0-9]{1,18}"


class Event(NamedTuple):
    """One dispatched event. `id` is the last id that the stream gave."""

    data: str
    event: str = "message"
    id: str = ""


class SSEParser:
    """A parser of one stream: the same events and the same error for any cut of the bytes.

    Limits are in bytes: `max_line` without the line's end, `max_event` for an event's data with one LF per line.
    `retry` is the last reconnection time that the stream gave, in milliseconds.
    """

    def __init__(self, max_line: int = 1 << 20, max_event: int = 1 << 20) -> None:
        self.retry: int | None = None
        self._max_line = max_line
        self._max_event = max_event
        self._max_together = min(max_line, max_event)  # no line or event in so few bytes is over its limit
        self._line = bytearray()  # the part of a line that has no end yet
        self._data = bytearray()
        self._type = b""
        self._id = ""
        self._at_start = True
        self._after_cr = False  # if the next bytes begin with LF, it belongs to the CR before it
        self._error: EventTooLarge | None = None

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes and return the events that they complete.

        Raises:
            EventTooLarge: a line or an event is over its limit. If events came before it in the same bytes, this call
                returns them and the next call raises. Every further call raises it again.
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

    @property
    def between(self) -> bool:
        """Return whether the parser stands between two events: behind one, and with nothing of the next."""
        begun = self._line or self._data or self._type or self._at_start or self._after_cr
        return not begun and self._error is None

    @property
    def pending(self) -> Event | None:
        """Return the event that a line's end and an empty line would complete now, or None. Changes nothing.

        Raises:
            EventTooLarge: as `feed` raises it.
        """
        if self._error is not None:
            raise self._error
        twin = SSEParser(self._max_line, self._max_event)
        twin._data, twin._type, twin._id = self._data[:], self._type, self._id
        twin._at_start = self._at_start
        events = twin.feed(bytes(self._line) + b"\n\n")
        return events[0] if events else None

    def _feed(self, data: bytes, events: list[Event]) -> None:
        """Split bytes into lines and read the whole ones. The rest waits for its end."""
        # Fast case: whole events of one data line each, as almost all are. Falls through to reading line by line; equal
        # by tests/wire/test_sse.py::test_whole_events_are_what_their_lines_are.
        begun = self._line or self._data or self._type or self._after_cr
        if data[-2:] == b"\n\n" and not begun and len(data) <= self._max_together and b"\r" not in data:
            blocks = data[:-2].split(b"\n\n")
            texts = [block[6:] for block in blocks if block[:6] == b"data: "]
            if len(texts) == len(blocks) and data.count(b"\n") == 2 * len(blocks):
                self._at_start = False
                events += [Event(text.decode("utf-8", "replace"), "message", self._id) for text in texts]
                return
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
            raise EventTooLarge(_LINE_TOO_LONG)

    def _finish_line(self, end: bytes) -> bytes:
        """Return the first whole line: its part from earlier bytes and its `end` from these."""
        line = bytes(self._line) + end
        self._line.clear()
        if self._at_start and len(line) <= self._max_line:
            line = line.removeprefix(BOM_UTF8)
        self._at_start = False
        return line

    def _read_lines(self, lines: list[bytes], events: list[Event]) -> None:
        for line in lines:
            if not line:
                if self._data:
                    events.append(self._dispatch())
                self._type = b""
            elif len(line) > self._max_line:
                raise EventTooLarge(_LINE_TOO_LONG)
            elif line[:6] == b"data: ":  # Fast case: almost every line of a chat. Falls through to _read_field.
                self._add_data(line[6:])
            else:
                self._read_field(line)

    def _read_field(self, line: bytes) -> None:
        """Read one field; ignore comments and unknown names."""
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
    """Return one event as bytes. Every newline in `data` (CRLF, CR, LF) arrives as LF.

    Raises:
        ValueError: `event` holds a newline, or one of the two cannot be encoded as UTF-8.
    """
    head = ""
    if event is not None:
        if re.search(_NEWLINE, event):
            raise ValueError("the name of an event is one line")
        head = f"event: {event}\n"
    if "\n" in data or "\r" in data:
        data = re.sub(_NEWLINE, "\ndata: ", data)
    return f"{head}data: {data}\n\n".encode()
