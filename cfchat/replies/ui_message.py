"""The UI message stream of Vercel's AI SDK, v5 to v7 (ai-sdk.dev/docs/ai-sdk-ui/stream-protocol).

The SDK checks every event against a schema and refuses unknown keys, so an event has only keys that it knows. A reply
is one message with one step and one text. An error event ends the stream without closing them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cfchat.conversation.model import Delta
from cfchat.errors import CfchatError
from cfchat.replies.form import DONE, HEARTBEAT, End, Form, Meta, encode_json_event, text_of
from cfchat.wire.sse import encode_event
from cfchat.wire.strict_json import encode as encode_json

_REASONS = {"stop": "stop", "length": "length", "tool_calls": "tool-calls"}
_USAGE = {
    "prompt_tokens": "inputTokens",
    "input_tokens": "inputTokens",
    "completion_tokens": "outputTokens",
    "output_tokens": "outputTokens",
    "total_tokens": "totalTokens",
}


class UIMessage(Form):
    """The form of the AI SDK's route."""

    content_type = "text/event-stream"
    fields = (("X-Vercel-AI-UI-Message-Stream", "v1"),)
    heartbeat = HEARTBEAT

    def __init__(self) -> None:
        self._end = End()

    def start(self, meta: Meta) -> bytes:
        """Open the message, its step and its text."""
        message = encode_json_event({"type": "start", "messageId": f"msg_{meta.id}"})
        step = encode_json_event({"type": "start-step"})
        return message + step + encode_json_event({"type": "text-start", "id": "t1"})

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """Return one event for the batch."""
        self._end.note(deltas)
        text = text_of(deltas)
        return encode_event(f'{{"type":"text-delta","id":"t1","delta":{encode_json(text)}}}') if text else b""

    def finish(self) -> bytes:
        """Close the text, the step and the message; the last event has the reason and the usage."""
        finish: dict[str, object] = {"type": "finish", "finishReason": _REASONS.get(self._end.reason, "other")}
        usage = _rename_usage(self._end.usage or {})
        if usage:
            finish["messageMetadata"] = {"usage": usage}
        text = encode_json_event({"type": "text-end", "id": "t1"})
        return text + encode_json_event({"type": "finish-step"}) + encode_json_event(finish) + DONE

    def fail(self, error: CfchatError) -> bytes:
        """Return an error event and a clean end."""
        return encode_json_event({"type": "error", "errorText": error.message}) + DONE


def _rename_usage(counts: Mapping[str, object]) -> dict[str, object]:
    """Return Cloudflare's counts under the SDK's names."""
    return {theirs: counts[ours] for ours, theirs in _USAGE.items() if ours in counts}
