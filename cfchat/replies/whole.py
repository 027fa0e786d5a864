"""One JSON object at the end."""

from __future__ import annotations

from collections.abc import Sequence

from cfchat.conversation.model import Delta
from cfchat.replies.form import End, Form, Meta, text_of
from cfchat.wire.strict_json import encode as encode_json


class Whole(Form):
    whole = True

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._end = End()

    def start(self, meta: Meta) -> bytes:
        """Nothing yet."""
        self._model = meta.model
        return b""

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """Nothing yet."""
        self._texts.append(text_of(deltas))
        self._end.note(deltas)
        return b""

    def finish(self) -> bytes:
        """`response` and `text` are the same, for clients that look for either."""
        text, end = "".join(self._texts), self._end
        reply = {"response": text, "text": text, "usage": end.usage, "model": self._model, "finish_reason": end.reason}
        return encode_json(reply).encode() + b"\n"
