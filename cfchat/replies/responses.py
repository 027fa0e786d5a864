"""OpenAI's Responses, streamed and whole (platform.openai.com/docs/api-reference/responses).

A response has a list of items: the model's reasoning, its messages, and its calls of tools, in the order in which they
begin. Both forms build that list; the stream also tells each step of it as an event, and OpenAI's helpers check that
the steps fit. A message or reasoning is done where another item begins, a call at the end, because the pieces of
several calls may alternate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from cfchat.conversation.model import Delta, Source, ToolCall
from cfchat.conversation.parse import without_surrogates
from cfchat.errors import CfchatError, Stopped
from cfchat.replies.form import HEARTBEAT, End, Form, Meta, describe, sources_of
from cfchat.replies.openai import cite, complete_usage, identify_call
from cfchat.wire.sse import encode_event
from cfchat.wire.strict_json import encode as encode_json

# What a response repeats of its request, and what it says if the request does not.
_REPEATED: Mapping[str, object] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": None,
    "store": False,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
# The codes that OpenAI's types allow in a response that failed, by the type of our error.
_FAULTS = {"rate_limit_error": "rate_limit_exceeded", "invalid_request_error": "invalid_prompt"}
_FAULT = "server_error"

Event = tuple[str, Mapping[str, object]]  # its type, and its fields


class _Kind(NamedTuple):
    """A kind of items: the prefix of their ids, their fixed fields, and the part that holds their text, if one does.

    `event` is the type of the events for the text, without its end; `more` are further fields of these events.
    """

    prefix: str
    fields: Mapping[str, object]
    part: Mapping[str, object] | None
    event: str
    more: Mapping[str, object] = {}


_TEXT_PART = {"type": "output_text", "annotations": [], "logprobs": []}
_MESSAGE = _Kind(
    "msg", {"type": "message", "role": "assistant"}, _TEXT_PART, "response.output_text", {"logprobs": []}
)
_REASONING = _Kind("rs", {"type": "reasoning", "summary": []}, {"type": "reasoning_text"}, "response.reasoning_text")
_CALL = _Kind("fc", {"type": "function_call"}, None, "response.function_call_arguments")

_NOTHING_MORE = Delta()[1:]  # than a text


class _Item:
    """An item of the output: its words so far, and the events that tell how it begins, grows and ends."""

    def __init__(self, kind: _Kind, item_id: str, index: int, call: Mapping[str, object]) -> None:
        self.kind = kind
        self.words: list[str] = []
        self.annotations: list[dict[str, object]] = []
        self.status = "in_progress"
        self._fields = {"id": item_id, **kind.fields, **call}
        self._index = {"output_index": index}
        self._place = {"item_id": item_id, **self._index, **({"content_index": 0} if kind.part else {})}
        self.growing = f"{kind.event}.delta"
        # Every event of more words has these fields.
        self.head = encode_json({**self._place, **kind.more})[1:-1]

    def describe(self) -> dict[str, object]:
        """Return the item with its words so far."""
        text = "".join(self.words)
        content = {"arguments": text} if self.kind.part is None else {"content": [self._describe_part(text)]}
        return {**self._fields, **content, "status": self.status}

    def _describe_part(self, text: str) -> dict[str, object]:
        annotations = {"annotations": self.annotations} if self.annotations else {}
        return {**(self.kind.part or {}), "text": text, **annotations}

    def begin(self) -> Iterator[Event]:
        """Yield the events before the first words."""
        part = self.kind.part
        empty: Mapping[str, object] = {"arguments": ""} if part is None else {"content": []}
        yield "response.output_item.added", {**self._index, "item": {**self._fields, **empty, "status": self.status}}
        if part is not None:
            yield "response.content_part.added", {**self._place, "part": {**part, "text": ""}}

    def end(self, status: str) -> Iterator[Event]:
        """Yield the events behind the last words."""
        self.status = status
        text, part = "".join(self.words), self.kind.part
        whole = {"arguments": text, "name": self._fields["name"]} if part is None else {"text": text}
        for number, annotation in enumerate(self.annotations):
            told = {"annotation_index": number, "annotation": annotation}
            yield f"{self.kind.event}.annotation.added", {**self._place, **told}
        yield f"{self.kind.event}.done", {**self._place, **whole, **self.kind.more}
        if part is not None:
            yield "response.content_part.done", {**self._place, "part": self._describe_part(text)}
        yield "response.output_item.done", {**self._index, "item": self.describe()}


class _Response(Form):
    """What both forms share: the response that grows.

    `meta` counts until the model that answers is known. `repeated` are fields of the request. `clock` returns the time
    in seconds since the epoch.
    """

    collects = True

    def __init__(
        self, meta: Meta, repeated: Mapping[str, object], clock: Callable[[], float], thoughts: bool = False
    ) -> None:
        self.thoughts = thoughts
        self._meta = meta
        self._repeated = _encode_repeated(repeated)
        self._clock = clock
        self._end = End()
        self._items: list[_Item] = []
        self._calls: dict[int, _Item] = {}
        self._sources: list[Source] = []  # those that no message has yet

    def start(self, meta: Meta) -> bytes:
        """Keep what the reply says about itself; return nothing."""
        self._meta = meta
        return b""

    def again(self, after: int) -> Events:
        """Return a stream of the same response, from its start, without the events up to a number."""
        stream = Events(self._meta, {}, self._clock, self.thoughts)
        stream._repeated, stream._after = self._repeated, after
        return stream

    def _grow(self, deltas: Sequence[Delta]) -> Iterator[tuple[_Item, str]]:
        """Yield the items to which a batch adds words, and these words, neighbours together; make new items."""
        self._end.note(deltas)
        self._sources += sources_of(deltas)
        for key, group in groupby(self._read(deltas), itemgetter(0)):
            pieces = list(group)
            yield self._find(key, pieces[0][2]), "".join([words for _, words, _ in pieces])

    def _read(self, deltas: Sequence[Delta]) -> Iterator[tuple[object, str, ToolCall | None]]:
        """Yield each piece of a batch: its kind or the number of its call, its words, and the piece of the call."""
        for delta in deltas:
            if self.thoughts and delta.reasoning:
                yield _REASONING, delta.reasoning, None
            if delta.text:
                yield _MESSAGE, delta.text, None
            for call in delta.tool_calls:
                yield call.index, call.arguments, call

    def _find(self, key: object, call: ToolCall | None) -> _Item:
        """Return the item that grows, or a new one. `call` is the first piece of a call."""
        if call is not None:
            if call.index not in self._calls:
                fields = {"call_id": identify_call(call, self._meta.id), "name": call.name}
                self._calls[call.index] = self._add(_CALL, f"_{call.index}", fields)
            return self._calls[call.index]
        assert isinstance(key, _Kind)
        if self._items and self._items[-1].kind is key:
            return self._items[-1]
        again = any(item.kind is key for item in self._items)
        return self._add(key, f"_{len(self._items)}" if again else "", {})

    def _add(self, kind: _Kind, number: str, call: Mapping[str, object]) -> _Item:
        self._annotate_last()
        item = _Item(kind, f"{kind.prefix}_{self._meta.id}{number}", len(self._items), call)
        self._items.append(item)
        return item

    def _annotate_last(self) -> None:
        """Give the sources to the last item, which is done, if it is a message that has none yet."""
        if self._items and self._items[-1].kind is _MESSAGE and not self._items[-1].annotations:
            citations = cite(self._sources, len("".join(self._items[-1].words)))
            self._items[-1].annotations = [{"type": "url_citation", **citation} for citation in citations]
            self._sources.clear()

    @property
    def _cut(self) -> str | None:
        """Return why the response is incomplete; None if it is complete."""
        return _INCOMPLETE.get(self._end.reason)

    def _status_of(self, item: _Item) -> str:
        """Return the status of an item at the end: if the reply is cut, its last item is."""
        return "incomplete" if self._cut and item is self._items[-1] else "completed"

    def _describe_end(self) -> str:
        """Return the response, complete or incomplete, as JSON."""
        usage = _describe_usage(self._end.usage or {})
        if self._cut:
            return self._describe("incomplete", incomplete_details={"reason": self._cut}, usage=usage)
        return self._describe("completed", completed_at=int(self._clock()), usage=usage)

    def _describe(self, status: str, **known: object) -> str:
        """Return the response as JSON; `known` are fields that are null before its end."""
        response = {
            "id": f"resp_{self._meta.id}",
            "object": "response",
            "created_at": self._meta.created,
            "completed_at": None,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self._meta.model,
            "output": [item.describe() for item in self._items],
            "usage": None,
            **known,
        }
        return f"{encode_json(response)[:-1]},{self._repeated}}}"


class Response(_Response):
    """A whole response."""

    whole = True

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """Keep the batch; return nothing."""
        for item, words in self._grow(deltas):
            item.words.append(words)
        return b""

    def finish(self) -> bytes:
        """Return the response."""
        self._annotate_last()
        for item in self._items:
            item.status = self._status_of(item)
        return self._describe_end().encode() + b"\n"


class Events(_Response):
    """A response as a stream of events, numbered from 0. The last one has the whole response; no [DONE] follows."""

    content_type = "text/event-stream"
    heartbeat = HEARTBEAT
    _number = 0
    _after = -1  # the last event that the client has

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """Return one event for the new words of each item, behind those that begin the item."""
        # Fast case: one delta with more words of the message. Falls through to any batch; equal by
        # tests/replies/test_responses.py::test_it_says_what_a_chat_completion_says.
        if len(deltas) == 1 and self._items and deltas[0][1:] == _NOTHING_MORE:
            item, words = self._items[-1], deltas[0].text
            if item.kind is _MESSAGE and words:
                return self._say(item, words)
        events = self._begin()
        for item, words in self._grow(deltas):
            if not item.words:
                events += self._open(item)
            events += self._say(item, words)
        return events

    def finish(self) -> bytes:
        """End each item that is open, and the response."""
        events = self._begin()
        self._annotate_last()
        events += self._end_items(self._status_of)
        return events + self._tell_response("incomplete" if self._cut else "completed", self._describe_end())

    def fail(self, error: CfchatError) -> bytes:
        """Return an error event, and the response with what has come of it. One that was stopped is incomplete.

        OpenAI's SDKs raise an exception for a member `error`, and the AI SDK up to version 5 reads nothing else. Its
        later versions, and OpenAI's reference, have these members one level up.
        """
        events = self._begin()
        if isinstance(error, Stopped):
            events += self._end_items(lambda item: "incomplete")
            return events + self._tell_response("incomplete", self._describe("incomplete"))
        told = describe(error)
        fields = {"code": error.code, "message": error.message, "param": error.param, "error": told}
        events += self._tell("error", encode_json(fields)[1:-1])
        for item in self._items:
            if item.status == "in_progress":
                item.status = "incomplete"
        fault = {"code": _FAULTS.get(error.type, _FAULT), "message": error.message}
        return events + self._tell_response("failed", self._describe("failed", error=fault))

    def _end_items(self, status_of: Callable[[_Item], str]) -> bytes:
        """End each item that is open."""
        ended = [self._tell_all(item.end(status_of(item))) for item in self._items if item.status == "in_progress"]
        return b"".join(ended)

    def _begin(self) -> bytes:
        """Return the first events if they are still to come. OpenAI's helpers want them before an error, too."""
        if self._number:
            return b""
        events = self._tell_response("created", self._describe("in_progress"))
        return events + self._tell_response("in_progress", self._describe("in_progress"))

    def _open(self, item: _Item) -> bytes:
        """Begin an item, which ends a message or reasoning before it."""
        before = self._items[-2:-1]
        ended = [event for other in before if other.kind is not _CALL for event in other.end("completed")]
        return self._tell_all((*ended, *item.begin()))

    def _say(self, item: _Item, words: str) -> bytes:
        item.words.append(words)
        return self._tell(item.growing, f'{item.head},"delta":{encode_json(words)}') if words else b""

    def _tell_response(self, step: str, response: str) -> bytes:
        return self._tell(f"response.{step}", f'"response":{response}')

    def _tell_all(self, events: Iterable[Event]) -> bytes:
        return b"".join([self._tell(name, encode_json(fields)[1:-1]) for name, fields in events])

    def _tell(self, name: str, fields: str) -> bytes:
        """Return one event; `fields` are JSON already, without braces."""
        number, self._number = self._number, self._number + 1
        if number <= self._after:
            return b""
        return encode_event(f'{{"type":"{name}","sequence_number":{number},{fields}}}', name)


def _encode_repeated(asked: Mapping[str, object]) -> str:
    """Return these fields of the request, and the defaults of the others, as JSON without braces."""
    known = {name: default if (value := asked.get(name)) is None else value for name, default in _REPEATED.items()}
    return without_surrogates(encode_json(known)[1:-1])


def _describe_usage(counts: Mapping[str, object]) -> dict[str, object]:
    """Return Cloudflare's counts in the shape of a response. Zeros stand for none: clients fail without numbers."""
    usage = complete_usage(counts)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": _count(usage, "cached_tokens"), "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": _count(usage, "reasoning_tokens")},
        "total_tokens": usage["total_tokens"],
    }


def _count(usage: Mapping[str, object], name: str) -> int:
    """Return a count that stands one level down, in the details of the prompt or of the completion."""
    counts = [details.get(name) for details in usage.values() if isinstance(details, dict)]
    return next((int(count) for count in counts if isinstance(count, (int, float))), 0)
