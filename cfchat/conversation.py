"""What a conversation is, and how to read one out of what clients POST. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import NamedTuple, NoReturn

from cfchat.errors import BadChatRequest, BadOption, InvalidJSON, UnknownModel

_BOM = b"\xef\xbb\xbf"
_SURROGATE = "[\ud800-\udfff]"
# `ai` is deep-chat's word, `developer` is OpenAI's newer one for system.
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "ai": "assistant",
}
# What becomes of system messages that a client sends.
MERGE, DROP, REJECT = "merge", "drop", "reject"
# What the AI SDK sends back of an earlier reply; models must not read their own reasoning again.
_SILENT_PARTS = frozenset({"step-start", "reasoning"})
_FILE_PARTS = frozenset(
    {"image", "image_url", "input_image", "file", "input_file", "input_audio", "audio", "video_url"}
)


@dataclass(frozen=True, slots=True)
class Message:
    """`role` is system, user, assistant, or tool: then it is the result of the call `tool_call_id`.

    `tool_calls` are those that an assistant made, in OpenAI's shape.

    >>> import cfchat
    >>> cfchat.Message("user", "Hello").content
    'Hello'
    """

    role: str
    content: str
    tool_calls: tuple[Mapping[str, object], ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """What a client may ask for besides an answer; None leaves it to the server and the model.

    >>> import cfchat
    >>> cfchat.Options(max_tokens=100).temperature is None
    True
    """

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None


NO_OPTIONS = Options()
_NUMBERS = tuple(option.name for option in fields(Options) if option.name != "model")
_WHOLE = frozenset({"max_tokens", "top_k", "seed"})


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is asked. `passed` are body fields for those models alone that take them, such as `tools`.

    >>> import asyncio, cfchat
    >>> from dataclasses import replace
    >>> async def before_call(conversation: cfchat.Conversation, request: cfchat.Request) -> cfchat.Conversation:
    ...     last = cfchat.Message("user", conversation.messages[-1].content.replace("4111 1111", "[card]"))
    ...     return replace(conversation, messages=(*conversation.messages[:-1], last))
    >>> asked = cfchat.Conversation((cfchat.Message("user", "My card is 4111 1111"),))
    >>> asyncio.run(before_call(asked, None)).messages[-1].content
    'My card is [card]'
    """

    messages: tuple[Message, ...]
    options: Options = field(default_factory=Options)
    passed: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A piece of a call of a tool: `index` tells which, `id` and `name` come once, `arguments` are JSON that grows."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Delta(NamedTuple):
    """What one step of a reply says. The last one of a whole reply has the finish reason.

    Calls of tools come only where the conversation has tools.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, object] | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


Ranges = Mapping[str, tuple[float, float]]
_ANY: Ranges = dict.fromkeys(_NUMBERS, (-1e10, 1e10))


class Limits(NamedTuple):
    """What a client may send: how many messages, which of `models` it may name, and which options.

    `aliases` are other names of models. `ranges` knows from what to what each option of a model goes (None: of the
    default model), `caps` holds the operator's own upper bounds; `takes` knows which other fields a model takes.
    """

    messages: int = 1000
    models: tuple[str, ...] = ()
    aliases: Mapping[str, str] = MappingProxyType({})
    ranges: Callable[[str | None], Ranges] = lambda model: _ANY
    caps: Mapping[str, float] = MappingProxyType({})
    takes: Callable[[str | None, str], bool] = lambda model, name: True


def parse_conversation(body: bytes, limits: Limits = Limits()) -> Conversation:
    """Read a JSON list of messages, or an object with `messages` and options; unknown keys are ignored.

    Raises InvalidJSON, or BadChatRequest (BadOption for an option) whose `param` names the place.
    """
    document = parse_json(body)
    messages = parse_messages(document.get("messages") if isinstance(document, dict) else document, limits)
    options = parse_options(document, limits) if isinstance(document, dict) else NO_OPTIONS
    return Conversation(messages, options)


def with_system(conversation: Conversation, prompt: str, own: str = MERGE) -> Conversation:
    """One leading system message: `prompt`, then the client's own ones, a blank line between them.

    Templates of models merge or refuse system messages anywhere else. No words at all: no system message.
    `own` tells what becomes of the client's: merge, drop or reject, which raises BadChatRequest.
    """
    own_words = [message.content for message in conversation.messages if message.role == "system"]
    if own == REJECT and own_words:
        place = next(index for index, message in enumerate(conversation.messages) if message.role == "system")
        raise BadChatRequest("System messages are not accepted here.", param=f"messages[{place}].role")
    words = "\n\n".join([text for text in (prompt, *(own_words if own == MERGE else ())) if text])
    rest = [message for message in conversation.messages if message.role != "system"]
    head = [Message("system", words)] if words else []
    return Conversation((*head, *rest), conversation.options, conversation.passed)


def with_defaults(conversation: Conversation, defaults: Options) -> Conversation:
    """The conversation with an option of `defaults` wherever it names none."""
    missing = {
        option.name: default
        for option in fields(Options)
        if (default := getattr(defaults, option.name)) is not None
        and getattr(conversation.options, option.name) is None
    }
    return replace(conversation, options=replace(conversation.options, **missing)) if missing else conversation


def estimate_tokens(message: Message) -> int:
    """About how many tokens a message is, rather more than fewer: one for three bytes of UTF-8, and eight around it."""
    calls = len(json.dumps(message.tool_calls)) if message.tool_calls else 0
    return (len(message.content.encode()) + calls) // 3 + 9


def trim(conversation: Conversation, budget: int) -> tuple[Conversation, int]:
    """The conversation without its oldest turns, so that it fits `budget` tokens, and how many messages that left out.

    A turn begins with a message of the user. System messages and the last turn stay, even where they alone do
    not fit: then it is Cloudflare that says so.
    """
    messages = conversation.messages
    starts = [index for index, message in enumerate(messages) if message.role == "user"]
    tokens = [estimate_tokens(message) for message in messages]
    over = sum(tokens) - budget
    if over <= 0 or not starts:
        return conversation, 0
    kept_from = 0
    for start in starts:
        over -= sum(
            count
            for message, count in zip(messages[kept_from:start], tokens[kept_from:start], strict=True)
            if message.role != "system"
        )
        kept_from = start
        if over <= 0:
            break
    kept = [message for message in messages[:kept_from] if message.role == "system"]
    rest = (*kept, *messages[kept_from:])
    return replace(conversation, messages=rest), len(messages) - len(rest)


def without_surrogates(text: str) -> str:
    """U+FFFD for each surrogate: JSON can escape one alone, UTF-8 cannot hold it (RFC 8259 §8.2)."""
    return text if text.isascii() else re.sub(_SURROGATE, "\ufffd", text)


def parse_json(body: bytes) -> object:
    """What a body of JSON holds. Raises InvalidJSON, for what json.loads would let pass, too."""
    # json.loads(bytes) would guess UTF-16 and UTF-32; RFC 8259 §8.1 knows UTF-8 only.
    try:
        text = body.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidJSON("The body is not UTF-8.") from None
    if "\0" in text[:4]:
        raise InvalidJSON("The body is not UTF-8: it looks like UTF-16 or UTF-32.")
    try:
        return _decode_json(text)
    except RecursionError:
        raise InvalidJSON("The JSON in the body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise InvalidJSON(f"The body is not JSON: see line {error.lineno}, column {error.colno}.") from None
    except ValueError:  # int() has a limit of digits, and the constants above
        raise InvalidJSON("The body holds a number that is none in JSON.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


# json.loads with arguments builds a decoder each time.
_decode_json = json.JSONDecoder(parse_constant=_refuse_constant).decode


def parse_options(document: Mapping[str, object], limits: Limits) -> Options:
    """The options beside the messages. Raises BadOption."""
    model = _model(document.get("model"), limits)
    ranges = limits.ranges(model)
    found: dict[str, float] = {}
    for name in _NUMBERS:
        # OpenAI's newer name goes before its older one.
        newer = name == "max_tokens" and document.get("max_completion_tokens") is not None
        key = "max_completion_tokens" if newer else name
        value = document.get(key)
        if value is not None:
            found[name] = _number(name, key, value, ranges, limits.caps)
    return Options(model, **found)  # type: ignore[arg-type]


def _model(name: object, limits: Limits) -> str | None:
    if name is None or name == "":
        return None
    if isinstance(name, str):
        name = limits.aliases.get(name, name)
        if name in limits.models:
            return name
    models = (*limits.models, *limits.aliases)
    known = f"These are: {', '.join(models)}." if 0 < len(models) <= 10 else "Leave `model` out."
    raise UnknownModel(f"This model is not offered here. {known}", param="model")


def _number(name: str, key: str, value: object, ranges: Ranges, caps: Mapping[str, float]) -> float:
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


def parse_message(item: object, place: str) -> Message:
    """One message. Raises BadChatRequest naming the place."""
    if not isinstance(item, dict):
        raise BadChatRequest("A message is an object with `role` and `content`.", param=place)
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise BadChatRequest("The role must be system, user or assistant.", param=f"{place}.role")
    return Message(_ROLES[role], parse_content(item, place))


def parse_content(item: Mapping[str, object], place: str) -> str:
    """`content`, or the AI SDK's `parts`, or deep-chat's `text`: the first of them that says something.

    Raises BadChatRequest naming the place.
    """
    content = item.get("content")
    if content and isinstance(content, str):
        return without_surrogates(content)
    key = next((key for key in ("content", "parts", "text") if item.get(key)), None)
    if key is None:  # empty, which is allowed, or not there
        key = next((key for key in ("content", "parts", "text") if item.get(key) is not None), "content")
    value, place = item.get(key), f"{place}.{key}"
    if isinstance(value, str) and key != "parts":
        return without_surrogates(value)
    if isinstance(value, list) and key != "text":
        return without_surrogates("".join(_part(part, f"{place}[{index}]") for index, part in enumerate(value)))
    raise BadChatRequest("The content must be a string or a list of text parts.", param=place)


def _part(part: object, place: str) -> str:
    if not isinstance(part, dict):
        raise BadChatRequest("A part of a message is an object with `type` and `text`.", param=place)
    kind = part.get("type")
    if kind == "text":
        text = part.get("text")
        if not isinstance(text, str):
            raise BadChatRequest("The text of a part must be a string.", param=f"{place}.text")
        return text
    if isinstance(kind, str) and kind in _SILENT_PARTS:
        return ""
    if isinstance(kind, str) and kind in _FILE_PARTS:
        raise BadChatRequest("Images, audio and files are not supported: send text.", param=f"{place}.type")
    raise BadChatRequest("A part must have the type `text`.", param=f"{place}.type")


def parse_messages(
    items: object, limits: Limits, read: Callable[[object, str], Message] = parse_message
) -> tuple[Message, ...]:
    """The messages of a JSON list; `read` makes one of an item and its place. Raises BadChatRequest."""
    if not isinstance(items, list):
        raise BadChatRequest("Send a list of messages, or an object with `messages`.", param="messages")
    if not items:
        raise BadChatRequest("The list of messages is empty.", param="messages")
    if len(items) > limits.messages:
        raise BadChatRequest(f"There are more than {limits.messages} messages.", param="messages")
    messages = [read(item, f"messages[{index}]") for index, item in enumerate(items)]
    if "user" not in [message.role for message in messages]:
        raise BadChatRequest("At least one message must come from the user.", param="messages")
    return tuple(messages)
