"""What a conversation and its reply consist of. Pure.

Everything is frozen, so a conversation can be handed to a hook, kept for another try and compared in a test; a change
makes a new one with `dataclasses.replace`. A reply is a sequence of deltas; a delta is a tuple, because a reply makes
one for every few tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cfchat.conversation.images import Image


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a conversation. `role` is system, user, assistant or tool.

    `tool_calls` are the calls that an assistant made, in OpenAI's shape. A message of a tool is the result of the call
    `tool_call_id`. Only a user's message has `images`; the model reads them behind the text.

    >>> import cfchat
    >>> cfchat.Message("user", "Hello").content
    'Hello'
    """

    role: str
    content: str
    tool_calls: tuple[Mapping[str, object], ...] = ()
    tool_call_id: str = ""
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a reply. None leaves an option to the server and the model.

    `reasoning_effort` is how much the model shall think: none, minimal, low, medium or high.

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
    reasoning_effort: str | None = None


NO_OPTIONS = Options()


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages and options of a request. `passed` are body fields that only some models take, such as `tools`.

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

    @property
    def images(self) -> int:
        """How many images its messages hold."""
        number = 0
        for message in self.messages:
            if message.images:
                number += len(message.images)
        return number


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A piece of a call of a tool.

    `index` is the call's number in the reply. The first piece has `id` and `name`; the `arguments` of all pieces,
    joined, are a JSON text.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Source(NamedTuple):
    """A page that a search has found for a reply.

    `title` is one line. `url` is an http or https URL that is escaped, or None if the page has only a name. `score`
    says how well the page fits the question; 0 if that is not known.
    """

    title: str
    url: str | None = None
    score: float = 0.0


class Delta(NamedTuple):
    """One step of a reply. The last delta of a whole reply has the finish reason.

    Calls of tools come only if the conversation has tools, and sources only if a search was asked: with the first words
    or, if they came late, with later ones.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, object] | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    sources: tuple[Source, ...] = ()
