"""Server-sent events with the text under two names: Cloudflare's own `response`, and `text`, which deep-chat shows.

A complete reply ends with `[DONE]`, as Cloudflare's streams do. A reply that breaks off ends with an `error` event and
without `[DONE]`; the connection ends cleanly, because a cut makes fetch-event-source post the whole chat again.
"""

from __future__ import annotations

from collections.abc import Sequence

from cfchat.conversation.model import Delta
from cfchat.errors import CfchatError
from cfchat.replies.form import (
    DONE,
    HEARTBEAT,
    End,
    Form,
    describe,
    describe_sources,
    encode_json_event,
    reasoning_of,
    sources_of,
    text_of,
)
from cfchat.wire.sse import encode_event
from cfchat.wire.strict_json import encode as encode_json


class Events(Form):
    """The form of `Accept: text/event-stream`."""

    content_type = "text/event-stream"
    heartbeat = HEARTBEAT

    def __init__(self, thoughts: bool = False) -> None:
        self.thoughts = thoughts
        self._end = End()

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """Return one event for the text of the batch, behind one for its sources and one for its reasoning."""
        self._end.note(deltas)
        events = b""
        if sources := sources_of(deltas):
            events = encode_json_event({"sources": describe_sources(sources), "text": ""}, "sources")
        if self.thoughts and (reasoning := reasoning_of(deltas)):
            events += encode_json_event({"response": "", "text": "", "reasoning": reasoning})
        text = text_of(deltas)
        if not text:
            return events
        encoded = encode_json(text)
        return events + encode_event(f'{{"response":{encoded},"text":{encoded}}}')

    def finish(self) -> bytes:
        """Return an event with the finish reason and the usage, which draws nothing, and [DONE]."""
        end = {"response": "", "text": "", "finish_reason": self._end.reason, "usage": self._end.usage}
        return encode_json_event(end) + DONE

    def fail(self, error: CfchatError) -> bytes:
        """Return an error event."""
        return encode_json_event({"error": describe(error), "text": ""}, "error")


class NumberedEvents(Events):
    """The same with an `id` for each event (WHATWG HTML §9.2.6), by which a client can go on where it has lost its way.

    The id is the reply's name and the number of the entry of its journal, so each entry is to be encoded by itself.
    """

    def __init__(self, thoughts: bool, name: str, number: int = 0) -> None:
        super().__init__(thoughts)
        self._name = name
        self._number = number

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """Return the event of an entry; empty if the entry shows nothing."""
        self._number += 1
        event = super().encode(deltas)
        # Last, because fetch-event-source takes an id with its line, also if the rest of the event never comes.
        return b"%bid: %b.%d\n\n" % (event[:-1], self._name.encode(), self._number) if event else b""
