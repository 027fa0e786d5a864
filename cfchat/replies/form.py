"""What the forms of a reply share.

A form turns batches of deltas into bytes for one kind of front end, and does nothing else: it has no clock, no I/O
and no queue, so a test is a list of batches and the bytes that they give. One object serves one reply. `encode`
runs for every token: forms write the fixed parts of their JSON themselves and encode only the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cfchat.conversation.model import Delta, Source, ToolCall
from cfchat.errors import CfchatError
from cfchat.wire.sse import encode_event
from cfchat.wire.strict_json import encode as encode_json

# What becomes of a model's reasoning.
HIDE, SEND = "hide", "send"

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": still there\n\n"  # a comment (WHATWG HTML §9.2.6): every parser ignores it


class Meta(NamedTuple):
    """What a reply says about itself: its id, its time (seconds since the epoch) and the model that answers.

    `sources` are those that a search has found before the first words. `search_failed` says that a model answers in the
    place of the search.
    """

    id: str
    created: int
    model: str
    sources: Sequence[Source] = ()
    search_failed: bool = False


class Form:
    """A reply as bytes: `start`, then `encode` for each batch, then `finish`, or `fail` if the reply breaks off.

    `whole` forms give no bytes before `finish`, so an error can still have its own status. `heartbeat` may be sent at
    any time while the model is silent; it is empty if the form has no such thing. With `thoughts` the reply shows the
    model's reasoning, where the form has a place for it. A form that `collects` keeps all of the reply until its end.
    """

    content_type = "application/json"
    fields: Sequence[tuple[str, str]] = ()
    whole = False
    heartbeat = b""
    thoughts = False
    collects = False

    def start(self, meta: Meta) -> bytes:
        """Return the bytes before the first text."""
        return b""

    def source_fields(self, sources: Sequence[Source]) -> list[tuple[str, str]]:
        """Return the fields that tell the sources that are known before the first text, if the body has no place."""
        return []

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """Return the bytes of a batch; empty if none of it is for the front end. Never split a character."""
        raise NotImplementedError

    def finish(self) -> bytes:
        """Return the bytes behind the last batch of a complete reply."""
        return b""

    def fail(self, error: CfchatError) -> bytes:
        """Return the end of a reply that breaks off; empty if the form cannot say it, so that it must be cut."""
        return b""


class End:
    """How a reply ended: the finish reason, and the usage that Cloudflare reported. Updated with each batch."""

    def __init__(self) -> None:
        self.reason = "stop"
        self.usage: Mapping[str, object] | None = None

    def note(self, deltas: Sequence[Delta]) -> None:
        """Take the reason and the usage from a batch, if it is the last one."""
        last = deltas[-1]
        if last.finish_reason is not None:
            self.reason, self.usage = last.finish_reason, last.usage


class WholeForm(Form):
    """A form that collects the reply and gives all its bytes in `finish`."""

    whole = collects = True

    def __init__(self, thoughts: bool = False) -> None:
        self.thoughts = thoughts
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._pieces: list[ToolCall] = []
        self._sources: list[Source] = []
        self._end = End()

    def start(self, meta: Meta) -> bytes:
        """Keep what the reply says about itself; return nothing."""
        self._meta = meta
        return b""

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """Keep the batch; return nothing."""
        self._texts.append(text_of(deltas))
        if self.thoughts:
            self._reasoning.append(reasoning_of(deltas))
        self._pieces += [piece for delta in deltas for piece in delta.tool_calls]
        self._sources += sources_of(deltas)
        self._end.note(deltas)
        return b""


def text_of(deltas: Sequence[Delta]) -> str:
    """Return the text of a batch."""
    return deltas[0].text if len(deltas) == 1 else "".join([delta.text for delta in deltas])


def reasoning_of(deltas: Sequence[Delta]) -> str:
    """Return the reasoning of a batch."""
    return "".join([delta.reasoning for delta in deltas])


def sources_of(deltas: Sequence[Delta]) -> Sequence[Source]:
    """Return the sources of a batch."""
    return deltas[0].sources if len(deltas) == 1 else [source for delta in deltas for source in delta.sources]


def describe_sources(sources: Iterable[Source]) -> list[dict[str, object]]:
    """Return sources as the forms of this server's own show them, as values for JSON."""
    return [source._asdict() for source in sources]


def encode_json_event(data: object, name: str | None = None) -> bytes:
    """Return an event whose data is JSON."""
    return encode_event(encode_json(data), name)


def describe(error: CfchatError) -> dict[str, object]:
    """Return an error in the shape that clients of OpenAI know, without its `detail`, which is for the log only."""
    return {"message": error.message, "type": error.type, "code": error.code, "param": error.param}
