"""OpenAI's chat completions, streamed and whole (platform.openai.com/docs/api-reference/chat), and models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cfchat.conversation.model import Delta, ToolCall
from cfchat.errors import CfchatError
from cfchat.replies.form import DONE, HEARTBEAT, End, Form, Meta, described, event, text_of
from cfchat.wire.sse import encode_event
from cfchat.wire.strict_json import encode as encode_json

# Theirs are also content_filter and function_call, which never come from here.
_REASONS = {"stop", "length", "tool_calls"}


class Chunks(Form):
    """A stream. All chunks say the same id, time and model."""

    content_type = "text/event-stream"
    heartbeat = HEARTBEAT

    def __init__(self, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._end = End()
        self._calls = _Calls()

    def start(self, meta: Meta) -> bytes:
        """The role."""
        self._id = meta.id
        head = {"id": f"chatcmpl-{meta.id}", "object": "chat.completion.chunk"}
        # Every chunk begins so; its choices follow.
        self._head = encode_json({**head, "created": meta.created, "model": meta.model})[:-1]
        return self._chunk('{"role":"assistant","content":""}')

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """One chunk a batch for the text, and one for each piece of a call."""
        self._end.note(deltas)
        text = text_of(deltas)
        chunks = self._chunk(f'{{"content":{encode_json(text)}}}') if text else b""
        for delta in deltas:
            for call in delta.tool_calls:
                chunks += self._chunk(encode_json({"tool_calls": [self._calls.piece(call, self._id)]}))
        return chunks

    def finish(self) -> bytes:
        """The reason, the usage where it was asked for, [DONE]."""
        usage = _usage(self._end.usage)
        end = self._chunk("{}", encode_json(_reason(self._end)))
        if self._include_usage and usage is not None:
            end += encode_event(f'{self._head},"choices":[],"usage":{encode_json(usage)}}}')
        return end + DONE

    def fail(self, error: CfchatError) -> bytes:
        """An error and the end. Without the error it would look whole to OpenAI's SDKs."""
        return event({"error": described(error)})

    def _chunk(self, delta: str, reason: str = "null") -> bytes:
        """A chunk of what is JSON already: an encoder that sees the whole costs several times as much."""
        choice = f'{{"index":0,"delta":{delta},"finish_reason":{reason}}}'
        return encode_event(f'{self._head},"choices":[{choice}]}}')


class Completion(Form):
    """The same, whole."""

    whole = True

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._pieces: list[ToolCall] = []
        self._end = End()

    def start(self, meta: Meta) -> bytes:
        """Nothing yet."""
        self._meta = meta
        return b""

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """Nothing yet."""
        self._texts.append(text_of(deltas))
        self._pieces += [call for delta in deltas for call in delta.tool_calls]
        self._end.note(deltas)
        return b""

    def finish(self) -> bytes:
        """The completion."""
        meta, text = self._meta, "".join(self._texts)
        calls = _whole_calls(self._pieces, meta.id)
        message: dict[str, object] = {"role": "assistant", "content": text or None, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(self._end)}
        head = {"id": f"chatcmpl-{meta.id}", "object": "chat.completion", "created": meta.created, "model": meta.model}
        # There is always one in OpenAI's own: `llm` fails where it is missing.
        usage = _usage(self._end.usage or {})
        return encode_json({**head, "choices": [choice], "usage": usage}).encode() + b"\n"


def encode_models(names: Iterable[str]) -> bytes:
    """The list of models."""
    return encode_json({"object": "list", "data": [_model(name) for name in names]}).encode() + b"\n"


def encode_model(name: str) -> bytes:
    """One of them."""
    return encode_json(_model(name)).encode() + b"\n"


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "cloudflare"}


def _reason(end: End) -> str:
    return end.reason if end.reason in _REASONS else "stop"


def _usage(counts: Mapping[str, object] | None) -> Mapping[str, object] | None:
    """Cloudflare's names are OpenAI's, but their clients count in whole numbers, and want all three."""
    if counts is None:
        return None
    asked, said, total = (counts.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    asked = int(asked) if isinstance(asked, (int, float)) else 0
    said = int(said) if isinstance(said, (int, float)) else 0
    total = int(total) if isinstance(total, (int, float)) else asked + said
    return {**counts, "prompt_tokens": asked, "completion_tokens": said, "total_tokens": total}


class _Calls:
    """Which calls of a reply have begun: what names one is said once, and none is without an id."""

    def __init__(self) -> None:
        self._begun: set[int] = set()

    def piece(self, call: ToolCall, reply_id: str) -> dict[str, object]:
        """A piece of a call as it goes into a chunk."""
        if call.index in self._begun:
            return {"index": call.index, "function": {"arguments": call.arguments}}
        self._begun.add(call.index)
        named = {"name": call.name, "arguments": call.arguments}
        return {"index": call.index, "id": _call_id(call, reply_id), "type": "function", "function": named}


def _whole_calls(pieces: Iterable[ToolCall], reply_id: str) -> list[dict[str, object]]:
    """The calls that these pieces make, in the order of their index."""
    found: dict[int, list[ToolCall]] = {}
    for piece in pieces:
        found.setdefault(piece.index, []).append(piece)
    calls: list[dict[str, object]] = []
    for _, parts in sorted(found.items()):
        named = {"name": parts[0].name, "arguments": "".join(part.arguments for part in parts)}
        calls.append({"id": _call_id(parts[0], reply_id), "type": "function", "function": named})
    return calls


def _call_id(call: ToolCall, reply_id: str) -> str:
    """The classic dialect has none."""
    return call.id or f"call_{reply_id}_{call.index}"
