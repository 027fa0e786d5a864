"""What a reply says: the events of a stream, or one whole JSON -> Delta. Pure.

Two dialects, the classic `{"response": "..."}` and OpenAI's chunks, meet in one reply: each event is judged
by itself. A token that happens to be JSON arrives as a number or boolean, so text is not always a string.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from cfchat.wire.strict_json import decode_first


def decode(data: str) -> Any:
    """What JSON without blanks before it holds. (The decoder's own `decode` searches for blanks, twice.)"""
    value, end = decode_first(data)
    if end != len(data) and data[end:].strip(" \t\n\r"):
        raise ValueError("more than one value")
    return value


class Said(NamedTuple):
    """What one event says, whichever dialect it speaks; the values are as JSON gave them."""

    text: Any = None
    finish: Any = None
    usage: Any = None
    reasoning: Any = None
    tool_calls: Any = None


Shape = Callable[[Any], Said | None]
_KEYS = frozenset({"response", "choices", "usage", "tool_calls", "finish_reason"})


def said_in_event(reply: dict[str, Any]) -> Said | None:
    """None for an event that is of neither dialect."""
    choices = reply.get("choices")
    if choices:
        return _said_in_choices(choices, reply)
    if reply.keys().isdisjoint(_KEYS):
        return None
    said = reply.get
    return Said(said("response"), said("finish_reason"), said("usage"), None, said("tool_calls"))


def _said_in_choices(choices: Any, reply: dict[str, Any]) -> Said | None:
    choice = choices[0] if type(choices) is list else None
    if type(choice) is not dict:
        return None
    delta = choice.get("delta", {})
    if type(delta) is not dict:
        return None
    return Said(
        delta.get("content"),
        choice.get("finish_reason"),
        reply.get("usage"),
        delta.get("reasoning_content") or delta.get("reasoning"),
        delta.get("tool_calls"),
    )


def said_in_whole(reply: dict[str, Any]) -> Said | None:
    """A reply that was not streamed: with an envelope or bare; classic, chat completion, or responses."""
    result = reply.get("result", reply)
    if type(result) is not dict:
        return None
    if type(result.get("output")) is list:
        return Said("".join(_output_texts(result["output"])), usage=result.get("usage"))
    choices = result.get("choices")
    if type(choices) is list and choices and type(choices[0]) is dict:
        result = {**result, "choices": [{**choices[0], "delta": choices[0].get("message")}]}
    # A success with nothing in it is an empty answer, not nonsense.
    return said_in_event(result) or (Said() if "result" in reply else None)


def _output_texts(output: list[Any]) -> Iterator[str]:
    for item in output:
        # A reasoning item has content too, and it is not for the user.
        if type(item) is dict and item.get("type", "message") == "message":
            for part in item.get("content") or ():
                if type(part) is dict and type(part.get("text")) is str:
                    yield part["text"]


class Joiner:
    """Joins surrogates that were torn over events; what stays alone becomes U+FFFD."""

    def __init__(self) -> None:
        self._held = ""

    def join(self, text: str) -> str:
        if not self._held and text.isascii():
            return text
        text = self._held + text
        self._held = ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        # UTF-16 is what makes a pair one character; "replace" would be "?" when encoding.
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text

    def flush(self) -> str:
        held, self._held = self._held, ""
        return "\ufffd" if held else ""
