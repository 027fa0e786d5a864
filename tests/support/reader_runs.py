"""Run a reader over bytes, cut in any way, and compare its events with the expected ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from slow_reader import SMALL, Outcome, Verdict, pieces_of

from cfchat.errors import ProtocolError
from cfchat.wire.messages import CLOSED, NEED_DATA, Data, EndOfMessage, RequestHead, ResponseHead
from cfchat.wire.reader import RequestReader, ResponseReader

Reader = RequestReader | ResponseReader


def plain(event: RequestHead | ResponseHead | Data | EndOfMessage) -> tuple[Any, ...]:
    """Return an event in the shape that the reference uses."""
    match event:
        case RequestHead(method, target, minor, fields):
            return ("head", method, target, minor, list(fields))
        case ResponseHead(status, reason, minor, fields):
            return ("head", status, reason, minor, list(fields))
        case Data(data):
            assert data
            return ("data", data)
        case EndOfMessage(trailers):
            return ("end", list(trailers))


# The form of a message that a client may read.
SENTENCE = re.compile(r"[A-Z].*[a-z]\.")


def pump(reader: Reader, events: list[Any]) -> Verdict:
    """Read all events; join data that follows data."""
    while True:
        try:
            event = reader.next_event()
        except ProtocolError as error:
            assert reader.buffered == 0
            assert SENTENCE.fullmatch(error.message)
            return type(error)
        if event is NEED_DATA or event is CLOSED:
            return "more" if event is NEED_DATA else "closed"
        assert not isinstance(event, type(NEED_DATA))
        new = plain(event)
        if new[0] == "data" and events and events[-1][0] == "data":
            new = ("data", events.pop()[1] + new[1])
        events.append(new)
        if new[0] == "end" and isinstance(reader, ResponseReader):
            return "ended"


def run(reader: Reader, pieces: Iterable[bytes], eof: bool) -> Outcome:
    """Give a reader these pieces; return all events, and the error or the state at the end."""
    events: list[Any] = []
    verdict: Verdict = "more"
    for piece in pieces:
        reader.receive_data(piece)
        verdict = pump(reader, events)
        if verdict != "more":
            return events, verdict
        # A reader that waits has at most the longest part that it can wait for.
        assert reader.buffered < SMALL.head
    if eof:
        reader.receive_eof()
        verdict = pump(reader, events)
    return events, verdict


def check(make: Callable[[], Reader], data: bytes, cuts: list[int], eof: bool, expected: Outcome) -> None:
    """Compare the outcome for the whole data, for these cuts, and byte by byte."""
    for pieces in ([data], pieces_of(data, cuts), [data[at : at + 1] for at in range(len(data))]):
        assert run(make(), pieces, eof) == expected
