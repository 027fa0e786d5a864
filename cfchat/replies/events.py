"""True server-sent events: Cloudflare's own `response`, and `text`, which is what deep-chat draws."""

from __future__ import annotations

from collections.abc import Sequence

from cfchat.conversation.model import Delta
from cfchat.errors import CfchatError
from cfchat.replies.form import DONE, HEARTBEAT, Form, described, event, text_of
from cfchat.wire.sse import encode_event
from cfchat.wire.strict_json import encode as encode_json


class Events(Form):
    content_type = "text/event-stream"
    heartbeat = HEARTBEAT

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """One event a batch."""
        text = text_of(deltas)
        if not text:
            return b""
        words = encode_json(text)
        return encode_event(f'{{"response":{words},"text":{words}}}')

    def finish(self) -> bytes:
        """[DONE], as Cloudflare's streams end."""
        return DONE

    def fail(self, error: CfchatError) -> bytes:
        """An error event. A cut would make fetch-event-source post the whole chat again."""
        return event({"error": described(error), "text": ""}, "error")
