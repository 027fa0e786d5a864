"""Encode the body of the POST that asks a model for a reply. Pure.

The client's options and fields are asked of one model, and a retry may send them to another: what this model does not
take is left out, and a number beyond its range is moved into it. Fields of our own are set last, so that nothing that
a client or an operator adds can replace them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cfchat.conversation.model import NO_OPTIONS, Conversation, Message, Options
from cfchat.conversation.parse import without_surrogates
from cfchat.upstream.cloudflare.models import CLASSIC_NAMES, MODEL_FIELDS, ranges, takes
from cfchat.wire.strict_json import encode as encode_json


def encode_request(
    conversation: Conversation,
    model: str,
    max_tokens: int,
    *,
    extra: Mapping[str, object] | None = None,
    reject_if_busy: bool = False,
) -> bytes:
    """Return the body as JSON in UTF-8. `max_tokens` bounds the reply.

    `extra` are further fields for this model; None stands for those of MODEL_FIELDS. `reject_if_busy` asks Cloudflare
    to refuse at once instead of queueing (developers.cloudflare.com/workers-ai/features/reject-if-busy).
    """
    body: dict[str, object] = dict(MODEL_FIELDS.get(model, {}) if extra is None else extra)
    if conversation.options is not NO_OPTIONS:
        body |= _options(conversation.options, model)
    if conversation.passed:
        body |= _passed(conversation.passed, model)
    body |= {
        "messages": [_message(message) for message in conversation.messages],
        # JSON mode cannot be streamed (developers.cloudflare.com/workers-ai/features/json-mode).
        "stream": "response_format" not in body,
        # Always sent, because classic models stop at 256 tokens without it.
        "max_tokens": max_tokens,
    }
    if reject_if_busy:
        own = body.get("options")
        body["options"] = {**(own if isinstance(own, dict) else {}), "rejectIfBusy": True}
    text = encode_json(body)
    return without_surrogates(text).encode()


def _options(options: Options, model: str) -> dict[str, object]:
    """Return the client's options that this model takes, each within the model's range."""
    return {
        name: min(max(asked, low), high)
        for name, (low, high) in ranges(model).items()
        if (asked := getattr(options, name)) is not None
    }


def _passed(passed: Mapping[str, object], model: str) -> dict[str, object]:
    """Return the client's further fields that this model takes."""
    fields = {name: value for name, value in passed.items() if takes(model, name)}
    # Classic models want the schema of a JSON reply bare, without OpenAI's name and wrapper.
    wanted: Any = fields.get("response_format")
    if wanted and wanted["type"] == "json_schema" and CLASSIC_NAMES.fullmatch(model):
        fields["response_format"] = {"type": "json_schema", "json_schema": wanted["json_schema"]["schema"]}
    return fields


def _message(message: Message) -> dict[str, object]:
    fields: dict[str, object] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["tool_calls"] = message.tool_calls
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    return fields
