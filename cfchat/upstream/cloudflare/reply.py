"""What a reply says: the events of a stream, or one whole JSON -> Delta. Pure.

Two dialects, the classic `{"response": "..."}` and OpenAI's chunks, meet in one reply: each event is judged
by itself. A token that happens to be JSON arrives as a number or boolean, so text is not always a string.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cfchat.conversation.model import Delta, ToolCall
from cfchat.conversation.parse import without_surrogates
from cfchat.errors import UpstreamEmpty, UpstreamError, UpstreamInterrupted, UpstreamProtocolError
from cfchat.upstream.cloudflare.event import Joiner, Said, Shape, decode, said_in_event, said_in_whole
from cfchat.upstream.cloudflare.faults import error_in_event, error_in_reply, finish_error
from cfchat.upstream.cloudflare.thoughts import Thoughts
from cfchat.wire.sse import Event
from cfchat.wire.strict_json import decode_literals


class ToolCalls:
    """The calls of a reply, numbered: whole ones, as in the classic dialect, or piece by piece with an index."""

    def __init__(self) -> None:
        self._begun = 0
        self._last: dict[object, tuple[int, str]] = {}  # by their index: the number and id of the call that grows there

    def read(self, items: object) -> Iterator[ToolCall]:
        for item in items if type(items) is list else ():
            if type(item) is not dict:
                continue
            function = item.get("function")
            named: dict[str, Any] = function if type(function) is dict else item
            call_id, name, arguments = _text_of(item.get("id")), _text_of(named.get("name")), named.get("arguments")
            if arguments is not None and type(arguments) is not str:
                arguments = json.dumps(arguments, separators=(",", ":"))
            if call_id or name or arguments:
                yield ToolCall(self._number(item.get("index"), call_id, name), call_id, name, _text_of(arguments))

    def _number(self, index: object, call_id: str, name: str) -> int:
        index = index if type(index) is int else None
        number, grown = self._last.get(index, (-1, ""))
        if number < 0 or (call_id and call_id != grown) or (index is None and name):
            number, grown = self._begun, call_id
            self._begun += 1
            self._last[index] = number, grown
        return number


def _text_of(value: object) -> str:
    return without_surrogates(value) if type(value) is str else ""


# As Cloudflare's own client maps them; all others count as "stop".
_FINISH_REASONS = {
    "length": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "other": "other",
    "unknown": "other",
}
_NO_BLANK_AFTER = frozenset(" \t\n\r\f\v([{<\"'`«„“‘‚")


class ReplyReader:
    """The state of one streamed reply: events in, deltas out. Calls of tools are told only where it has `tools`.

    `done` means that nothing more is to be read: [DONE] was seen, or an error that close() raises; `answered`, that
    there was text or a call.
    """

    def __init__(self, max_tokens: int, thinks_first: bool = False, tools: bool = False) -> None:
        self.done = False
        self.answered = False
        self.passed_over = 0
        self.finish_reason: str | None = None
        self._max_tokens = max_tokens
        self._shape: Shape = said_in_event
        self._usage: dict[str, Any] | None = None
        self._total = 0.0
        self._text = Joiner()
        self._reasoning = Joiner()
        self._thoughts: Thoughts | None = Thoughts(thinks_first)  # None from the answer on
        self._last = ""  # the last character of the text so far
        self._thought = False
        self._called_tools = False
        self._calls = ToolCalls() if tools else None
        self._error: UpstreamError | None = None

    @property
    def usage(self) -> Mapping[str, object] | None:
        """The usage with the largest total; counts only."""
        return None if self._usage is None else _counts(self._usage)

    @property
    def answering(self) -> bool:
        """Whether more may come, and all text of it is answer."""
        return self._thoughts is None and not self.done

    def says_only(self, words: str, data: str) -> bool:
        """Whether an event of this data says the words and nothing else but a usage."""
        try:
            reply = decode(data.strip())
        except (ValueError, RecursionError):
            return False
        if type(reply) is not dict or error_in_reply(reply) is not None:
            return False
        said = self._shape(reply)
        return said is not None and said.text == words and not (said.finish or said.reasoning or said.tool_calls)

    def say(self, words: str) -> Delta | None:
        """The delta of events that say these words together, and repeat a usage that was read. For `answering`."""
        self._last = words[-1]
        words = self._text.join(words)
        self.answered |= bool(words)
        return Delta(words) if words else None

    def read(self, events: Sequence[Event]) -> list[Delta]:
        """The deltas of these events.

        Raises the UpstreamError that an event reports; where deltas came before it, the next call does.
        """
        deltas: list[Delta] = []
        for event in events:
            if self.done:
                break
            delta = self._read_event(event)
            if delta is not None:
                deltas.append(delta)
        if self._error is not None and not deltas:
            raise self._error
        return deltas

    def close(self, pending: Event | None) -> list[Delta]:
        """The body has ended, perhaps inside `pending`, which counts if it is whole.

        Raises UpstreamInterrupted where the reply is not complete, or the UpstreamError of an event.
        """
        deltas = [] if pending is None else self.read([pending])
        if self._error is not None:
            raise self._error
        if not self.done and self.finish_reason is None:
            raise UpstreamInterrupted("The reply was interrupted.", detail="the stream ended without [DONE]")
        return [*deltas, self._last_delta()]

    def empty_error(self) -> UpstreamEmpty:
        """Why a complete reply has no text: hidden thinking is billed and cut by max_tokens all the same."""
        if self.finish_reason == "length":
            message = "The model used its whole budget thinking; a larger max_tokens may help."
        elif self._thought:
            message = "The model thought about it, but gave no answer."
        elif self._called_tools:
            message = "The model called a tool instead of answering."
        else:
            message = "The model gave an empty answer."
        reason, usage = self.finish_reason, self.usage
        return UpstreamEmpty(
            message, detail=f"finish reason {reason}, usage {usage}, passed over {self.passed_over}"
        )

    def _read_event(self, event: Event) -> Delta | None:
        data = event.data
        if event.event == "error":
            self._fail(error_in_event(data))
            return None
        if data[:1] != "{":
            data = data.strip()
        if data == "[DONE]":
            self.done = True
            return None
        try:
            reply = decode(data)
            if type(reply) is dict:
                return self._read_reply(reply, data)
        except (ValueError, RecursionError):
            pass
        self.passed_over += 1
        return None

    def _read_reply(self, reply: dict[str, Any], data: str) -> Delta | None:
        error = error_in_reply(reply)
        if error is not None:
            self._fail(error)
            return None
        said = self._shape(reply)
        if said is None:
            self.passed_over += 1
            return None
        if said.finish:
            self._finish(said.finish)
        if said.usage:
            self._keep_usage(said.usage)
        return self._say(said, data)

    def _say(self, said: Said, data: str) -> Delta | None:
        words = said.text if type(said.text) is str else self._words(said.text, data)
        thought = self._think(said.reasoning) if said.reasoning else ""
        if words:
            self._last = words[-1]
            words = self._text.join(words)
            if self._thoughts is not None:
                words, in_text = self._sort(self._thoughts, words)
                thought += in_text
            self.answered |= bool(words)
        calls = self._call(said.tool_calls) if said.tool_calls else ()
        return Delta(words, reasoning=thought, tool_calls=calls) if words or thought or calls else None

    def _call(self, items: object) -> tuple[ToolCall, ...]:
        self._called_tools = True
        calls = () if self._calls is None else tuple(self._calls.read(items))
        self.answered |= bool(calls)
        return calls

    def _think(self, thought: object) -> str:
        self._thought = True
        return self._reasoning.join(thought) if isinstance(thought, str) else ""

    def _sort(self, thoughts: Thoughts, words: str) -> tuple[str, str]:
        words, thought = thoughts.split(words)
        if thoughts.over:
            self._thoughts = None
        self._thought |= bool(thought)
        return words, thought

    def _words(self, value: object, data: str) -> str:
        """Text that is no string: a token that is valid JSON arrives as that JSON."""
        if value is None:
            return ""
        if value is True or value is False:
            word = "true" if value else "false"
            # The blank before a word is lost; numbers keep theirs as an event of its own.
            return (
                word
                if not self._last or self._last in _NO_BLANK_AFTER or self._last.isspace()
                else f" {word}"
            )
        if isinstance(value, (int, float)):
            # Few events hold a number as text: only those are read once more, with literals.
            said = self._shape(decode_literals(data))
            return "" if said is None else str(said.text)
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    def _finish(self, reason: object) -> None:
        if reason == "error":
            self._fail(finish_error())
        self.finish_reason = _FINISH_REASONS.get(reason, "stop") if isinstance(reason, str) else "stop"

    def _keep_usage(self, usage: object) -> None:
        # Several events carry usage, some are increments, the last may be zeros: the largest is the total.
        if type(usage) is dict and (total := _total(usage)) > self._total:
            self._usage, self._total = usage, total

    def _last_delta(self) -> Delta:
        if self.finish_reason is None:
            # The classic dialect has no finish reason.
            spent = _count(self._usage or {}, "completion_tokens", "output_tokens")
            self.finish_reason = "length" if spent >= self._max_tokens else "stop"
        if self.finish_reason == "stop" and self._calls is not None and self._called_tools:
            self.finish_reason = "tool_calls"
        words, thought = self._text.flush(), self._reasoning.flush()
        if self._thoughts is not None:
            in_text = self._thoughts.split(words)
            held = self._thoughts.flush()
            words, thought = in_text[0] + held[0], thought + in_text[1] + held[1]
        self.answered |= bool(words)
        return Delta(words, self.finish_reason, self.usage, thought)

    def _fail(self, error: UpstreamError) -> None:
        self._error = error
        self.done = True


def read_json_reply(
    body: bytes, max_tokens: int, thinks_first: bool = False, tools: bool = False
) -> list[Delta]:
    """The deltas of a reply that was not streamed although it was asked for so.

    Raises the UpstreamError that it reports under its 200, UpstreamProtocolError where it has none of the
    known shapes, and UpstreamEmpty.
    """
    reader = ReplyReader(max_tokens, thinks_first, tools)
    reader._shape = said_in_whole
    deltas = reader.read([Event(body.decode("utf-8", "replace").removeprefix("\ufeff"))])
    if reader.passed_over:
        raise UpstreamProtocolError("The model's server sent nonsense.", detail=f"reply {body[:300]!r}")
    reader.done = True
    deltas += reader.close(None)
    if not reader.answered:
        raise reader.empty_error()
    return deltas


def _is_count(value: object) -> bool:
    """`1e999` is an infinity in Python and nothing in JSON."""
    return type(value) in (int, float) and 0 <= value < 1e15  # type: ignore[operator]


def _count(usage: Mapping[str, Any], *names: str) -> float:
    """The first of these that is a count, or 0."""
    return next((usage[name] for name in names if _is_count(usage.get(name))), 0)


def _total(usage: Mapping[str, Any]) -> float:
    if _is_count(usage.get("total_tokens")):
        return float(usage["total_tokens"])
    return _count(usage, "prompt_tokens", "input_tokens") + _count(
        usage, "completion_tokens", "output_tokens"
    )


def _counts(usage: Mapping[str, Any]) -> dict[str, object]:
    """The counts, also those one level down; nothing else, as this goes out again as JSON."""
    kept: dict[str, object] = {}
    for name, value in usage.items():
        if type(value) is dict:
            kept[name] = {key: count for key, count in value.items() if _is_count(count)}
        elif _is_count(value):
            kept[name] = value
    return kept
