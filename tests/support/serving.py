"""A served cfchat whose upstream answers by a script, and its client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from client import Reply, request, send
from standin import Exchange, Script, StandIn, json_error, reply

import cfchat

WORDS = reply(
    b'data: {"response":"Hel"}\n\ndata: {"response":"lo"}\n\n'
    b'data: {"response":"","usage":{"prompt_tokens":51,"completion_tokens":9,"total_tokens":60}}\n\n'
    b"data: [DONE]\n\n"
)
BODY = b'[{"role": "user", "content": "Hello"}]'


def beside_the_list_of_models(script: Script) -> Script:
    """Return a script that also refuses the list of models, which is asked for at the start."""

    async def answer(exchange: Exchange) -> None:
        await (json_error(403, 10000, "Authentication error") if exchange.method == "GET" else script)(exchange)

    return answer


@asynccontextmanager
async def served(script: Script, **settings: Any) -> AsyncIterator[cfchat.Serving]:
    """Serve within the block, with an upstream that answers by a script."""
    async with StandIn([beside_the_list_of_models(script)], repeat=True, certificate=None) as standin:
        config = cfchat.load_config(
            account_id="0" * 32, api_token="t", base_url=standin.base_url, warm=0, port=0, environ={}, **settings
        )
        async with cfchat.serve(config) as serving:
            await standin.wait_requests()
            yield serving


async def post(port: int, body: bytes = BODY, path: str = "/api/chatbot", fields: str = "") -> Reply:
    """Post a body and return the reply."""
    return await send(port, request(body, path, fields))
