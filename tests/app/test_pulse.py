"""GET /api/pulse through the real socket: its pace, its fields, and who may ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network

import pytest
from client import Reply, get, parse, request, until
from house import HELLO, House, house
from standin import StandIn, reply

from cfchat.guard.addresses import Proxies
from cfchat.guard.cors import Origins
from cfchat.guard.guard import Guard, Settings
from cfchat.guard.keys import parse_keys
from cfchat.guard.limits import Rate
from cfchat.server.request import Limits

WORDS = reply(b'data: {"response":"Hello","usage":{"total_tokens":60,"completion_tokens":9}}\n\ndata: [DONE]\n\n')
KEY = "0123456789abcdef"


async def pulse(cfchat: House, query: str = "", fields: str = "", method: str = "GET", version: str = "1.1") -> Reply:
    head = f"{method} /api/pulse{query} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n{fields}\r\n"
    return parse(await cfchat.send(head.encode()))


def events(body: bytes) -> list[dict[str, object]]:
    blocks = body.decode().split("\n\n")[:-1]
    return [json.loads(block.removeprefix("data: ")) for block in blocks if not block.startswith(":")]


@asynccontextmanager
async def held(cfchat: House, count: int, address: str = "192.0.2.1") -> AsyncIterator[list[asyncio.StreamReader]]:
    """Have so many pulses run within the block."""
    opened = [await cfchat.connect() for _ in range(count)]
    try:
        for reader, writer in opened:
            head = f"GET /api/pulse?idle=60 HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\n\r\n"
            writer.write(head.encode())
            await reader.readuntil(b'"n":1')
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.transport.abort()


async def test_a_pulse_is_five_events_with_the_fields_of_a_chat(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cfchat.app.pulse.GAP", 0.02)  # tests/cli/check_url waits for a whole one
    guard = Guard(Settings(rate=Rate(100, 3600), daily_tokens=60, daily_tokens_each=60))
    peers = Proxies((ip_network("127.0.0.1"),))
    async with StandIn([WORDS]) as standin, house(standin, guard=guard, peers=peers) as cfchat:
        accept = "Accept: text/event-stream\r\nOrigin: https://a.example\r\n"
        body = json.dumps({"messages": HELLO, "max_tokens": 9}).encode()
        chat = parse(await cfchat.send(request(body, fields=accept)))
        assert (await cfchat.post()).status == 429, "the day's tokens are spent"
        modern, old = await asyncio.gather(
            pulse(cfchat, fields=f"{accept}X-Forwarded-For: 1.2.3.4\r\n"), pulse(cfchat, version="1.0")
        )
    assert (chat.status, modern.status, modern.whole) == (200, 200, True)
    own = ("date", "x-request-id", "x-model", "ratelimit")
    assert {name: value for name, value in modern.fields.items() if name not in own} == {
        name: value for name, value in chat.fields.items() if name not in own
    }
    assert {*chat.fields} - {*modern.fields} == {"x-model"}
    first, *others = events(modern.body)
    assert first == {"n": 1, "t": 0, "client": "1.2.3.4"}
    assert [event["n"] for event in others] == [2, 3, 4, 5]
    assert all(event["t"] >= 20 * number for number, event in enumerate(others, 1))  # type: ignore[operator]
    assert modern.raw.count(b"\r\ndata: ") == 5, "each event is a chunk of its own"
    assert old.fields["connection"] == "close" and events(old.raw)[-1]["n"] == 5
    assert len(standin.requests) == 1, "no model was asked"
    lines = [record for record in caplog.records if "GET /api/pulse 200" in record.getMessage()]
    assert [record.levelname for record in lines] == ["DEBUG", "DEBUG"]


@pytest.mark.parametrize(
    "query", ["", "0", "59", "91", "065", "6e1", "65.5", "-65", "%2065", "%D9%A6%D9%A5", "65&idle=65"]
)
async def test_an_idle_time_that_is_none(query: str) -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        answer = await pulse(cfchat, "?idle=" + query)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_option", "idle")


async def test_an_idle_pulse_has_heartbeats_and_ends_with_its_client() -> None:
    async with StandIn([]) as standin, house(standin, limits=Limits(heartbeat=0.02)) as cfchat:
        reader, writer = await cfchat.connect()
        writer.write(b"GET /api/pulse?idle=65&more=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        silent = await reader.readuntil(b": still there\n\n\r\n")
        more = await reader.readuntil(b": still there\n\n\r\n")
        assert b'"n":1' in silent and b"data:" not in more
        writer.close()
        await cfchat.logged("GET /api/pulse 499 ")


async def test_eight_pulses_at_once_two_of_a_client() -> None:
    peers = Proxies((ip_network("127.0.0.1"),))
    async with StandIn([]) as standin, house(standin, peers=peers) as cfchat:

        async def ask(address: str) -> Reply:
            return await pulse(cfchat, fields=f"X-Forwarded-For: {address}\r\n", method="HEAD")

        async with held(cfchat, 2, "192.0.2.1"):
            assert [(await ask(f"192.0.2.{number}")).status for number in (1, 2)] == [503, 200]
            async with held(cfchat, 2, "192.0.2.2"), held(cfchat, 2, "192.0.2.3"), held(cfchat, 2, "192.0.2.4"):
                refused = await ask("192.0.2.5")
                assert (refused.status, refused.fields["retry-after"]) == (503, "1")
        await until(lambda: not cfchat.server.connections)
        assert (await ask("192.0.2.1")).status == 200


async def test_a_pulse_does_not_outlast_its_server() -> None:
    async with StandIn([]) as standin, house(standin) as cfchat, held(cfchat, 1) as (reader,):
        await cfchat.server.drain(0.01)
        rest = await reader.read()
    assert b"event: error\n" in rest and rest.endswith(b"\r\n0\r\n\r\n")


async def test_keys_origins_and_rates_hold_for_a_pulse() -> None:
    settings = Settings(Origins(("https://a.example",)), parse_keys(f"laptop {KEY}"), Rate(1, 3600))
    async with StandIn([]) as standin, house(standin, guard=Guard(settings)) as cfchat:
        bearer = f"Authorization: Bearer {KEY}\r\n"
        assert (await pulse(cfchat)).error["code"] == "invalid_api_key"
        assert (await pulse(cfchat, fields=f"{bearer}Origin: https://b.example\r\n")).status == 403
        head = await pulse(cfchat, fields=bearer, method="HEAD")
        assert (head.status, head.raw, head.fields["content-type"]) == (200, b"", "text/event-stream")
        assert (await pulse(cfchat, fields=bearer)).error["code"] == "rate_limited"


async def test_a_pulse_takes_neither_a_post_nor_a_body() -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        answer = await cfchat.post(path="/api/pulse")
        assert (answer.status, answer.fields["allow"]) == (405, "GET, HEAD, OPTIONS")
        assert (await get(cfchat.port, "/api/pulse", "Content-Length: 1\r\nHost: x\r\n\r\nx")).status == 413
