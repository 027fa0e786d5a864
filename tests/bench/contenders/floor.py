"""The floors: asyncio streams, no checks at all. `floor.py parse` reads each event, `floor.py bytes` none."""

import asyncio
import json
import os
import ssl
import sys
from urllib.parse import urlsplit

URL = urlsplit(os.environ["UPSTREAM"])
CONTEXT = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PARSE = sys.argv[1:] != ["bytes"]
idle = []


async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            messages = json.loads(await reader.readexactly(length))
            await relay(messages, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def relay(messages, writer):
    up = idle.pop() if idle else await asyncio.open_connection(URL.hostname, URL.port, ssl=CONTEXT)
    body = json.dumps({"messages": messages, "stream": True}).encode()
    head = f"POST {URL.path} HTTP/1.1\r\nHost: {URL.netloc}\r\nContent-Length: {len(body)}\r\n\r\n"
    up[1].write(head.encode() + body)
    await up[0].readuntil(b"\r\n\r\n")
    writer.write(HEAD)
    await (parse if PARSE else forward)(up[0], writer)
    idle.append(up)


async def parse(up, writer):
    rest, done = b"", False
    while not done or not rest.endswith(b"0\r\n\r\n"):
        rest += await up.read(65536)
        *events, rest = rest.split(b"\n\n")
        texts = []
        for event in events:
            data = event[event.find(b"data: ") + 6 :]
            if data == b"[DONE]":
                done = True
                continue
            texts.append(text_of(json.loads(data)))
        text = "".join(texts).encode()
        if text:
            writer.write(b"%x\r\n%b\r\n" % (len(text), text))
            await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def text_of(event):
    """Return the words of an event of either dialect; the last ones have none."""
    if event.get("choices"):
        return event["choices"][0]["delta"].get("content") or ""
    return event.get("response") or ""


async def forward(up, writer):
    tail = b""
    while not tail.endswith(b"0\r\n\r\n"):
        data = await up.read(65536)
        writer.write(data)
        await writer.drain()
        tail = (tail + data)[-5:]


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


asyncio.run(main())
