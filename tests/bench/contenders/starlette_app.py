"""Starlette + uvicorn + httpx as one writes it: a pooled client, its line iterator, a StreamingResponse."""

import json
import os
import ssl
from contextlib import asynccontextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

URL = os.environ["UPSTREAM"]


@asynccontextmanager
async def lifespan(app):
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(verify=context, limits=limits, timeout=60, trust_env=False) as client:
        app.state.client = client
        yield


def text_of(event):
    """Return the words of an event of either dialect; the last ones have none."""
    if event.get("choices"):
        return event["choices"][0]["delta"].get("content") or ""
    return event.get("response") or ""


async def chatbot(request):
    client = request.app.state.client
    body = {"messages": await request.json(), "stream": True}
    upstream = await client.send(client.build_request("POST", URL, json=body), stream=True)
    upstream.raise_for_status()

    async def words():
        try:
            async for line in upstream.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                if text := text_of(json.loads(line[6:])):
                    yield text
        finally:
            await upstream.aclose()

    return StreamingResponse(words(), media_type="text/event-stream")


app = Starlette(routes=[Route("/api/chatbot", chatbot, methods=["POST"])], lifespan=lifespan)


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}", flush=True)


Server(uvicorn.Config(app, "127.0.0.1", 0, access_log=False, log_level="warning")).run()
