"""aiohttp with uvloop at its best: a pooled client, whole reads instead of lines, one write a read."""

import asyncio
import json
import os
import ssl

import aiohttp
import uvloop
from aiohttp import web

URL = os.environ["UPSTREAM"]


async def client_of(app):
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    connector = aiohttp.TCPConnector(limit=0, ssl=context)
    async with aiohttp.ClientSession(connector=connector) as client:
        app["client"] = client
        yield


def text_of(event):
    """Return the words of an event of either dialect; the last ones have none."""
    if event.get("choices"):
        return event["choices"][0]["delta"].get("content") or ""
    return event.get("response") or ""


async def chatbot(request):
    body = {"messages": await request.json(), "stream": True}
    reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    async with request.app["client"].post(URL, json=body) as upstream:
        upstream.raise_for_status()
        await reply.prepare(request)
        rest = b""
        async for data in upstream.content.iter_any():
            *events, rest = (rest + data).split(b"\n\n")
            texts = []
            for event in events:
                if event == b"data: [DONE]" or not event.startswith(b"data: "):
                    continue
                texts.append(text_of(json.loads(event[6:])))
            text = "".join(texts)
            if text:
                await reply.write(text.encode())
    await reply.write_eof()
    return reply


async def main():
    app = web.Application()
    app.router.add_post("/api/chatbot", chatbot)
    app.cleanup_ctx.append(client_of)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


uvloop.run(main())
