"""What a conversation is, and how to read one out of what clients POST. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from cfchat.errors import BadChatRequest, InvalidJSON

_BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile("[\ud800-\udfff]")
# `ai` is deep-chat's word, `developer` is OpenAI's newer one for system.
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "ai": "assistant",
}
# What the AI SDK sends back of an earlier reply; models must not read their own reasoning again.
_SILENT_PARTS = frozenset({"step-start", "reasoning"})
_FILE_PARTS = frozenset(
    {"image", "image_url", "input_image", "file", "input_file", "input_audio", "video_url"}
)


@dataclass(frozen=True, slots=True)
class Message:
    """`role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Options:
    """What a client may ask for besides an answer: nothing, so far."""


@dataclass(frozen=True, slots=True)
class Conversation:
    messages: tuple[Message, ...]
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step of a reply says. The last one of a whole reply has the finish reason."""

    text: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, object] | None = None
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    messages: int = 1000


def parse_conversation(body: bytes, limits: Limits = Limits()) -> Conversation:
    """Read a JSON list of messages, or an object with `messages`; unknown keys are ignored.

    Raises InvalidJSON, or BadChatRequest whose `param` names the place.
    """
    document = _parse_json(body)
    items = document.get("messages") if isinstance(document, dict) else document
    if not isinstance(items, list):
        raise BadChatRequest("Send a list of messages, or an object with `messages`.", param="messages")
    if not items:
        raise BadChatRequest("The list of messages is empty.", param="messages")
    if len(items) > limits.messages:
        raise BadChatRequest(f"There are more than {limits.messages} messages.", param="messages")
    messages = tuple(_message(item, f"messages[{index}]") for index, item in enumerate(items))
    if all(message.role != "user" for message in messages):
        raise BadChatRequest("At least one message must come from the user.", param="messages")
    return Conversation(messages)


def with_system(conversation: Conversation, prompt: str) -> Conversation:
    """One leading system message: `prompt`, then the client's own ones, a blank line between them.

    Templates of models merge or refuse system messages anywhere else. No words at all: no system message.
    """
    own = [message.content for message in conversation.messages if message.role == "system"]
    words = "\n\n".join(text for text in (prompt, *own) if text)
    rest = tuple(message for message in conversation.messages if message.role != "system")
    head = (Message("system", words),) if words else ()
    return Conversation(head + rest, conversation.options)


def without_surrogates(text: str) -> str:
    """U+FFFD for each surrogate: JSON can escape one alone, UTF-8 cannot hold it (RFC 8259 §8.2)."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _parse_json(body: bytes) -> object:
    # json.loads(bytes) would guess UTF-16 and UTF-32; RFC 8259 §8.1 knows UTF-8 only.
    try:
        text = body.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidJSON("The body is not UTF-8.") from None
    if "\0" in text[:4]:
        raise InvalidJSON("The body is not UTF-8: it looks like UTF-16 or UTF-32.")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise InvalidJSON("The JSON in the body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise InvalidJSON(f"The body is not JSON: see line {error.lineno}, column {error.colno}.") from None
    except ValueError:  # int() has a limit of digits, and the constants above
        raise InvalidJSON("The body holds a number that is none in JSON.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _message(item: object, place: str) -> Message:
    if not isinstance(item, dict):
        raise BadChatRequest("A message is an object with `role` and `content`.", param=place)
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise BadChatRequest("The role must be system, user or assistant.", param=f"{place}.role")
    return Message(_ROLES[role], without_surrogates(_content(item, place)))


def _content(item: dict[str, object], place: str) -> str:
    """`content`, or the AI SDK's `parts`, or deep-chat's `text`: the first of them that says something."""
    key = next((key for key in ("content", "parts", "text") if item.get(key)), None)
    if key is None:  # empty, which is allowed, or not there
        key = next((key for key in ("content", "parts", "text") if item.get(key) is not None), "content")
    value, place = item.get(key), f"{place}.{key}"
    if isinstance(value, str) and key != "parts":
        return value
    if isinstance(value, list) and key != "text":
        return "".join(_part(part, f"{place}[{index}]") for index, part in enumerate(value))
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
        raise BadChatRequest("Images and files are not supported: send text.", param=f"{place}.type")
    raise BadChatRequest("A part must have the type `text`.", param=f"{place}.type")
