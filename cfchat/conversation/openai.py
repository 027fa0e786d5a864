"""Read what clients of OpenAI's chat completions POST (platform.openai.com/docs/api-reference/chat/create). Pure.

Messages and numeric options are read as in `conversation.parse`; the way of the reply is added. Fields that only some
models take are checked, then passed on unchanged, and refused by name if the model does not take them. Unknown keys are
ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from cfchat.conversation.model import Conversation, Options
from cfchat.conversation.parse import MAX_TOKENS, Limits, parse_json, parse_messages, parse_options
from cfchat.conversation.passed import Passed, check_passed
from cfchat.errors import BadChatRequest, BadOption, ModelNotFound, UnknownModel
from cfchat.wire.strict_json import decode_members

MOST_TOOLS = 128
MOST_STOPS = 4
MOST_FIELDS = 1000
# These values mean the same as leaving the field out, but some models refuse even them.
_NO_EFFECT: Mapping[str, tuple[object, ...]] = {
    "stop": ([],),
    "tools": ([],),
    "tool_choice": ("auto",),
    "parallel_tool_calls": (True,),
    "response_format": ({"type": "text"},),
}
_NO_EFFECT_WITHOUT_TOOLS: Mapping[str, tuple[object, ...]] = {"tool_choice": ("none",), "parallel_tool_calls": (False,)}


class Completion(NamedTuple):
    """A conversation and the way of its reply: as a stream or whole, and whether a stream ends with the usage."""

    conversation: Conversation
    stream: bool
    include_usage: bool


def parse_completion(body: bytes, limits: Limits = Limits()) -> Completion:
    """Read the body of a POST to chat/completions; ignore unknown keys.

    Raises:
        InvalidJSON: the body is not JSON in UTF-8.
        BadChatRequest: it is not a conversation (BadOption for an option); `param` names the place.
        ModelNotFound: the client names a model that is not offered.
    """
    document, texts = parse_json(body, lambda text: decode_members(text, _CHECKS, MOST_FIELDS))
    if not isinstance(document, dict):
        raise BadChatRequest("Send an object with `messages`.", param="messages")
    messages = parse_messages(document.get("messages"), limits)
    options = parse_named_options(document, limits)
    if document.get("n") not in (None, 1) or document.get("n") is True:
        raise BadOption("There is only one choice in a reply: `n` can only be 1.", param="n")
    stream_options = document.get("stream_options") or {}
    if not isinstance(stream_options, dict):
        raise BadOption("`stream_options` must be an object.", param="stream_options")
    passed = select_passed(
        document,
        lambda name, value: check_passed(value, texts[name], name),
        lambda name: limits.takes(options.model, name),
    )
    return Completion(
        Conversation(messages, options, passed),
        read_flag(document, "stream"),
        read_flag(stream_options, "include_usage", "stream_options."),
    )


def parse_named_options(document: Mapping[str, object], limits: Limits, max_tokens: str = MAX_TOKENS) -> Options:
    """Read the options as `parse_options` does, but raise a ModelNotFound if the model is not offered."""
    try:
        return parse_options(document, limits, max_tokens)
    except UnknownModel as error:
        raise ModelNotFound(error.message, param="model") from None


def read_flag(document: Mapping[str, object], name: str, place: str = "") -> bool:
    """Return whether a field is true; it may be missing."""
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadOption(f"`{name}` must be true or false.", param=place + name)
    return value is True


# --- fields that only some models take -----------------------------------------------------------


def select_passed(
    document: Mapping[str, object],
    encode: Callable[[str, object], str],
    takes: Callable[[str], bool],
    places: Mapping[str, str] = MappingProxyType({}),
) -> Mapping[str, object]:
    """Return the fields to pass on, each as the JSON that `encode` returns for its name and value.

    `takes` says whether the model takes a field. `places` are the client's names of fields that have others there.

    Raises:
        BadOption: a field is wrong, or the model does not take it.
    """
    passed = {}
    for name, check in _CHECKS.items():
        value, place = document.get(name), places.get(name, name)
        if value is None:
            continue
        if problem := check(value):
            raise BadOption(problem, param=place)
        if value in _NO_EFFECT.get(name, ()):
            continue
        if not document.get("tools") and name in _NO_EFFECT_WITHOUT_TOOLS:
            if value in _NO_EFFECT_WITHOUT_TOOLS[name]:
                continue
            raise BadOption(f"`{place}` has no meaning without `tools`.", param=place)
        text = encode(name, value)
        if not takes(name):
            raise BadOption(f"This model does not take `{place}`.", param=place)
        passed[name] = text
    return Passed(passed) if passed else {}


# Each check returns the problem with a value in one sentence, or an empty string.


def _check_stop(value: object) -> str:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(s, str) and s for s in stops):
        return f"`stop` must be a string, or a list of {MOST_STOPS} at most."
    return ""


def _check_tools(value: object) -> str:
    if not isinstance(value, list) or not all(map(_is_function, value)):
        return "`tools` must be a list of `{\"type\": \"function\", \"function\": {\"name\", ...}}`."
    return f"There can be {MOST_TOOLS} tools at most." if len(value) > MOST_TOOLS else ""


def _check_tool_choice(value: object) -> str:
    if value in ("none", "auto", "required") or _is_function(value):
        return ""
    return "`tool_choice` must be none, auto, required or a function."


def _is_function(value: object) -> bool:
    if not isinstance(value, dict) or value.get("type") != "function":
        return False
    function = value.get("function")
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _check_parallel(value: object) -> str:
    return "" if isinstance(value, bool) else "`parallel_tool_calls` must be true or false."


def _check_response_format(value: object) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ("text", "json_object"):
        return ""
    if kind != "json_schema":
        return "`response_format` must have the type text, json_object or json_schema."
    assert isinstance(value, dict)
    schema = value.get("json_schema")
    if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
        return "`response_format` must have `json_schema` with a `schema`."
    return ""


_CHECKS = {
    "stop": _check_stop,
    "tools": _check_tools,
    "tool_choice": _check_tool_choice,
    "parallel_tool_calls": _check_parallel,
    "response_format": _check_response_format,
}
