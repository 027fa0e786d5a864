"""Workers AI's requests: models and what is known of them, paths, the body of a POST, the list of models. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cfchat.conversation.model import Conversation, Message, Options
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
    """The body of the POST. Classic models stop at 256 tokens unless max_tokens is sent.

    `extra` are further fields for this model, by default those known to be good for it; `reject_if_busy` asks
    Cloudflare to refuse at once in place of queueing (developers.cloudflare.com/workers-ai/features/reject-if-busy).
    """
    body: dict[str, object] = dict(MODEL_FIELDS.get(model, {}) if extra is None else extra)
    body |= _options(conversation.options, model)
    body |= _passed(conversation.passed, model)
    body |= {
        "messages": [_message(message) for message in conversation.messages],
        # JSON mode cannot be streamed (developers.cloudflare.com/workers-ai/features/json-mode).
        "stream": "response_format" not in body,
        "max_tokens": max_tokens,
    }
    if reject_if_busy:
        own = body.get("options")
        body["options"] = {**(own if isinstance(own, dict) else {}), "rejectIfBusy": True}
    text = encode_json(body)
    return without_surrogates(text).encode()


def _options(options: Options, model: str) -> dict[str, object]:
    """What the client asked for, as far as this model takes it: it may be another than the client had in mind."""
    return {
        name: min(max(asked, low), high)
        for name, (low, high) in ranges(model).items()
        if (asked := getattr(options, name)) is not None
    }


def _passed(passed: Mapping[str, object], model: str) -> dict[str, object]:
    """What this model takes of it. The classic schema wants the schema of a JSON reply bare."""
    fields = {name: value for name, value in passed.items() if takes(model, name)}
    wanted: Any = fields.get("response_format")
    if wanted and wanted["type"] == "json_schema" and CLASSIC_NAMES.fullmatch(model):
        fields["response_format"] = {"type": "json_schema", "json_schema": wanted["json_schema"]["schema"]}
    return fields


def _message(message: Message) -> dict[str, object]:
    told: dict[str, object] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        told["tool_calls"] = message.tool_calls
    if message.tool_call_id:
        told["tool_call_id"] = message.tool_call_id
    return told
