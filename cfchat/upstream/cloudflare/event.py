"""Read what one event of a reply says. Pure.

Cloudflare speaks two dialects, the classic `{"response": "..."}` and OpenAI's chunks, and mixes them in one reply:
each event is judged by itself. gpt-oss may also speak that of OpenAI's Responses API, whose events have a type. A reply
that was not streamed is read as one large event. The values of a Content are as JSON gave them: a token that happens to
be valid JSON arrives as a number or a boolean, so text may be no string.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from cfchat.wire.strict_json import decode_first

# The names that an event may have, those of the classic dialect last; and whether it has none of either dialect.
_CLASSIC = ("response", "response_text", "finish_reason", "usage", "tool_calls", "reasoning_content", "reasoning")
_NAMES = ("type", "choices", *_CLASSIC)
# Those that hold text. If an event has several, an empty one makes another one count.
TEXT_NAMES = frozenset(("choices", "response", "response_text"))
_NEITHER = frozenset(_NAMES[1:]).isdisjoint


class Content(NamedTuple):
    """What one event says, in any dialect. With `repeats` it may be what the events before have said already."""

    text: Any = None
    finish: Any = None
    usage: Any = None
    tool_calls: Any = None
    reasoning: Any = None
    repeats: bool = False


# Return the content of an event or a whole reply; None for an object of no dialect.
ReadContent = Callable[[Any], Content | None]


def decode(data: str) -> Any:
    """Decode JSON that begins without blanks. The decoder's own `decode` searches for blanks twice.

    Raises:
        ValueError: the data is no JSON.
        RecursionError: it is nested too deeply.
    """
    value, end = decode_first(data)
    if end != len(data) and data[end:].strip(" \t\n\r"):
        raise ValueError("more than one value")
    return value


def read_event(reply: dict[str, Any]) -> Content | None:
    """Return the content of one event of a stream; None if it is of no dialect."""
    kind, choices, text, other_text, finish, usage, calls, reasoning, other_reasoning = map(reply.get, _NAMES)
    if other_text is not None and (text is None or text == ""):
        text = other_text
    if choices:
        return _read_choices(choices, text, usage)
    if kind is not None and (content := _read_typed(kind, reply)) is not None:
        return content
    if _NEITHER(reply):
        return None
    return Content(text, finish, usage, calls, reasoning or other_reasoning)


def _read_choices(choices: Any, classic_text: Any, usage: Any) -> Content | None:
    choice = choices[0] if type(choices) is list else None
    if type(choice) is not dict:
        return None
    delta = choice.get("delta", {})
    if type(delta) is not dict:
        return None
    text = delta.get("content")
    return Content(
        classic_text if text is None or text == "" else text,  # some models fill both, and either may be empty
        choice.get("finish_reason"),
        usage,
        delta.get("tool_calls"),
        delta.get("reasoning_content") or delta.get("reasoning"),
    )


def read_whole(reply: dict[str, Any]) -> Content | None:
    """Return the content of a reply that was not streamed; None if its shape is unknown.

    The shapes are the classic one, a chat completion and OpenAI's responses, each bare or in Cloudflare's envelope.
    """
    result = reply.get("result", reply)
    if type(result) is not dict:
        return None
    if type(result.get("output")) is list:
        return _read_response(result)
    choices = result.get("choices")
    if type(choices) is list and choices and type(choices[0]) is dict:
        result = {**result, "choices": [{**choices[0], "delta": choices[0].get("message")}]}
    # An envelope that reports success and holds nothing is an empty answer, not nonsense.
    return read_event(result) or (Content() if "result" in reply else None)


# --- OpenAI's responses --------------------------------------------------------------------------

_TEXT_EVENTS = frozenset({"response.output_text.delta", "response.refusal.delta"})
_REASONING_EVENTS = frozenset({"response.reasoning_text.delta", "response.reasoning_summary_text.delta"})
_INCOMPLETE = {"max_output_tokens": "length", "content_filter": "content_filter"}
_LAST_EVENTS = frozenset({"response.completed", "response.incomplete"})
_FAILURES = frozenset({"response.failed", "error"})


def is_typed(value: dict[str, Any]) -> bool:
    """Return whether an object has a type of the Responses API. Its `response` repeats the request, no user's text."""
    kind = value.get("type")
    return type(kind) is str and kind.startswith("response.")


def _read_typed(kind: Any, event: dict[str, Any]) -> Content | None:
    """Return the content of an event of the Responses API; None if its type is of something else.

    Source: platform.openai.com/docs/api-reference/responses-streaming.
    """
    if type(kind) is str and kind in _FAILURES:
        return Content(finish="error")
    if not is_typed(event):
        return None
    if kind in _TEXT_EVENTS:
        return Content(event.get("delta"))
    if kind in _REASONING_EVENTS:
        return Content(reasoning=event.get("delta"))
    if kind == "response.output_item.done":
        # The pieces of a call came before; here it is whole.
        return Content(tool_calls=[*_output_calls([event.get("item")], event.get("output_index"))])
    response = event.get("response")
    if kind in _LAST_EVENTS and type(response) is dict:
        return _read_response(response)._replace(repeats=True)
    return Content()


def _read_response(response: dict[str, Any]) -> Content:
    """Return the content of a response as a whole."""
    output = response.get("output")
    items: list[Any] = output if type(output) is list else []
    status, details = response.get("status"), response.get("incomplete_details")
    finish = {"completed": "stop", "failed": "error"}.get(status) if type(status) is str else None
    if status == "incomplete":
        reason = details.get("reason") if type(details) is dict else None
        finish = _INCOMPLETE.get(reason, "other") if type(reason) is str else "other"
    return Content(
        "".join(_output_texts(items, "message")),
        finish,
        response.get("usage"),
        [*_output_calls(items)],
        "".join(_output_texts(items, "reasoning")),
    )


def _output_texts(output: list[Any], kind: str) -> Iterator[str]:
    """Yield the texts of the items of one kind: `message` is the answer, `reasoning` is not for the user."""
    for item in output:
        if type(item) is dict and item.get("type", "message") == kind:
            parts = item.get("content") or item.get("summary")
            for part in parts if type(parts) is list else ():
                if type(part) is dict and type(text := part.get("text", part.get("refusal"))) is str:
                    yield text


def _output_calls(output: list[Any], index: object = None) -> Iterator[dict[str, object]]:
    """Yield the calls of tools among the items, in the shape of a chat completion."""
    for item in output:
        if type(item) is dict and item.get("type") == "function_call":
            yield {"index": index, "id": item.get("call_id") or item.get("id"), "function": item}


# --- torn characters -----------------------------------------------------------------------------


class Joiner:
    """Joins the halves of a surrogate pair that two events hold. A half that stays alone becomes U+FFFD.

    `size` counts the bytes of UTF-8 that came out.
    """

    def __init__(self) -> None:
        self.size = 0
        self._held = ""

    def join(self, text: str) -> str:
        """Return the text with what was held back, but for a first half at its end."""
        if not self._held and text.isascii():
            self.size += len(text)
            return text
        text = self._held + text
        self._held = ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        # UTF-16 is what makes a pair one character; "replace" would be "?" when encoding.
        try:
            self.size += len(text.encode())
        except UnicodeEncodeError:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            self.size += len(text.encode())
        return text

    def flush(self) -> str:
        """Return U+FFFD for a first half whose second never came, otherwise nothing."""
        held, self._held = self._held, ""
        return "\ufffd" if held else ""
