"""The whole reply as one JSON object, for clients that do not stream.

Its bytes come at the end, so an error has its own HTTP status instead of an event.
"""

from __future__ import annotations

from cfchat.replies.form import WholeForm, describe_sources
from cfchat.wire.strict_json import encode as encode_json


class Whole(WholeForm):
    """The form of `Accept: application/json`."""

    def finish(self) -> bytes:
        """Return the object. `response` and `text` are the same, because some clients read one and some the other."""
        text, end, model = "".join(self._texts), self._end, self._meta.model
        reply: dict[str, object]
        reply = {"response": text, "text": text, "usage": end.usage, "model": model, "finish_reason": end.reason}
        if reasoning := "".join(self._reasoning):
            reply["reasoning"] = reasoning
        if self._sources:
            reply["sources"] = describe_sources(self._sources)
        return encode_json(reply).encode() + b"\n"
