"""What the forms of a reply have in common, and which one a client wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cfchat.conversation.model import Delta
from cfchat.errors import CfchatError
from cfchat.wire.sse import encode_event
from cfchat.wire.strict_json import encode as encode_json

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": still there\n\n"  # a comment (WHATWG HTML §9.2.6), which every parser passes over


class Meta(NamedTuple):
    """What a reply may say of itself: an id of its own, when it began (seconds since the epoch), and who answers."""

    id: str
    created: int
    model: str


class Form:
    """One reply as bytes: `start`, then `encode` for each batch, then `finish`, or else `fail`. Pure.

    `whole`: nothing comes before `finish`, so an error can still have its status. `heartbeat` may be sent at any time
    behind `start` while the model is silent; empty where the form has no such thing.
    """

    content_type = "application/json"
    fields: Sequence[tuple[str, str]] = ()
    whole = False
    heartbeat = b""

    def start(self, meta: Meta) -> bytes:
        """What comes before the first words."""
        return b""

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """A batch; empty where nothing of it is for the front end. Never ends inside a character."""
        raise NotImplementedError

    def finish(self) -> bytes:
        """What comes behind the last words of a whole reply."""
        return b""

    def fail(self, error: CfchatError) -> bytes:
        """The end of a reply that breaks; empty where the form has no words for it, so that it must be cut."""
        return b""


class End:
    """How a reply ended: why, and what it cost. Kept up with each batch."""

    def __init__(self) -> None:
        self.reason = "stop"
        self.usage: Mapping[str, object] | None = None

    def note(self, deltas: Sequence[Delta]) -> None:
        last = deltas[-1]
        if last.finish_reason is not None:
            self.reason, self.usage = last.finish_reason, last.usage


def text_of(deltas: Sequence[Delta]) -> str:
    """The words of a batch."""
    return deltas[0].text if len(deltas) == 1 else "".join([delta.text for delta in deltas])


def event(data: object, name: str | None = None) -> bytes:
    """An event whose data is JSON."""
    return encode_event(encode_json(data), name)


def described(error: CfchatError) -> dict[str, object]:
    """An error, in the shape that OpenAI's clients know. What is for the log stays out."""
    return {"message": error.message, "type": error.type, "code": error.code, "param": error.param}
