"""OpenAI's chat completions, streamed and whole (platform.openai.com/docs/api-reference/chat), and its list of models.

Clients are the SDKs of OpenAI and the many programs built on them. Where they would fail on Cloudflare's values, the
values are completed: a call of a tool has an id, a usage has three whole numbers. The beginning of a chunk is encoded
once for a reply, because a reply makes a chunk for every few tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cfchat.conversation.model import Delta, Source, ToolCall
from cfchat.errors import CfchatError
from cfchat.replies.form import (
    DONE,
    HEARTBEAT,
    End,
    Form,
    Meta,
    WholeForm,
    describe,
    encode_json_event,
    reasoning_of,
    sources_of,
    text_of,
)
from cfchat.wire.sse import encode_event
from cfchat.wire.strict_json import encode as encode_json

# OpenAI also has function_call; this server never sends it.
_REASONS = {"stop", "length", "tool_calls", "content_filter"}


class Chunks(Form):
    """A completion as a stream of chunks. All chunks have the same id, time and model."""

    content_type = "text/event-stream"
    heartbeat = HEARTBEAT

    def __init__(self, include_usage: bool, thoughts: bool = False) -> None:
        self.thoughts = thoughts
        self._include_usage = include_usage
        self._end = End()
        self._calls = _StreamedCalls()
        self._sources: list[Source] = []
        self._length = 0  # of the text, in characters

    def start(self, meta: Meta) -> bytes:
        """Return the first chunk, which has the role."""
        self._id = meta.id
        head = {"id": f"chatcmpl-{meta.id}", "object": "chat.completion.chunk"}
        # Every chunk begins with this; its choices follow.
        self._head = encode_json({**head, "created": meta.created, "model": meta.model})[:-1]
        return self._chunk('{"role":"assistant","content":""}')

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """Return a chunk for the reasoning of the batch, one for its text, and one for each piece of a call."""
        self._end.note(deltas)
        self._sources += sources_of(deltas)
        text = text_of(deltas)
        self._length += len(text)
        chunks = self._chunk(f'{{"content":{encode_json(text)}}}') if text else b""
        if self.thoughts and (reasoning := reasoning_of(deltas)):
            chunks = self._chunk(encode_json({"reasoning_content": reasoning})) + chunks
        for delta in deltas:
            for call in delta.tool_calls:
                chunks += self._chunk(encode_json({"tool_calls": [self._calls.describe(call, self._id)]}))
        return chunks

    def finish(self) -> bytes:
        """Return the reason with the sources, the usage if the client asked for it, and [DONE]."""
        annotations = _annotate(self._sources, self._length)
        delta = encode_json({"annotations": annotations}) if annotations else "{}"
        end = self._chunk(delta, encode_json(_map_reason(self._end)))
        if self._include_usage and self._end.usage is not None:
            usage = encode_json(complete_usage(self._end.usage))
            end += encode_event(f'{self._head},"choices":[],"usage":{usage}}}')
        return end + DONE

    def fail(self, error: CfchatError) -> bytes:
        """Return the error. Without it, or with [DONE] behind it, the reply would look complete to OpenAI's SDKs."""
        return encode_json_event({"error": describe(error)})

    def _chunk(self, delta: str, reason: str = "null") -> bytes:
        """Return a chunk from parts that are JSON already: encoding the whole costs several times as much."""
        choice = f'{{"index":0,"delta":{delta},"finish_reason":{reason}}}'
        return encode_event(f'{self._head},"choices":[{choice}]}}')


class Completion(WholeForm):
    """A whole completion."""

    def finish(self) -> bytes:
        """Return the completion."""
        meta, text = self._meta, "".join(self._texts)
        calls = _join_calls(self._pieces, meta.id)
        message: dict[str, object] = {"role": "assistant", "content": text or None, "refusal": None}
        if reasoning := "".join(self._reasoning):
            message["reasoning_content"] = reasoning
        if calls:
            message["tool_calls"] = calls
        if annotations := _annotate(self._sources, len(text)):
            message["annotations"] = annotations
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _map_reason(self._end)}
        head = {"id": f"chatcmpl-{meta.id}", "object": "chat.completion", "created": meta.created, "model": meta.model}
        # OpenAI always sends a usage, and `llm` fails without it.
        usage = complete_usage(self._end.usage or {})
        return encode_json({**head, "choices": [choice], "usage": usage}).encode() + b"\n"


def encode_models(names: Iterable[str]) -> bytes:
    """Return the list of models."""
    return encode_json({"object": "list", "data": [_describe_model(name) for name in names]}).encode() + b"\n"


def encode_model(name: str) -> bytes:
    """Return one model as the list shows it."""
    return encode_json(_describe_model(name)).encode() + b"\n"


def _describe_model(name: str) -> dict[str, object]:
    """Return a model in OpenAI's shape. Cloudflare does not say when a model was created, so that is 0."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "cloudflare"}


def cite(sources: Iterable[Source], length: int) -> list[dict[str, object]]:
    """Return the sources that have a URL, because OpenAI's API has no place for others.

    A citation belongs to a part of the text. AI Search names none, so each has an empty part at the end of the text,
    which has this `length`.
    """
    place = {"start_index": length, "end_index": length}
    return [{"url": source.url, "title": source.title, **place} for source in sources if source.url is not None]


def _annotate(sources: Iterable[Source], length: int) -> list[dict[str, object]]:
    return [{"type": "url_citation", "url_citation": citation} for citation in cite(sources, length)]


def _map_reason(end: End) -> str:
    """Return a finish reason that OpenAI's clients know."""
    return end.reason if end.reason in _REASONS else "stop"


def complete_usage(counts: Mapping[str, object]) -> dict[str, object]:
    """Return the usage with all three counts as whole numbers, as OpenAI's clients need them."""
    # The second names are those of OpenAI's responses.
    prompt = counts.get("prompt_tokens", counts.get("input_tokens"))
    completion = counts.get("completion_tokens", counts.get("output_tokens"))
    total = counts.get("total_tokens")
    prompt = int(prompt) if isinstance(prompt, (int, float)) else 0
    completion = int(completion) if isinstance(completion, (int, float)) else 0
    total = int(total) if isinstance(total, (int, float)) else prompt + completion
    return {**counts, "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


class _StreamedCalls:
    """The calls of tools in a stream: the first piece of each has its id and name, the others only arguments."""

    def __init__(self) -> None:
        self._begun: set[int] = set()

    def describe(self, call: ToolCall, reply_id: str) -> dict[str, object]:
        """Return a piece of a call in the shape of a chunk."""
        if call.index in self._begun:
            return {"index": call.index, "function": {"arguments": call.arguments}}
        self._begun.add(call.index)
        return {"index": call.index, **_describe_call(call, call.arguments, reply_id)}


def _join_calls(pieces: Iterable[ToolCall], reply_id: str) -> list[dict[str, object]]:
    """Return the calls that these pieces make, in the order of their index."""
    calls: dict[int, list[ToolCall]] = {}
    for piece in pieces:
        calls.setdefault(piece.index, []).append(piece)
    return [
        _describe_call(parts[0], "".join(part.arguments for part in parts), reply_id)
        for _, parts in sorted(calls.items())
    ]


def _describe_call(first: ToolCall, arguments: str, reply_id: str) -> dict[str, object]:
    """Return a call by its first piece."""
    function = {"name": first.name, "arguments": arguments}
    return {"id": identify_call(first, reply_id), "type": "function", "function": function}


def identify_call(first: ToolCall, reply_id: str) -> str:
    """Return the id of a call. Cloudflare's older models give it none, so it gets one of ours."""
    return first.id or f"call_{reply_id}_{first.index}"
