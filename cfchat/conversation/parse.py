"""Read a conversation out of what clients POST: a list of messages, or an object with messages and options. Pure.

It accepts the shapes of OpenAI, of the AI SDK (`parts`) and of deep-chat (`ai`, `text`), and ignores keys that it does
not know. What it knows must be right: every refusal names its place (`messages[2].role`) and repeats nothing of the
body. JSON is UTF-8 as RFC 8259 defines it. `conversation.openai` builds on these functions.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any, NamedTuple

from cfchat.conversation.images import NO_FILES, Image, find_attachments, is_image, read_image
from cfchat.conversation.model import NO_OPTIONS, Conversation, Message, Options
from cfchat.errors import BadChatRequest, BadOption, InvalidImage, InvalidJSON, UnknownModel
from cfchat.wire.strict_json import TooManyMembers, decode

_SURROGATE = "[\ud800-\udfff]"
# deep-chat says `ai` for assistant; OpenAI's newer models say `developer` for system.
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "tool": "tool",
}
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})  # the last two are those of OpenAI's Responses
# What the AI SDK and OpenAI's clients send back of an earlier reply, and what is for a page alone. They are passed over
# even if they hold a text, because models must not read their own reasoning again; other kinds if they hold none.
_SKIPPED_PARTS = re.compile(r"(?:data|source|tool)-.*|reasoning.*|dynamic-tool|step-start|refusal|custom", re.DOTALL)
# A user's files are refused, because leaving them out would change what is asked. An assistant's are passed over if
# a model may have made them.
_FILE_PARTS = re.compile(r"(?:input_)?(?:image|file|audio|video|document)(?:_url)?")
_NEVER_GENERATED = frozenset({"image", "image_url", "input_image"})
# What an assistant's message of OpenAI's API may hold and no text.
_INSTEAD_OF_TEXT = ("tool_calls", "function_call", "refusal", "audio", "reasoning_content", "reasoning")
NO_SYSTEM = "System messages are not accepted here."
PARTS_EACH = 20  # parts for each message that a conversation may have, all together
_NUMBERS = tuple(option.name for option in fields(Options) if option.name not in ("model", "reasoning_effort"))
MAX_TOKENS = "max_completion_tokens"  # what OpenAI calls `max_tokens` today
_WHOLE = frozenset({"max_tokens", "top_k", "seed"})
Ranges = Mapping[str, tuple[float, float]]
_ANY: Ranges = dict.fromkeys(_NUMBERS, (-1e10, 1e10))


class Limits(NamedTuple):
    """The limits of a request: how many messages, and which of `models` and of their options a client may name.

    `aliases` are other names of models. `ranges(model)` gives the lowest and highest value of each option of a model
    (None: the default model); `caps` are the operator's own upper bounds. `takes(model, field)` says whether a model
    takes a body field such as `tools`, and `efforts(model)` how much it can be asked to think. A conversation may hold
    so many `images`, and messages of the system only with `system`.
    """

    messages: int = 1000
    models: tuple[str, ...] = ()
    aliases: Mapping[str, str] = MappingProxyType({})
    ranges: Callable[[str | None], Ranges] = lambda model: _ANY
    caps: Mapping[str, float] = MappingProxyType({})
    takes: Callable[[str | None, str], bool] = lambda model, name: True
    efforts: Callable[[str | None], Sequence[str]] = lambda model: ("none", "minimal", "low", "medium", "high")
    images: int = 0
    system: bool = True


def parse_conversation(body: bytes, limits: Limits = Limits()) -> Conversation:
    """Read a JSON list of messages, or an object with `messages` and options; ignore unknown keys.

    Raises:
        InvalidJSON: the body is not JSON in UTF-8.
        BadChatRequest: it is not a conversation (BadOption for an option); `param` names the place.
    """
    return read_conversation(parse_json(body), limits)


def read_conversation(document: object, limits: Limits = Limits()) -> Conversation:
    """Read what `parse_conversation` has decoded."""
    messages = parse_messages(document.get("messages") if isinstance(document, dict) else document, limits)
    options = parse_options(document, limits) if isinstance(document, dict) else NO_OPTIONS
    return Conversation(messages, options)


def read_chat_id(document: object) -> str:
    """Return the id of the chat that a conversation belongs to, as the AI SDK sends it; empty if there is none."""
    chat = document.get("id") if isinstance(document, dict) else None
    return chat if isinstance(chat, str) else ""


def without_surrogates(text: str) -> str:
    """Replace each surrogate by U+FFFD: JSON can escape a lone one, UTF-8 cannot hold it (RFC 8259 §8.2)."""
    if text.isascii():
        return text
    try:
        text.encode()  # ten times as quick as looking for one
    except UnicodeEncodeError:
        return re.sub(_SURROGATE, "\ufffd", text)
    return text


def parse_json(body: bytes, decode: Callable[[str], Any] = decode) -> Any:
    """Return the value of a body of JSON, or whatever `decode` makes of its text.

    Raises:
        InvalidJSON: the body is not UTF-8, not JSON as RFC 8259 defines it, or nested too deeply.
    """
    # json.loads(bytes) would guess UTF-16 and UTF-32; RFC 8259 §8.1 allows UTF-8 only.
    try:
        text = body.removeprefix(BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidJSON("The body is not UTF-8.") from None
    if "\0" in text[:4]:
        raise InvalidJSON("The body is not UTF-8: it looks like UTF-16 or UTF-32.")
    try:
        return decode(text)
    except RecursionError:
        raise InvalidJSON("The JSON in the body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise InvalidJSON(f"The body is not JSON: see line {error.lineno}, column {error.colno}.") from None
    except TooManyMembers:
        raise BadChatRequest("The object has too many fields.") from None
    except ValueError:  # NaN and Infinity, and more digits than int() takes
        raise InvalidJSON("The body holds a number that JSON does not allow.") from None


def parse_options(
    document: Mapping[str, object], limits: Limits, max_tokens: str = MAX_TOKENS
) -> Options:
    """Read the options of an object with messages. `max_tokens` is its newer name, which wins.

    Raises:
        BadOption: an option is not a number, out of its range or over its cap, or the model is unknown (UnknownModel).
    """
    model = _resolve_model(document.get("model"), limits)
    ranges = limits.ranges(model)
    numbers: dict[str, float] = {}
    for name in _NUMBERS:
        newer = name == "max_tokens" and document.get(max_tokens) is not None
        key = max_tokens if newer else name
        value = document.get(key)
        if value is not None:
            numbers[name] = _check_number(name, key, value, ranges, limits.caps)
    effort = _parse_effort(document, limits.efforts(model))
    return Options(model, **numbers, reasoning_effort=effort)  # type: ignore[arg-type]


def _parse_effort(document: Mapping[str, object], efforts: Sequence[str]) -> str | None:
    """Return how much the model shall think, by the name in OpenAI's completions or in its responses."""
    effort, place = document.get("reasoning_effort"), "reasoning_effort"
    reasoning = document.get("reasoning")
    if effort is None and isinstance(reasoning, dict):
        effort, place = reasoning.get("effort"), "reasoning.effort"
    if effort is None or (isinstance(effort, str) and effort in efforts):
        return effort
    known = f"`{place}` can only be {', '.join(efforts)} for this model."
    raise BadOption(known if efforts else f"This model does not take `{place}`.", param=place)


def _resolve_model(name: object, limits: Limits) -> str | None:
    """Return the model that a name or an alias stands for, or None if the client leaves the choice to the server."""
    if name is None or name == "":
        return None
    if isinstance(name, str):
        name = limits.aliases.get(name, name)
        if name in limits.models:
            return name
    models = (*limits.models, *limits.aliases)
    # A long list would not help the client.
    advice = f"These are: {', '.join(models)}." if 0 < len(models) <= 10 else "Leave `model` out."
    raise UnknownModel(f"This model is not offered here. {advice}", param="model")


def _check_number(name: str, key: str, value: object, ranges: Ranges, caps: Mapping[str, float]) -> float:
    """Return the value of the option `name`, which the client calls `key`."""
    if name not in ranges:
        raise BadOption(f"This model does not take `{key}`.", param=key)
    whole = name in _WHOLE
    if isinstance(value, float) and whole and value.is_integer():
        value = int(value)  # some JSON encoders write 100.0
    if type(value) is not int and (whole or type(value) is not float):
        raise BadOption(f"`{key}` must be a {'whole ' if whole else ''}number.", param=key)
    assert isinstance(value, (int, float))
    low, high = ranges[name]
    if not low <= value <= high:
        raise BadOption(f"`{key}` must be from {low:.10g} to {high:.10g}.", param=key)
    if name in caps and value > caps[name]:
        raise BadOption(f"The most that this server allows for `{key}` is {caps[name]:.10g}.", param=key)
    return value


class Counts:
    """How much of everything a conversation has so far. What is over the limits is refused before it is read."""

    parts = calls = images = 0

    def __init__(self, limits: Limits) -> None:
        self.limits = limits


def parse_message(item: object, place: str, counts: Counts) -> Message:
    """Read one message: a text, perhaps with images, an assistant's calls of tools, or the result of a call.

    Calls and results have OpenAI's shape.
    """
    if not isinstance(item, dict):
        raise BadChatRequest("A message is an object with `role` and `content`.", param=place)
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise BadChatRequest("The role must be system, user, assistant or tool.", param=f"{place}.role")
    role = _ROLES[role]
    if role == "system" and not counts.limits.system:
        raise BadChatRequest(NO_SYSTEM, param=f"{place}.role")
    content, images = _find_content(item, role, place, counts)
    if role == "tool":
        call = item.get("tool_call_id")
        if not isinstance(call, str) or not call:
            raise BadChatRequest("The result of a tool must name its call.", param=f"{place}.tool_call_id")
        return Message(role, content, tool_call_id=without_surrogates(call))
    if role != "assistant" or not item.get("tool_calls"):
        return Message(role, content, images=images)
    calls = item["tool_calls"]
    if not isinstance(calls, list):
        raise BadChatRequest("The calls of tools must be a list.", param=f"{place}.tool_calls")
    counts.calls += len(calls)
    if counts.calls > counts.limits.messages:
        raise BadChatRequest(f"There are more than {counts.limits.messages} calls of tools.", param="messages")
    parsed = [_parse_call(call, f"{place}.tool_calls", index) for index, call in enumerate(calls)]
    return Message(role, content, tuple(parsed))


def _parse_call(call: Any, place: str, index: int) -> Mapping[str, object]:
    """Read the call of a tool at this index; drop keys that OpenAI does not define."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise BadChatRequest("A call of a tool is an object with `id` and `function`.", param=f"{place}[{index}]")
    call_id, name, arguments = call.get("id"), function.get("name"), function.get("arguments")
    for path, text in (("id", call_id), ("function.name", name), ("function.arguments", arguments)):
        if not isinstance(text, str):
            raise BadChatRequest("This must be a string.", param=f"{place}[{index}].{path}")
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _find_content(
    item: Mapping[str, object], role: str, place: str, counts: Counts
) -> tuple[str, tuple[Image, ...]]:
    """Return a message's text: `content`, the AI SDK's `parts` or deep-chat's `text`, whichever first is not empty.

    With it come the images among its parts and beside it. The text may be missing beside images, and an assistant's
    beside calls of tools, a refusal and the like.
    """
    images: tuple[Image, ...] = ()
    if "files" in item or "experimental_attachments" in item:  # the ATTACHMENTS, but without a call for each message
        attached = find_attachments(item, place) if role != "assistant" else ()
        images = tuple(parse_image(part, where, role, counts) for part, where in attached)
    content = item.get("content")
    if content and type(content) is str:
        return content if content.isascii() else without_surrogates(content), images
    key = next((key for key in ("content", "parts", "text") if item.get(key)), None)
    if key is None:  # An empty text is allowed; a missing one is not.
        key = next((key for key in ("content", "parts", "text") if item.get(key) is not None), None)
        if key is None and (images or (role == "assistant" and any(map(item.get, _INSTEAD_OF_TEXT)))):
            return "", images
        key = key or "content"
    value, place = item.get(key), f"{place}.{key}"
    kind = {"parts": list, "text": str}.get(key, object)
    text, of_parts = parse_content(value if isinstance(value, kind) else None, role, place, counts)
    return text, of_parts + images


def parse_content(value: object, role: str, place: str, counts: Counts) -> tuple[str, tuple[Image, ...]]:
    """Return the text and the images of a value that is a string or a list of parts."""
    if isinstance(value, str):
        return without_surrogates(value), ()
    if isinstance(value, list):
        counts.parts += len(value)
        most = PARTS_EACH * counts.limits.messages
        if counts.parts > most:
            raise BadChatRequest(f"There are more than {most} parts.", param=place)
        parts = [_read_part(part, f"{place}[{index}]", role, counts) for index, part in enumerate(value)]
        text = "".join([part for part in parts if type(part) is str])
        return without_surrogates(text), tuple(part for part in parts if type(part) is Image)
    raise BadChatRequest("The content must be a string or a list of text parts.", param=place)


def _read_part(part: object, place: str, role: str, counts: Counts) -> str | Image:
    """Return the text of one part of a message, or its image."""
    if not isinstance(part, dict):
        raise BadChatRequest("A part of a message is an object with `type` and `text`.", param=place)
    kind = part.get("type")
    if isinstance(kind, str) and kind in _TEXT_PARTS:
        text = part.get("text")
        if not isinstance(text, str):
            raise BadChatRequest("The text of a part must be a string.", param=f"{place}.text")
        return text
    if isinstance(kind, str) and _FILE_PARTS.fullmatch(kind) and (role != "assistant" or kind in _NEVER_GENERATED):
        if is_image(part):
            return parse_image(part, place, role, counts)
        raise BadChatRequest(NO_FILES, param=f"{place}.type")
    if isinstance(kind, str) and (_SKIPPED_PARTS.fullmatch(kind) or not isinstance(part.get("text"), str)):
        return ""
    raise BadChatRequest("A part must have the type `text`.", param=f"{place}.type")


def parse_image(part: Mapping[str, object], place: str, role: str, counts: Counts) -> Image:
    """Read a part or an attachment that is an image, and count it.

    Raises:
        InvalidImage: images are not accepted, or not from this role, there are too many, or this one is wrong.
    """
    most = counts.limits.images
    if not most:
        raise InvalidImage("Images are not accepted here: send text.", param=place)
    counts.images += 1
    if counts.images > most:
        words = f"{most} image{'s' if most > 1 else ''}"
        raise InvalidImage(f"A conversation can hold {words} at most here: leave older ones out.", param=place)
    return read_image(part, place, role)


def parse_messages(items: object, limits: Limits) -> tuple[Message, ...]:
    """Read the messages of a JSON list.

    Raises:
        BadChatRequest: it is no list, is empty or too long, or an item is wrong.
    """
    if not isinstance(items, list):
        raise BadChatRequest("Send a list of messages, or an object with `messages`.", param="messages")
    if not items:
        raise BadChatRequest("The list of messages is empty.", param="messages")
    if len(items) > limits.messages:
        raise BadChatRequest(f"There are more than {limits.messages} messages.", param="messages")
    counts = Counts(limits)
    return tuple([parse_message(item, f"messages[{index}]", counts) for index, item in enumerate(items)])
