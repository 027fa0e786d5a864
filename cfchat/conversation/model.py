"""What a conversation is, and how to read one out of what clients POST. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


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
