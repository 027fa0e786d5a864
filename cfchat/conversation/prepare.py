"""Make a conversation ready for a model: system message, default options, length. Pure.

Each function takes a conversation and returns a new one. They are applied in this order: `with_system` when the
request comes in, then `with_defaults`, `trim` and `in_turns` for the model that is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import chain, groupby
from operator import attrgetter

from cfchat.conversation.images import TOKENS_OF_IMAGE
from cfchat.conversation.model import Conversation, Message, Options
from cfchat.conversation.passed import texts_of
from cfchat.wire.strict_json import encode as encode_json

# Of UTF-8. Most languages have more in a token, so an estimate is rather too high than too low.
BYTES_OF_TOKEN = 3
# Begins a conversation without a message of the user, because the chat templates of some models need one.
_OPENING = Message("user", "Go on.")
# The choices for system messages that a client sends.
MERGE, DROP, REJECT = "merge", "drop", "reject"


def with_system(conversation: Conversation, prompt: str, own: str = MERGE) -> Conversation:
    """Return the conversation as models take it: one leading system message, and at least one of the user.

    The system message is `prompt`, then the client's, with blank lines between. There is only one because the chat
    templates of models merge or refuse system messages anywhere else; there is none if all texts are empty. `own` says
    whether to merge the client's system messages or to drop them; `parse` has refused those that are to be rejected.
    """
    own_texts, rest = [], []
    for message in conversation.messages:
        if message.role == "system":
            own_texts.append(message.content)
        else:
            rest.append(message)
    text = "\n\n".join([text for text in (prompt, *(own_texts if own == MERGE else ())) if text])
    head = [Message("system", text)] if text else []
    if "user" not in [message.role for message in rest]:
        head.append(_OPENING)
    return Conversation((*head, *rest), conversation.options, conversation.passed)


def with_defaults(conversation: Conversation, defaults: Options) -> Conversation:
    """Return the conversation with every option that it leaves open taken from `defaults`."""
    missing = {
        option.name: default
        for option in fields(Options)
        if (default := getattr(defaults, option.name)) is not None
        and getattr(conversation.options, option.name) is None
    }
    return replace(conversation, options=replace(conversation.options, **missing)) if missing else conversation


def in_turns(conversation: Conversation) -> Conversation:
    """Return the conversation with user and assistant in turns, the user first.

    Neighbours of one role are joined, with a blank line between their texts. Results of tools stay by themselves.
    """
    turns: list[Message] = []
    for role, group in groupby(conversation.messages, attrgetter("role")):
        neighbours = list(group)
        if role == "assistant" and (not turns or turns[-1].role == "system"):
            turns.append(_OPENING)
        turns += neighbours if role == "tool" else [join(role, neighbours)]
    return replace(conversation, messages=tuple(turns))


def join(role: str, messages: Sequence[Message]) -> Message:
    """Return one message of this role: the texts with blank lines between, all calls of tools and all images."""
    text = "\n\n".join([message.content for message in messages if message.content])
    calls = chain.from_iterable(message.tool_calls for message in messages)
    images = chain.from_iterable(message.images for message in messages)
    return Message(role, text, tuple(calls), images=tuple(images))


def estimate_tokens(message: Message) -> int:
    """Estimate the tokens of a message, rather too many than too few.

    Count one token for three bytes of UTF-8, rounded up, eight for what the chat template puts around, and 4,096 for
    each image.
    """
    size = len(message.content.encode())
    if message.images:
        size += TOKENS_OF_IMAGE * BYTES_OF_TOKEN * len(message.images)
    if message.tool_calls or message.tool_call_id:
        size += _size(message.tool_calls) + len(message.tool_call_id.encode())
    return size // BYTES_OF_TOKEN + 9


def estimate(conversation: Conversation) -> int:
    """Estimate the tokens of a conversation: its messages, and the fields that are passed on, such as tools."""
    tokens = 0
    for message in conversation.messages:
        tokens += estimate_tokens(message)
    if conversation.passed:
        tokens += sum(map(_size_of_text, texts_of(conversation.passed).values())) // BYTES_OF_TOKEN
    return tokens


def _size(value: object) -> int:
    """Return the bytes of a value as JSON. A half of a surrogate pair counts as what it is replaced by."""
    return len(encode_json(value).encode(errors="surrogatepass"))


def _size_of_text(text: str) -> int:
    """Return the bytes of a JSON text, but of its escapes (RFC 8259 §7) the two or three bytes that they stand for."""
    if "\\u" not in text:
        return len(text.encode())
    of_two_bytes = sum([text.count(f"\\u0{digit}") for digit in range(8)])
    return len(text.encode()) - 3 * text.count("\\u") - of_two_bytes


def trim(conversation: Conversation, budget: int) -> tuple[Conversation, int]:
    """Drop the oldest turns until the conversation fits `budget` tokens; return it and how many messages were dropped.

    A turn begins with a message of the user. System messages and the last turn stay even if they alone do not fit:
    then Cloudflare refuses the request.
    """
    messages = conversation.messages
    starts = [index for index, message in enumerate(messages) if message.role == "user"]
    tokens = [estimate_tokens(message) for message in messages]
    over = estimate(conversation) - budget
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
