"""The UI message stream of Vercel's AI SDK, v5 to v7 (ai-sdk.dev/docs/ai-sdk-ui/stream-protocol).

The SDK checks every event against a schema and refuses unknown keys, so an event has only keys that it knows. A reply
is one message with one step, in which texts and the model's reasoning are parts, only one of them open at a time. An
error event ends the stream without closing them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cfchat.conversation.model import Delta, Source
from cfchat.errors import CfchatError, Stopped
from cfchat.replies.form import DONE, HEARTBEAT, End, Form, Meta, encode_json_event, reasoning_of, sources_of, text_of
from cfchat.wire.sse import encode_event
from cfchat.wire.strict_json import encode as encode_json

_REASONS = {"stop": "stop", "length": "length", "tool_calls": "tool-calls", "content_filter": "content-filter"}
_USAGE = {
    "prompt_tokens": "inputTokens",
    "input_tokens": "inputTokens",
    "completion_tokens": "outputTokens",
    "output_tokens": "outputTokens",
    "total_tokens": "totalTokens",
}


class UIMessage(Form):
    """The form of the AI SDK's route. `name` is the id of the chat, as the client has it."""

    content_type = "text/event-stream"
    fields = (("X-Vercel-AI-UI-Message-Stream", "v1"),)
    heartbeat = HEARTBEAT

    def __init__(self, thoughts: bool = False, name: str = "") -> None:
        self.thoughts = thoughts
        self.name = name
        self._end = End()
        self._part = ""  # the kind of the part that is open, and its id
        self._id = ""
        self._number = 0
        self._sources = 0  # how many were told
        self._head = ""  # every piece of the part begins with this

    def start(self, meta: Meta) -> bytes:
        """Open the message, its step and its text; with reasoning the text is opened when it begins."""
        message = encode_json_event({"type": "start", "messageId": f"msg_{meta.id}"})
        step = encode_json_event({"type": "start-step"})
        return message + step + (b"" if self.thoughts else self._open("text"))

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """Return one event for the text of the batch, behind one for its reasoning and one for each source."""
        self._end.note(deltas)
        text = text_of(deltas)
        reasoning = reasoning_of(deltas) if self.thoughts else ""
        events = b"".join(map(self._cite, sources_of(deltas)))
        if reasoning:
            events += self._say("reasoning", reasoning)
        return events + self._say("text", text) if text else events

    def _cite(self, source: Source) -> bytes:
        """Tell a source. It is a part by itself, and may stand between the pieces of a text."""
        self._sources += 1
        part: dict[str, object] = {"sourceId": f"s{self._sources}", "title": source.title}
        if source.url is None:
            return encode_json_event({"type": "source-document", **part, "mediaType": "text/plain"})
        return encode_json_event({"type": "source-url", **part, "url": source.url})

    def _say(self, part: str, words: str) -> bytes:
        opened = b"" if part == self._part else self._open(part)
        return opened + encode_event(f"{self._head}{encode_json(words)}}}")

    def _open(self, part: str) -> bytes:
        """Close the part that is open, and open another. A text has the number of the reasoning before it."""
        closed = self._close()
        self._number += part == "reasoning" or not self._number
        self._part, self._id = part, f"{part[0]}{self._number}"
        self._head = f'{{"type":"{part}-delta","id":"{self._id}","delta":'
        return closed + encode_json_event({"type": f"{part}-start", "id": self._id})

    def _close(self) -> bytes:
        return encode_json_event({"type": f"{self._part}-end", "id": self._id}) if self._part else b""

    def finish(self) -> bytes:
        """Close the part, the step and the message; the last event has the reason and the usage."""
        finish: dict[str, object] = {"type": "finish", "finishReason": _REASONS.get(self._end.reason, "other")}
        usage = _rename_usage(self._end.usage or {})
        if usage:
            finish["messageMetadata"] = {"usage": usage}
        return self._close() + encode_json_event({"type": "finish-step"}) + encode_json_event(finish) + DONE

    def fail(self, error: CfchatError) -> bytes:
        """Return an error event, or that the user has stopped the reply, and a clean end."""
        if isinstance(error, Stopped):
            return encode_json_event({"type": "abort"}) + DONE
        return encode_json_event({"type": "error", "errorText": error.message}) + DONE


def _rename_usage(counts: Mapping[str, object]) -> dict[str, object]:
    """Return Cloudflare's counts under the SDK's names."""
    return {theirs: counts[ours] for ours, theirs in _USAGE.items() if ours in counts}
