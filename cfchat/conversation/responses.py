"""Read what clients of OpenAI's Responses POST (platform.openai.com/docs/api-reference/responses/create). Pure.

Items become messages, and fields take the shapes of chat completions, so `conversation.openai` judges them for both. A
request that refers to an earlier one is refused with the way out, because this server keeps no replies. Other fields
are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from cfchat.conversation.model import Conversation, Message, Options
from cfchat.conversation.openai import MOST_FIELDS, parse_named_options, read_flag, select_passed
from cfchat.conversation.parse import (
    NO_SYSTEM,
    Counts,
    Limits,
    parse_content,
    parse_json,
    parse_message,
    without_surrogates,
)
from cfchat.conversation.passed import check_passed
from cfchat.conversation.prepare import join
from cfchat.errors import BadChatRequest, BadOption, UnsupportedState
from cfchat.wire.strict_json import decode_members, encode

_NO_REPLIES = "This server keeps no replies: "
# What refers to an earlier request, and what to do without it.
_STATE = {
    "previous_response_id": _NO_REPLIES + "send the whole conversation as `input`.",
    "conversation": _NO_REPLIES + "send the whole conversation as `input`.",
    "background": _NO_REPLIES + "leave `background` out, and wait for the reply or stream it.",
    "prompt": "This server keeps no prompts: send the text as `instructions`.",
}
_NO_ITEMS = f"{_NO_REPLIES}send `store: false`; AI SDK: `providerOptions.openai.store = false`."
# A response repeats what was asked for, a stream three times. What is longer is left out, because each running reply
# would keep it.
MOST_REPEATED = 16_384  # characters of JSON
_PASSED = ("tools", "tool_choice", "text")
_LARGE = (*_PASSED, "instructions")
_KINDS = {str: "a string", dict: "an object", bool: "true or false"}
_TOOL = {"name": str, "description": str, "parameters": dict, "strict": bool}
_SCHEMA = {"name": str, "schema": dict, "description": str, "strict": bool}
_CALL = {"call_id": str, "name": str, "arguments": str}


class Asked(NamedTuple):
    """A conversation, the way of its reply (as a stream or whole), and the fields that a response repeats."""

    conversation: Conversation
    stream: bool
    repeated: Mapping[str, object]


def parse_response(body: bytes, limits: Limits = Limits()) -> Asked:
    """Read the body of a POST to responses; ignore unknown keys.

    Raises:
        InvalidJSON: the body is not JSON in UTF-8.
        BadChatRequest: it is not a conversation (BadOption for an option, UnsupportedState if it refers to an earlier
            request); `param` names the place.
        ModelNotFound: the client names a model that is not offered.
    """
    document, texts = parse_json(body, lambda text: decode_members(text, _LARGE, MOST_FIELDS))
    if not isinstance(document, dict):
        raise BadChatRequest("Send an object with `input`.", param="input")
    _refuse_state(document)
    messages, options = _parse_messages(document, limits), _parse_options(document, limits)
    asked = _read_passed(document, texts)
    passed = select_passed(
        _as_completion(asked),
        lambda name, value: without_surrogates(encode(value)),
        lambda name: limits.takes(options.model, name),
        {"response_format": "text.format"},
    )
    repeated = {
        "instructions": document.get("instructions"),
        "max_output_tokens": options.max_tokens,
        "reasoning": {"effort": options.reasoning_effort, "summary": None},
        "temperature": options.temperature,
        "text": {"format": asked.pop("format")},
        "top_p": options.top_p,
        **asked,
    }
    for name in _LARGE:
        if len(texts.get(name, "")) > MOST_REPEATED:
            del repeated[name]
    return Asked(Conversation(messages, options, passed), read_flag(document, "stream"), repeated)


def _refuse_state(document: Mapping[str, object]) -> None:
    """Refuse a request that refers to an earlier one. SDKs send a null or `background: false` for nothing."""
    read_flag(document, "background")
    for name, words in _STATE.items():
        if not (document.get(name) is None or document[name] is False):
            raise UnsupportedState(words, param=name)


# --- messages -------------------------------------------------------------------------------------


def _parse_messages(document: Mapping[str, object], limits: Limits) -> tuple[Message, ...]:
    """Read `instructions`, which is the first message of the system, and `input`."""
    instructions, messages = document.get("instructions"), _parse_input(document.get("input"), limits)
    if instructions is None:
        return messages
    if not isinstance(instructions, str):
        raise BadChatRequest("`instructions` must be a string.", param="instructions")
    if not limits.system:
        raise BadChatRequest(NO_SYSTEM, param="instructions")
    return (Message("system", without_surrogates(instructions)), *messages)


def _parse_input(value: object, limits: Limits) -> tuple[Message, ...]:
    """Read the messages of a text of the user, or of a list of items."""
    if isinstance(value, str):
        return (Message("user", without_surrogates(value)),)
    if not isinstance(value, list):
        raise BadChatRequest("Send the conversation as `input`: a string, or a list of items.", param="input")
    if not value:
        raise BadChatRequest("The list of items is empty.", param="input")
    if len(value) > limits.messages:
        raise BadChatRequest(f"There are more than {limits.messages} items.", param="input")
    counts = Counts(limits)
    items = [_parse_item(item, f"input[{index}]", counts) for index, item in enumerate(value)]
    messages = tuple(_join_calls(filter(None, items)))
    if not messages:
        raise BadChatRequest("No item of the list is for the model.", param="input")
    return messages


def _join_calls(messages: Iterable[Message]) -> Iterator[Message]:
    """Join calls of tools with what the assistant says beside them: an item is only a part of what it has said."""
    for role, group in groupby(messages, attrgetter("role")):
        neighbours = list(group)
        if role == "assistant" and any(message.tool_calls for message in neighbours):
            yield join(role, neighbours)
        else:
            yield from neighbours


def _parse_item(item: object, place: str, counts: Counts) -> Message | None:
    """Read one item; None for one that is not for the model."""
    if not isinstance(item, dict):
        raise BadChatRequest("An item is an object with `type`, or with `role` and `content`.", param=place)
    kind = "message" if item.get("type") is None else item["type"]
    parse = _ITEMS.get(kind) if isinstance(kind, str) else None
    if parse is None:
        known = "An item can only be a message, a function_call, a function_call_output or a reasoning."
        raise BadChatRequest(known, param=f"{place}.type")
    return parse(item, place, counts)


def _parse_message(item: Mapping[str, object], place: str, counts: Counts) -> Message:
    if item.get("role") == "tool":
        raise BadChatRequest("The result of a tool is an item `function_call_output`.", param=f"{place}.role")
    return parse_message(item, place, counts)


def _parse_call(item: Mapping[str, object], place: str, counts: Counts) -> Message:
    call = _read_fields(item, _CALL, tuple(_CALL), f"{place}.", BadChatRequest)
    function = {"name": call["name"], "arguments": call["arguments"]}
    return Message("assistant", "", ({"id": call["call_id"], "type": "function", "function": function},))


def _parse_result(item: Mapping[str, object], place: str, counts: Counts) -> Message:
    call = item.get("call_id")
    if not isinstance(call, str) or not call:
        raise BadChatRequest("The result of a tool must name its call.", param=f"{place}.call_id")
    result, _ = parse_content(item.get("output"), "tool", f"{place}.output", counts)
    return Message("tool", result, tool_call_id=without_surrogates(call))


def _skip(item: Mapping[str, object], place: str, counts: Counts) -> None:
    """Models must not read their own reasoning again."""


def _refuse_reference(item: Mapping[str, object], place: str, counts: Counts) -> Message:
    raise UnsupportedState(_NO_ITEMS, param=f"{place}.type")


_ITEMS: dict[str, Callable[[Mapping[str, object], str, Counts], Message | None]] = {
    "message": _parse_message,
    "function_call": _parse_call,
    "function_call_output": _parse_result,
    "reasoning": _skip,
    "item_reference": _refuse_reference,
}


# --- options --------------------------------------------------------------------------------------


def _parse_options(document: Mapping[str, object], limits: Limits) -> Options:
    reasoning = document.get("reasoning")
    if reasoning is not None and not isinstance(reasoning, dict):
        raise BadOption("`reasoning` must be an object.", param="reasoning")
    known = ("model", "max_output_tokens", "temperature", "top_p", "reasoning")
    return parse_named_options({name: document.get(name) for name in known}, limits, "max_output_tokens")


def _read_passed(document: Mapping[str, object], texts: Mapping[str, str]) -> dict[str, object]:
    """Return the fields that only some models take, as the client has them; `texts` has the JSON of each."""
    for name in _PASSED:
        if document.get(name) is not None:
            check_passed(document[name], texts[name], name)
    return {
        "tools": _read_tools(document.get("tools")),
        "tool_choice": _read_choice(document.get("tool_choice")),
        "parallel_tool_calls": document.get("parallel_tool_calls"),
        "format": _read_format(document.get("text")),
    }


def _read_tools(value: object) -> list[dict[str, object]]:
    """Return the tools with the keys that OpenAI defines."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadOption("`tools` must be a list of functions.", param="tools")
    return [_read_function(tool, _TOOL, f"tools[{index}]") for index, tool in enumerate(value)]


def _read_choice(value: object) -> object:
    if isinstance(value, dict):
        return _read_function(value, {"name": str}, "tool_choice")
    return "auto" if value is None else value


def _read_function(value: object, kinds: Mapping[str, type], place: str) -> dict[str, object]:
    """Return a tool, or the choice of one: it must be a function with a name."""
    if not isinstance(value, dict):
        raise BadOption("A tool is an object with `type` and `name`.", param=place)
    if value.get("type") != "function":
        raise BadOption("Only functions can be tools: this server has none of its own.", param=f"{place}.type")
    return {"type": "function", **_read_fields(value, kinds, ("name",), f"{place}.")}


def _read_format(text: object) -> dict[str, object]:
    """Return `text.format`."""
    if text is not None and not isinstance(text, dict):
        raise BadOption("`text` must be an object.", param="text")
    asked = (text or {}).get("format")
    if asked is None:
        return {"type": "text"}
    if not isinstance(asked, dict):
        raise BadOption("`text.format` must be an object.", param="text.format")
    kind = asked.get("type")
    if kind in ("text", "json_object"):
        return {"type": kind}
    if kind != "json_schema":
        known = "`text.format` must have the type text, json_object or json_schema."
        raise BadOption(known, param="text.format.type")
    return {"type": kind, **_read_fields(asked, _SCHEMA, ("name", "schema"), "text.format.")}


def _read_fields(
    value: Mapping[str, object],
    kinds: Mapping[str, type],
    needed: Iterable[str],
    place: str,
    error: type[BadChatRequest] = BadOption,
) -> dict[str, object]:
    """Return the fields with these names that are not null; those that are `needed` must be there."""
    read = {}
    for name, kind in kinds.items():
        field = value.get(name)
        if field is None and name not in needed:
            continue
        if not isinstance(field, kind):
            raise error(f"`{name}` must be {_KINDS[kind]}.", param=place + name)
        read[name] = field
    return read


def _as_completion(asked: Mapping[str, object]) -> dict[str, object]:
    """Return these fields as chat completions have them: functions and schemas stand one level further down."""
    tools, choice, form = asked["tools"], asked["tool_choice"], asked["format"]
    assert isinstance(tools, list) and isinstance(form, dict)
    return {
        "tools": [_move_down(tool, "function") for tool in tools],
        "tool_choice": _move_down(choice, "function") if isinstance(choice, dict) else choice,
        "parallel_tool_calls": asked["parallel_tool_calls"],
        "response_format": _move_down(form, "json_schema") if form["type"] == "json_schema" else form,
    }


def _move_down(value: Mapping[str, object], key: str) -> dict[str, object]:
    return {"type": value["type"], key: {name: field for name, field in value.items() if name != "type"}}
