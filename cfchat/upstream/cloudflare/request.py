"""Encode the body of the POST that asks a model for a reply. Pure.

A conversation is encoded once, into a Question; each try puts the fields of its model around it. The client's options
and fields are asked of one model, and a retry may send them to another: what this model does not take is left out, and
a number beyond its range is moved into it. Fields of our own are set last, so that nothing that a client or an operator
adds can replace them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from cfchat.conversation.model import NO_OPTIONS, Conversation, Message, Options
from cfchat.conversation.parse import without_surrogates
from cfchat.conversation.passed import texts_of
from cfchat.upstream.cloudflare.models import CLASSIC_NAMES, MODEL_FIELDS, effort_fields, ranges, takes
from cfchat.wire.strict_json import decode
from cfchat.wire.strict_json import encode as encode_json


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation as it is sent: all that is kept of it while its first words are waited for.

    `messages` is the JSON of the list, `passed` that of each further field, and `images` says how many there are.
    """

    options: Options
    messages: bytes
    passed: Mapping[str, bytes]
    images: int = 0

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        size = len(self.messages)
        return size + sum(map(len, self.passed.values())) if self.passed else size


def encode_question(conversation: Conversation) -> Question:
    """Return the parts of the request that are the same for every model."""
    passed: Mapping[str, bytes] = {}
    if conversation.passed:
        passed = {name: text.encode() for name, text in texts_of(conversation.passed).items()}
    return Question(conversation.options, encode_messages(conversation.messages), passed, conversation.images)


def encode_messages(messages: Sequence[Message]) -> bytes:
    """Return a list of messages as JSON in UTF-8.

    Only a message with images has a list of parts as its content, because models without sight refuse a list.
    """
    for message in messages:
        if message.images:
            return _encode_with_images(messages)
    text = encode_json([*map(_message, messages)])
    try:
        return text.encode()
    except UnicodeEncodeError:
        return without_surrogates(text).encode()


def _encode_with_images(messages: Sequence[Message]) -> bytes:
    """Return the same for messages with images.

    They are written one after the other, because joining them would need two copies of each at once. Nothing of a URL
    is searched for what JSON must escape: it is base64.
    """
    out = BytesIO()
    for number, message in enumerate(messages):
        out.write(b"," if number else b"[")
        if not message.images:
            out.write(encode_messages((message,))[1:-1])
            continue
        text = [{"type": "text", "text": without_surrogates(message.content)}] if message.content else []
        out.write(encode_json({"role": message.role, "content": text}).encode()[:-2])
        for index, image in enumerate(message.images):
            out.write(b"," if text or index else b"")
            out.write(b'{"type":"image_url","image_url":{"url":"')
            out.write(image.url.encode())
            out.write(b'"}}')
        out.write(b"]}")
    out.write(b"]")
    return out.getvalue()


def encode_request(
    question: Question,
    model: str,
    max_tokens: int,
    *,
    messages: bytes | None = None,
    extra: Mapping[str, object] | None = None,
    reject_if_busy: bool = False,
    route: bool = False,
) -> bytes:
    """Return the body as JSON in UTF-8. `max_tokens` bounds the reply; `messages` may stand for the question's own.

    `extra` are further fields for this model; None stands for those of MODEL_FIELDS. `reject_if_busy` asks Cloudflare
    to refuse at once instead of queueing (developers.cloudflare.com/workers-ai/features/reject-if-busy). The body for a
    `route` names it, and has only what OpenAI's API has, because the model behind it may be any provider's.
    """
    fields = {**(MODEL_FIELDS.get(model, {}) if extra is None else extra)}
    if question.options is not NO_OPTIONS:
        fields |= _options(question.options, model)
        if question.options.reasoning_effort is not None:
            fields |= _effort(question.options.reasoning_effort, model, fields.get("chat_template_kwargs"))
    large = _passed(question.passed, model) if question.passed else {}
    # JSON mode cannot be streamed (developers.cloudflare.com/workers-ai/features/json-mode).
    fields["stream"] = "response_format" not in fields and "response_format" not in large
    if route:
        fields["model"] = model
        # The newer name: OpenAI's models refuse the older one.
        fields["max_completion_tokens"] = max_tokens
        if fields["stream"]:
            fields["stream_options"] = {"include_usage": True}
    else:
        # Always sent, because classic models stop at 256 tokens without it.
        fields["max_tokens"] = max_tokens
    if reject_if_busy and not route:
        own = fields.get("options")
        fields["options"] = {**(own if isinstance(own, dict) else {}), "rejectIfBusy": True}
    for name in (*large, "messages"):
        if name in fields:
            del fields[name]
    pieces = [encode_json(fields)[:-1].encode()]
    for name in large:
        pieces += (b',"%b":' % name.encode(), large[name])
    pieces += (b',"messages":', question.messages if messages is None else messages, b"}")
    return b"".join(pieces)  # so that images are copied once


def encode_search(question: Question, extra: Mapping[str, object], *, messages: bytes | None = None) -> bytes:
    """Return the body that asks an instance of AI Search: the messages, and the fields that the operator sets.

    The instance has settings of its own, so no option of a client is sent. Cloudflare documents none but `model` and
    `ai_search_options` (developers.cloudflare.com/api, AI Search, Chat Completions).
    """
    fields = encode_json({**extra, "stream": True})[:-1].encode()
    return b'%b,"messages":%b}' % (fields, question.messages if messages is None else messages)


def _options(options: Options, model: str) -> dict[str, object]:
    """Return the client's options that this model takes, each within the model's range."""
    return {
        name: min(max(asked, low), high)
        for name, (low, high) in ranges(model).items()
        if (asked := getattr(options, name)) is not None
    }


def _effort(effort: str, model: str, arguments: object) -> dict[str, object]:
    """Return the fields for the client's effort. The operator's other `arguments` of the chat template stay."""
    fields = effort_fields(model, effort)
    ours = fields.get("chat_template_kwargs")
    if isinstance(ours, dict) and isinstance(arguments, dict):
        fields["chat_template_kwargs"] = {**arguments, **ours}
    return fields


def _passed(passed: Mapping[str, bytes], model: str) -> dict[str, bytes]:
    """Return the client's further fields that this model takes."""
    fields = {name: value for name, value in passed.items() if takes(model, name)}
    # Classic models want the schema of a JSON reply bare, without OpenAI's name and wrapper.
    if "response_format" in fields and CLASSIC_NAMES.fullmatch(model):
        wanted: Any = decode(fields["response_format"].decode())
        if wanted["type"] == "json_schema":
            bare = {"type": "json_schema", "json_schema": wanted["json_schema"]["schema"]}
            fields["response_format"] = encode_json(bare).encode()
    return fields


def _message(message: Message) -> dict[str, object]:
    fields: dict[str, object] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["tool_calls"] = message.tool_calls
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    return fields
