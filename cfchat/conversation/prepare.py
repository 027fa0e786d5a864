"""What a conversation is, and how to read one out of what clients POST. Pure."""

from __future__ import annotations

import json
from dataclasses import fields, replace

from cfchat.conversation.model import Conversation, Message, Options
from cfchat.errors import BadChatRequest

# What becomes of system messages that a client sends.
MERGE, DROP, REJECT = "merge", "drop", "reject"


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
