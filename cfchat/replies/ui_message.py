"""The UI message stream of Vercel's AI SDK, v5 to v7 (ai-sdk.dev/docs/ai-sdk-ui/stream-protocol).

Clients check each event and refuse what they do not know, so nothing is added to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cfchat.conversation.model import Delta
from cfchat.errors import CfchatError
from cfchat.replies.form import DONE, HEARTBEAT, End, Form, Meta, event, text_of
from cfchat.wire.sse import encode_event
from cfchat.wire.strict_json import encode as encode_json

_REASONS = {"stop": "stop", "length": "length", "tool_calls": "tool-calls"}
_USAGE = {"prompt_tokens": "inputTokens", "completion_tokens": "outputTokens", "total_tokens": "totalTokens"}


class UIMessage(Form):
    content_type = "text/event-stream"
    fields = (("X-Vercel-AI-UI-Message-Stream", "v1"),)
    heartbeat = HEARTBEAT

    def __init__(self) -> None:
        self._end = End()

    def start(self, meta: Meta) -> bytes:
        """A message of one step with one text."""
        started = event({"type": "start", "messageId": f"msg_{meta.id}"})
        return started + event({"type": "start-step"}) + event({"type": "text-start", "id": "t1"})

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """One event a batch."""
        self._end.note(deltas)
        text = text_of(deltas)
        return encode_event(f'{{"type":"text-delta","id":"t1","delta":{encode_json(text)}}}') if text else b""

    def finish(self) -> bytes:
        """The ends of all that was started, the last of them with the reason and the usage."""
        finish: dict[str, object] = {"type": "finish", "finishReason": _REASONS.get(self._end.reason, "other")}
        usage = _usage(self._end.usage or {})
        if usage:
            finish["messageMetadata"] = {"usage": usage}
        ended = event({"type": "text-end", "id": "t1"}) + event({"type": "finish-step"})
        return ended + event(finish) + DONE

    def fail(self, error: CfchatError) -> bytes:
        """An error event and a clean end."""
        return event({"type": "error", "errorText": error.message}) + DONE


def _usage(counts: Mapping[str, object]) -> dict[str, object]:
    return {theirs: counts[ours] for ours, theirs in _USAGE.items() if ours in counts}
