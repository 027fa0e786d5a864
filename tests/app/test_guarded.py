"""Who may ask, through the real socket: origins, keys, rates, proxies, the queue for a turn."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_network

import pytest
from client import parse, request, until
from files import no_more_files
from house import HELLO, House, house
from standin import Exchange, StandIn, reply, silence

from cfchat.app.routes import Settings as AppSettings
from cfchat.guard.addresses import Proxies
from cfchat.guard.cors import Origins
from cfchat.guard.guard import Guard, Settings
from cfchat.guard.keys import parse_keys
from cfchat.guard.limits import Rate
from cfchat.wire.fields import Fields

WORDS = reply(
    b'data: {"response":"Hello"}\n\ndata: {"response":"","usage":{"total_tokens":60,"completion_tokens":9}}\n\n'
    b"data: [DONE]\n\n"
)
KEY = "0123456789abcdef"
BODY = json.dumps(HELLO).encode()


def keys() -> Guard:
    return Guard(Settings(keys=parse_keys(f"laptop {KEY}")))


async def test_a_key_opens_and_its_label_is_in_the_log() -> None:
    async with StandIn([WORDS]) as standin, house(standin, guard=keys()) as cfchat:
        answer = await cfchat.post(fields=f"Authorization: Bearer {KEY}\r\n")
    assert answer.body == b"Hello"
    assert "key=laptop" in cfchat.log[-1] and KEY not in "\n".join(cfchat.log)
    assert standin.requests[0].fields["authorization"] != f"Bearer {KEY}"


@pytest.mark.parametrize("fields", ["", "Authorization: Bearer wrong-wrong-wrong\r\n"])
async def test_without_a_key_there_is_no_answer(fields: str) -> None:
    async with StandIn([]) as standin, house(standin, guard=keys()) as cfchat:
        answer = await cfchat.post(fields=fields)
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert (answer.error["type"], answer.fields["www-authenticate"]) == ("authentication_error", "Bearer")
    assert answer.fields["access-control-allow-origin"] == "*"  # or the page cannot read why


async def test_a_preflight_needs_no_key() -> None:
    ask = (
        b"OPTIONS /api/chatbot HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: https://a.example\r\n"
        b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n\r\n"
    )
    async with StandIn([]) as standin, house(standin, guard=keys()) as cfchat:
        answer = parse(await cfchat.send(ask))
    assert (answer.status, answer.fields["access-control-allow-headers"]) == (204, "authorization")


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [("DELETE", "GET, HEAD, OPTIONS, DELETE"), ("GET", "GET, HEAD, OPTIONS"), ("a b", "GET, HEAD, OPTIONS")],
)
async def test_a_page_may_ask_so_that_it_can_read_that_the_method_is_wrong(asked: str, allowed: str) -> None:
    ask = (
        "OPTIONS /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: https://a.example\r\n"
        f"Access-Control-Request-Method: {asked}\r\n\r\n"
    )
    async with StandIn([]) as standin, house(standin) as cfchat:
        answer = parse(await cfchat.send(ask.encode()))
    assert (answer.status, answer.fields["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert answer.fields["access-control-allow-methods"] == allowed


@pytest.mark.parametrize("asked", ["<script>", "a b", 'x"', "a,", "a;b", "\xe9"])
async def test_what_no_browser_asks_for_is_not_echoed(asked: str) -> None:
    ask = (
        "OPTIONS /api/chatbot HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: https://a.example\r\n"
        f"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: {asked}\r\n\r\n"
    )
    async with StandIn([]) as standin, house(standin) as cfchat:
        answer = parse(await cfchat.send(ask.encode("latin-1")))
    assert answer.status == 204 and "access-control-allow-headers" not in answer.fields


async def test_origins_that_are_named_and_others() -> None:
    guard = Guard(Settings(origins=Origins(("https://a.example",))))
    async with StandIn([WORDS, WORDS]) as standin, house(standin, guard=guard) as cfchat:
        answer = await cfchat.post(fields="Origin: https://a.example\r\n")
        assert (answer.body, answer.fields["access-control-allow-origin"]) == (b"Hello", "https://a.example")
        assert answer.fields["vary"] == "Origin"
        assert answer.fields["access-control-allow-credentials"] == "true"
        assert (await cfchat.post()).body == b"Hello"
        answer = await cfchat.post(fields="Origin: https://b.example\r\n")
        assert (answer.status, answer.error["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in answer.fields
    assert len(standin.requests) == 2


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8787", "http://127.0.0.1:8787", 200),
        ("127.0.0.1:8787", "https://127.0.0.1:8787", 403),
        ("evil.example:8787", "http://evil.example:8787", 403),
        ("Our.example:80", "http://our.example", 200),
    ],
)
async def test_the_own_page_and_one_of_a_name_that_leads_here(host: str, origin: str, status: int) -> None:
    guard = Guard(Settings(origins=Origins(("https://a.example",), ("our.example",))))
    ask = request(BODY, fields=f"Origin: {origin}\r\n").replace(b"Host: x\r\n", f"Host: {host}\r\n".encode())
    async with StandIn([WORDS]) as standin, house(standin, guard=guard) as cfchat:
        assert parse(await cfchat.send(ask)).status == status


@pytest.mark.parametrize(("fields", "status"), [("Expect: more\r\n", 417), ("X-Fault: ours\r\n", 500)])
async def test_a_page_can_read_the_servers_own_errors_too(fields: str, status: int) -> None:
    class Faulty(Guard):
        def identify(self, fields: Fields, secure: bool = False) -> str:
            raise ZeroDivisionError

    guard = Faulty(Settings(origins=Origins(("https://a.example",))))
    async with StandIn([]) as standin, house(standin, guard=guard) as cfchat:
        answer = await cfchat.post(fields=f"Origin: https://a.example\r\n{fields}")
    assert (answer.status, answer.fields["access-control-allow-origin"]) == (status, "https://a.example")
    assert answer.error["request_id"] == answer.fields["x-request-id"]


async def test_a_rate_is_told_and_kept() -> None:
    guard = Guard(Settings(rate=Rate(2, 3600)))
    async with StandIn([WORDS, WORDS]) as standin, house(standin, guard=guard) as cfchat:
        assert (await cfchat.post()).fields["ratelimit"] == '"requests";r=1;t=1800'
        assert (await cfchat.post()).fields["ratelimit-policy"] == '"requests";q=2;w=3600'
        answer = await cfchat.post()
    assert (answer.status, answer.error["code"]) == (429, "rate_limited")
    assert 1790 <= int(answer.fields["retry-after"]) <= 1800
    assert answer.fields["ratelimit"].startswith('"requests";r=0;')
    assert "RateLimit" in answer.fields["access-control-expose-headers"]
    assert len(standin.requests) == 2


async def test_behind_a_proxy_each_client_has_a_rate_of_its_own() -> None:
    guard = Guard(Settings(rate=Rate(1, 3600)))
    peers = Proxies((ip_network("127.0.0.0/8"),))
    async with StandIn([WORDS, WORDS]) as standin, house(standin, guard=guard, peers=peers) as cfchat:
        statuses = [
            (await cfchat.post(fields=f"X-Forwarded-For: {hops}\r\n")).status
            for hops in ("1.1.1.1", "2.2.2.2", "9.9.9.9, 1.1.1.1")
        ]
    assert statuses == [200, 200, 429]
    assert " 2.2.2.2 POST " in "\n".join(cfchat.log) and "127.0.0.1" not in cfchat.log[-1]


@pytest.mark.parametrize("forged", ["x", "for=9.9.9.9", "for=unknown"])
async def test_no_field_of_its_own_moves_a_client_to_its_proxys_rate(forged: str) -> None:
    guard, peers = Guard(Settings(rate=Rate(1, 3600))), Proxies((ip_network("127.0.0.0/8"),))
    named = "X-Forwarded-For: 1.1.1.1\r\n"
    async with StandIn([WORDS]) as standin, house(standin, guard=guard, peers=peers) as cfchat:
        assert (await cfchat.post(fields=named)).status == 200
        assert (await cfchat.post(fields=f"{named}Forwarded: {forged}\r\n")).status == 429
    assert " 1.1.1.1 POST " in cfchat.log[-1]


@pytest.mark.parametrize(
    ("mode", "system"), [("merge", "You are a friendly assistant\n\nBe rude"), ("drop", "You are a friendly assistant")]
)
async def test_system_messages_of_a_client(mode: str, system: str) -> None:
    app = AppSettings(client_system=mode)
    async with StandIn([WORDS]) as standin, house(standin, app=app) as cfchat:
        await cfchat.post([{"role": "system", "content": "Be rude"}, *HELLO])
    assert json.loads(standin.requests[0].body)["messages"] == [{"role": "system", "content": system}, *HELLO]


async def test_system_messages_that_are_rejected() -> None:
    async with StandIn([]) as standin, house(standin, app=AppSettings(client_system="reject")) as cfchat:
        said = [*HELLO, {"role": "developer", "content": "Be rude"}]
        answers = [
            await cfchat.post(said),
            await cfchat.post({"input": said}, "/v1/responses"),
            await cfchat.post({"input": "Hello", "instructions": "Be rude"}, "/v1/responses"),
        ]
    places = ["messages[1].role", "input[1].role", "instructions"]
    assert [(answer.status, answer.error["param"]) for answer in answers] == [(400, place) for place in places]


# --- the queue for a turn ------------------------------------------------------------------------


async def first_of_two(cfchat: House, standin: StandIn) -> asyncio.StreamWriter:
    _, writer = await cfchat.connect()
    writer.write(request(BODY))
    await standin.wait_requests()
    return writer


async def test_who_waits_gets_the_next_turn() -> None:
    go = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await go.wait()
        await WORDS(exchange)

    app = AppSettings(max_streams=1, max_queue=1)
    async with StandIn([held, WORDS]) as standin, house(standin, app=app) as cfchat:
        writer = await first_of_two(cfchat, standin)
        second = asyncio.create_task(cfchat.post())
        await until_waiting(cfchat)
        assert (await cfchat.post()).status == 503  # the queue is full
        go.set()
        assert (await second).body == b"Hello"
        writer.close()


async def test_nobody_waits_for_ever() -> None:
    app = AppSettings(max_streams=1, max_queue=1, queue_timeout=0.1)
    async with StandIn([silence()]) as standin, house(standin, app=app) as cfchat:
        writer = await first_of_two(cfchat, standin)
        answer = await cfchat.post()
        assert (answer.status, answer.error["code"], answer.fields["retry-after"]) == (503, "overloaded", "1")
        writer.close()


async def test_who_leaves_the_queue_leaves_its_place() -> None:
    app = AppSettings(max_streams=1, max_queue=1, queue_timeout=60)
    async with StandIn([silence(), WORDS]) as standin, house(standin, app=app) as cfchat:
        writer = await first_of_two(cfchat, standin)
        _, waiting = await cfchat.connect()
        waiting.write(request(BODY))
        await until_waiting(cfchat)
        waiting.transport.abort()
        await cfchat.logged(" 499 ")
        third = asyncio.create_task(cfchat.post())
        await until_waiting(cfchat)
        writer.transport.abort()
        assert (await third).body == b"Hello"


async def test_one_address_leaves_turns_and_places_to_others() -> None:
    app, peers = AppSettings(max_streams=2, max_streams_each=1, max_queue=2), Proxies((ip_network("127.0.0.1"),))
    greedy, honest = ("X-Forwarded-For: 1.1.1.1\r\n", "X-Forwarded-For: 2.2.2.2\r\n")
    async with StandIn([silence(), WORDS]) as standin, house(standin, app=app, peers=peers) as cfchat:
        writers = [(await cfchat.connect())[1] for _ in range(2)]
        for writer in writers:
            writer.write(request(BODY, fields=greedy))
        await until(lambda: cfchat.app.streams == (1, 1))
        answer = await cfchat.post(fields=greedy)
        assert (answer.status, answer.error["code"]) == (503, "overloaded")
        assert (await cfchat.post(fields=honest)).body == b"Hello"
        for writer in writers:
            writer.close()


async def test_a_reply_that_no_file_is_left_for_is_503() -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        reader, writer = await cfchat.connect()
        await until(lambda: cfchat.server.connections == 1)
        with no_more_files():
            writer.write(request(BODY))
            answer = parse(await reader.read())
        writer.close()
    assert (answer.status, answer.error["code"], answer.fields["retry-after"]) == (503, "overloaded", "8")
    assert not standin.connections


async def until_waiting(cfchat: House) -> None:
    await until(lambda: cfchat.app.streams[1] == 1)
