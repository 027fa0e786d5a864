"""Read what one event of a reply says. Pure.

Cloudflare speaks two dialects, the classic `{"response": "..."}` and OpenAI's chunks, and mixes them in one reply:
each event is judged by itself. A reply that was not streamed is read as one large event. The values of a Content are
as JSON gave them: a token that happens to be valid JSON arrives as a number or a boolean, so text may be no string.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from cfchat.wire.strict_json import decode_first

# The names of the classic dialect, in the order of Content; and those that say that an event is of any dialect.
_CLASSIC = ("response", "finish_reason", "usage", "tool_calls")
_KEYS = frozenset({*_CLASSIC, "choices"})


class Content(NamedTuple):
    """What one event says, in either dialect."""

    text: Any = None
    finish: Any = None
    usage: Any = None
    tool_calls: Any = None
    reasoning: Any = None


# Return the content of an event or a whole reply; None for an object of neither dialect.
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
    """Return the content of one event of a stream; None if it is of neither dialect."""
    choices = reply.get("choices")
    if choices:
        return _read_choices(choices, reply)
    if _KEYS.isdisjoint(reply):
        return None
    return Content(*map(reply.get, _CLASSIC))


def _read_choices(choices: Any, reply: dict[str, Any]) -> Content | None:
    choice = choices[0] if type(choices) is list else None
    if type(choice) is not dict:
        return None
    delta = choice.get("delta", {})
    if type(delta) is not dict:
        return None
    return Content(
        delta.get("content"),
        choice.get("finish_reason"),
        reply.get("usage"),
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
        return Content("".join(_output_texts(result["output"])), usage=result.get("usage"))
    choices = result.get("choices")
    if type(choices) is list and choices and type(choices[0]) is dict:
        result = {**result, "choices": [{**choices[0], "delta": choices[0].get("message")}]}
    # An envelope that reports success and holds nothing is an empty answer, not nonsense.
    return read_event(result) or (Content() if "result" in reply else None)


def _output_texts(output: list[Any]) -> Iterator[str]:
    for item in output:
        # A reasoning item has content too, but it is not for the user.
        if type(item) is dict and item.get("type", "message") == "message":
            for part in item.get("content") or ():
                if type(part) is dict and type(part.get("text")) is str:
                    yield part["text"]


class Joiner:
    """Joins the halves of a surrogate pair that two events hold. A half that stays alone becomes U+FFFD."""

    def __init__(self) -> None:
        self._held = ""

    def join(self, text: str) -> str:
        """Return the text with what was held back, but for a first half at its end."""
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
        """Return U+FFFD for a first half whose second never came, otherwise nothing."""
        held, self._held = self._held, ""
        return "\ufffd" if held else ""
