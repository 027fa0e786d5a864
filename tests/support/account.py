"""A Cloudflare account for the commands: its list of models, and what its models answer."""

from __future__ import annotations

import json
from collections.abc import Mapping

from standin import Exchange, Script, StandIn, reply

MODEL = "@cf/google/gemma-4-26b-a4b-it"
OTHER = "@cf/meta/llama-3.1-8b-instruct-fast"
ALONE = ("--fallback-models", "none")
HELLO = b'data: {"response":"Hello"}\n\ndata: {"response":" there"}\n\n'
DONE = b'data: {"response":"","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\ndata: [DONE]\n\n'
ANSWER = reply(HELLO + DONE)
THOUGHTS = (
    b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"Hm."},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\ndata: [DONE]\n\n'
)


def listing(*models: Mapping[str, object]) -> Script:
    """Return the reply of `models/search`."""
    envelope = {"success": True, "errors": [], "messages": [], "result": list(models)}
    return reply(json.dumps(envelope).encode(), framing="length", fields=[("content-type", "application/json")])


def listed(name: str, **properties: object) -> dict[str, object]:
    """Return one entry of it."""
    task = {"id": "c329a1f9-323d-4e91-b2aa-582dd4188d34", "name": "Text Generation", "description": ""}
    named = [{"property_id": key, "value": value} for key, value in properties.items()]
    return {"id": "1", "source": 1, "name": name, "description": "", "task": task, "tags": [], "properties": named}


LISTING = listing(listed(MODEL), listed(OTHER))


def cloudflare(models: Script = LISTING, answer: Script = ANSWER, search: Script = ANSWER) -> StandIn:
    """Return an account: `models` replies with the list of models, `answer` for each model, `search` for AI Search."""

    async def script(exchange: Exchange) -> None:
        if "/ai/models/search" in exchange.target:
            await models(exchange)
        elif "/ai-search/" in exchange.target:
            await search(exchange)
        else:
            await answer(exchange)

    return StandIn([script], repeat=True)
