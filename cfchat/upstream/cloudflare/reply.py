"""Turn the events of one reply, or its one whole JSON, into deltas. Pure.

ReplyReader keeps the state that a single event does not have: whether the model still thinks, which call of a tool
grows, the largest usage, the finish reason. What one event says is read in event.py, and judged as an error in
faults.py. An error ends the reply, but the deltas before it come out first. All that the model writes costs tokens,
also what does not come out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cfchat.conversation.model import Delta, Source, ToolCall
from cfchat.errors import UpstreamEmpty, UpstreamEndless, UpstreamError, UpstreamInterrupted, UpstreamProtocolError
from cfchat.upstream.cloudflare.event import (
    TEXT_NAMES,
    Content,
    Joiner,
    ReadContent,
    decode,
    is_typed,
    read_event,
    read_whole,
)
from cfchat.upstream.cloudflare.faults import ERROR_KEYS, error_in_event, error_in_reply, finish_error
from cfchat.upstream.cloudflare.sources import Sources
from cfchat.upstream.cloudflare.thoughts import Thoughts
from cfchat.upstream.cloudflare.tools import ToolCalls
from cfchat.upstream.cloudflare.usage import Cost, Usage
from cfchat.wire.sse import Event
from cfchat.wire.strict_json import decode_literals

# As Cloudflare's own client maps them; all others count as "stop".
_FINISH_REASONS = {
    "length": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "other": "other",
    "unknown": "other",
}
# The most characters that are kept of a reply: so many for each token that was asked for, but never fewer than the
# floor. A piece of reasoning or of a call is kept as an object, so it counts as some more.
_EACH_TOKEN, _FLOOR, _EACH_PIECE = 64, 256 * 1024, 32
_NO_BLANK_AFTER = frozenset(" \t\n\r\f\v([{<\"'`«„“‘‚")


class ReplyReader:
    """The state of one streamed reply: events in, deltas out. Calls of tools come out only if it has `tools`.

    `thinks_first` is for models that may begin their text with reasoning. In `json_mode` the text may be a JSON object.
    `sources` reads what AI Search has found, if that is asked; it comes out with the words that follow.
    `done` is true once nothing more is to be read: after [DONE], or after an error that `close` raises. `answered` is
    true once there was text or a call. `passed_over` counts events that were neither content nor an error. Set
    `collected` if all of the reply is kept until its end. What is kept, as everything is before the first words, may
    not be far longer than `max_tokens` allows.
    """

    def __init__(
        self, max_tokens: int, thinks_first: bool = False, tools: bool = False, json_mode: bool = False,
        *, sources: Sources | None = None,
    ) -> None:  # fmt: skip
        self.done = False
        self.answered = False
        self.passed_over = 0
        self.collected = False
        self.finish_reason: str | None = None
        self._max_tokens = max_tokens
        self._room = max(_FLOOR, _EACH_TOKEN * max_tokens)
        self._read_content: ReadContent = read_event
        self._usage = Usage()
        self._text = Joiner()
        self._reasoning = Joiner()
        self._thoughts: Thoughts | None = Thoughts(thinks_first, json_mode)  # None from the answer on
        self._json_mode = json_mode
        self._last = ""  # the last character of the text so far
        self._thought = False
        self._called_tools = False
        self._tools = tools
        self._calls = ToolCalls()
        self._call_bytes = 0
        self._sources = sources
        self._found: tuple[Source, ...] = ()  # pages that no delta has told yet
        self._whole = False
        self._error: UpstreamError | None = None

    @property
    def usage(self) -> Mapping[str, object] | None:
        """The usage with the largest total so far; counts only."""
        return self._usage.counts

    @property
    def unsure(self) -> int:
        """How many characters are held back, because they may be reasoning or the answer."""
        return self._thoughts.unsure if self._thoughts is not None else 0

    @property
    def cost(self) -> Cost | None:
        """What the reply has cost so far; None if it is nothing but an error."""
        cost = self._usage.cost(self._written, self._whole)
        if self._sources is not None:
            cost = cost._replace(found=self._sources.size)
        return None if self._error is not None and cost == Cost() else cost

    @property
    def sources(self) -> Sequence[Source]:
        """The pages that were found so far."""
        return () if self._sources is None else self._sources.found

    @property
    def _written(self) -> int:
        """The bytes that the model has written, also those that do not come out."""
        return self._text.size + self._reasoning.size + self._call_bytes

    @property
    def answering(self) -> bool:
        """Whether more may come, and all text of it is answer."""
        return self._thoughts is None and not self.done

    def read(self, events: Sequence[Event]) -> list[Delta]:
        """Return the deltas of these events.

        Raises:
            UpstreamError: an event reports it. If deltas came before it, the next call raises it.
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

    def say(self, text: str, usage: bytes, total: float) -> Delta | None:
        """Return the delta of events that say this text and no more but a usage.

        `usage` is the JSON of the largest that is new, `total` its total; empty and 0 if none is new.

        Call it only while `answering`. It does what `read` does with such events, but for parsing them.
        """
        if text:
            self._last = text[-1]
            text = self._text.join(text)
        if usage:
            self._usage.add_json(usage, total, self._written)
        self.answered |= bool(text)
        if not text:
            return None
        return self._fit(Delta(text)) if self.collected else Delta(text)

    def says_only(self, text: str, usage: str, data: str) -> bool:
        """Return whether an event of this data says the text and a usage, and nothing else.

        `usage` is the JSON of the usage that it must report; if it is empty, the usage may be any.
        """
        try:
            reply = decode(data.strip())
            wanted = decode(usage) if usage else None
        except (ValueError, RecursionError):
            return False
        if type(reply) is not dict or error_in_reply(reply) is not None:
            return False
        content = self._read_content(reply) if len(TEXT_NAMES & reply.keys()) == 1 else None
        if content is None or content.finish or content.reasoning or content.tool_calls:
            return False
        return bool(content.text == text and (wanted is None or content.usage == wanted))

    def read_json(self, body: bytes) -> list[Delta]:
        """Return the deltas of a reply that came as one JSON, because it cannot be streamed or was not.

        Raises:
            UpstreamProtocolError: the reply has none of the known shapes.
            UpstreamEmpty: it has neither text nor a call.
            UpstreamError: it reports an error under its 200.
        """
        self._read_content = read_whole
        text = body.decode("utf-8", "replace").removeprefix("\ufeff")
        if self._sources is not None:
            self._found = self._sources.read(text)
        deltas = self.read([Event(text)])
        if self.passed_over:
            error = UpstreamProtocolError(detail=f"a reply of {len(body)} bytes in no known shape")
            error.origin_text = body[:1000].decode("utf-8", "replace")
            raise error
        self.done = True
        deltas += self.close(None)
        if not self.answered:
            raise self.empty_error()
        return deltas

    def close(self, pending: Event | None) -> list[Delta]:
        """Return the last deltas: the body has ended, perhaps inside `pending`, which counts if it is whole.

        Raises:
            UpstreamInterrupted: the reply is not complete.
            UpstreamError: an event has reported it.
        """
        deltas = [] if pending is None else self.read([pending])
        if self._error is not None:
            raise self._error
        if not self.done and self.finish_reason is None:
            raise UpstreamInterrupted("The reply was interrupted.", detail="the stream ended without [DONE]")
        return [*deltas, self._last_delta()]

    def empty_error(self) -> UpstreamEmpty:
        """Return the error that says why a complete reply has no text.

        Hidden thinking counts towards max_tokens and is paid for, although no text comes of it.
        """
        # Some models say "stop" where they were cut.
        cut = self.finish_reason == "length" or self._usage.completion >= self._max_tokens
        if cut:
            message = "The model used its whole budget thinking; a larger max_tokens may help."
        elif self._thought:
            message = "The model thought about it, but gave no answer."
        elif self._called_tools:
            message = "The model called a tool instead of answering."
        else:
            message = "The model gave an empty answer."
        tokens = f"{self._usage.completion:g} tokens"
        detail = f"finish reason {self.finish_reason}, {tokens}, passed over {self.passed_over}"
        error = UpstreamEmpty(message, detail=detail)
        error.cut = cut
        error.elsewhere = self._usage.wrote_nothing
        return error

    def _read_event(self, event: Event) -> Delta | None:
        data = event.data
        if event.event == "error":
            self._fail(error_in_event(data))
            return None
        if event.event == "chunks" and self._sources is not None:
            self._found += self._sources.read(data)
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
        if not ERROR_KEYS.isdisjoint(reply) and (error := error_in_reply(reply)) is not None:
            self._fail(error)
            return None
        content = self._read_content(reply)
        if content is None:
            self.passed_over += 1
            return None
        if content.finish:
            self._finish(content.finish)
        delta = self._make_delta(content, data)
        if content.usage:
            self._usage.add(content.usage, self._written)
        return delta

    def _make_delta(self, content: Content, data: str) -> Delta | None:
        """Return what an event adds to the reply: reasoning, then text, then calls, each read with what was before it.

        Reasoning in a field comes first, because it settles that text is the answer, also the text of this event. Calls
        come last, because they settle it, too, but the text of their own event stands before them.
        """
        if content.repeats:
            content = self._without_repeats(content)
        answer, reasoning = self._think(content.reasoning) if content.reasoning else ("", "")
        text = content.text if type(content.text) is str else self._restore_text(content.text, data)
        if text:
            self._last = text[-1]
            text = self._text.join(text)
            if self._thoughts is not None:
                text, in_text = self._split(self._thoughts, text)
                reasoning += in_text
        answer += text
        calls = self._call(content.tool_calls) if content.tool_calls else ()
        if self._called_tools and self._thoughts is not None:
            answer += self._settle(self._thoughts)
        self.answered |= bool(answer)
        if self._thoughts is not None and self._thoughts.unsure > self._room:
            self._fail_endless()
        if not (answer or reasoning or calls):
            return None
        found, self._found = self._found, ()
        delta = Delta(answer, None, None, reasoning, calls, found)
        return delta if self.answered and not self.collected else self._fit(delta)

    def _fit(self, delta: Delta) -> Delta | None:
        """Return a delta that is kept, or end the reply if more would be kept of it than was asked for."""
        self._room -= len(delta.text)
        if delta.reasoning:
            self._room -= len(delta.reasoning) + _EACH_PIECE
        if self._room >= 0:
            return delta
        self._fail_endless()
        return None

    def _fail_endless(self) -> None:
        self._fail(UpstreamEndless(detail=f"far more text than max_tokens {self._max_tokens} allows"))

    def _without_repeats(self, content: Content) -> Content:
        """Return the content without what the events before have said."""
        return content._replace(
            text="" if self._last else content.text,
            reasoning=None if self._thought else content.reasoning,
            tool_calls=None if self._called_tools else content.tool_calls,
        )

    def _call(self, items: object) -> tuple[ToolCall, ...]:
        self._called_tools = True
        calls = tuple(self._calls.read(items))
        self._call_bytes += sum([len((call.name + call.arguments).encode()) for call in calls])
        # Which calls have begun is kept to the end, even if no delta is.
        self._room -= sum([len(call.id) + len(call.name) + len(call.arguments) + _EACH_PIECE for call in calls])
        if self._room < 0:
            self._fail_endless()
        if not self._tools:
            return ()
        self.answered |= bool(calls)
        return calls

    def _think(self, reasoning: object) -> tuple[str, str]:
        """Return the text before this reasoning that it shows to be the answer, and the reasoning."""
        if not isinstance(reasoning, str):
            return "", ""
        self._thought = True
        settled = "" if self._thoughts is None else self._settle(self._thoughts, in_field=True)
        return settled, self._reasoning.join(reasoning)

    def _settle(self, thoughts: Thoughts, in_field: bool = False) -> str:
        answer = thoughts.settle(in_field)
        if thoughts.over:
            self._thoughts = None
        return answer

    def _split(self, thoughts: Thoughts, text: str) -> tuple[str, str]:
        answer, reasoning = thoughts.split(text)
        if thoughts.over:
            self._thoughts = None
        self._thought |= bool(reasoning)
        return answer, reasoning

    def _restore_text(self, value: object, data: str) -> str:
        """Return the text that a token was before Cloudflare made a JSON value of it."""
        if value is None:
            return ""
        if value is True or value is False:
            word = "true" if value else "false"
            # The blank before a word is lost. (Before a number it is an event of its own.)
            blank = self._last and self._last not in _NO_BLANK_AFTER and not self._last.isspace()
            return f" {word}" if blank else word
        if isinstance(value, (int, float)):
            # Few events hold a number as text: only those are decoded again, with literals.
            content = self._read_content(decode_literals(data))
            return "" if content is None else str(content.text)
        if type(value) is dict and value and (not self._json_mode or is_typed(value)):
            return ""  # never text, but what the request was
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    def _finish(self, reason: object) -> None:
        if reason == "error":
            self._fail(finish_error())
        self.finish_reason = _FINISH_REASONS.get(reason, "stop") if isinstance(reason, str) else "stop"

    def _last_delta(self) -> Delta:
        if self.finish_reason is None:
            # The classic dialect has no finish reason.
            self.finish_reason = "length" if self._usage.completion >= self._max_tokens else "stop"
        if self.finish_reason == "stop" and self._tools and self._called_tools:
            self.finish_reason = "tool_calls"
        text, reasoning = self._text.flush(), self._reasoning.flush()
        if self._thoughts is not None:
            in_text = self._thoughts.split(text)
            held = self._thoughts.flush()
            text, reasoning = in_text[0] + held[0], reasoning + in_text[1] + held[1]
        self.answered |= bool(text)
        self._whole = True
        return Delta(text, self.finish_reason, self._usage.counts, reasoning, sources=self._found)

    def _fail(self, error: UpstreamError) -> None:
        self._error = error
        self.done = True
