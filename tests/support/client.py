"""A client that sees bytes: what was sent back, and whether it was whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FROM_HERE = "Host: 127.0.0.1:8787\r\n"


@dataclass
class Reply:
    status: int
    fields: dict[str, str]
    raw: bytes  # everything behind the head
    whole: bool

    @property
    def body(self) -> bytes:
        return unchunk(self.raw) if "transfer-encoding" in self.fields else self.raw

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


async def send(port: int, data: bytes) -> Reply:
    """The reply to a request that is the last of its connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    received = await reader.read()
    writer.close()
    return parse(received)


async def get(port: int, path: str, fields: str = FROM_HERE) -> Reply:
    return await send(port, f"GET {path} HTTP/1.1\r\nConnection: close\r\n{fields}\r\n".encode())


async def scrape(port: int) -> dict[str, float]:
    """What /metrics tells, by name and labels; no family is told twice."""
    answer = await get(port, "/metrics")
    lines = answer.body.decode().splitlines()
    heads = [line for line in lines if line[0] == "#"]
    assert answer.status == 200 and len(heads) == len(set(heads))
    return {name: float(number) for name, _, number in (line.rpartition(" ") for line in lines if line[0] != "#")}


async def until(true: Callable[[], bool]) -> None:
    """Let the loop run until something holds that nobody announces."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0)


def unchunk(raw: bytes) -> bytes:
    """The data of the complete chunks in `raw`; written for tests, knows no extensions."""
    data = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        length = int(size, 16)
        data += raw[:length]
        raw = raw[length + 2 :]
    return data


def request(body: bytes, path: str = "/api/chatbot", fields: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
    return head.encode() + body


def parse(received: bytes) -> Reply:
    head, _, raw = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    chunked = fields.get("transfer-encoding") == "chunked"
    return Reply(int(lines[0].split()[1]), fields, raw, raw.endswith(b"0\r\n\r\n") if chunked else True)
