"""The stand-in itself, against the standard library's client."""

from __future__ import annotations

import asyncio
import http.client
import ssl

import pytest
from standin import StandIn, json_error, partial, reply, silence

PATH = "/client/v4/accounts/0/ai/run/@cf/x"
EVENTS = b'data: {"response":"caf\xc3\xa9"}\n\ndata: [DONE]\n\n'


def connect(standin: StandIn) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=standin.ca_file)
    return http.client.HTTPSConnection("localhost", standin.port, context=context, timeout=10)


def post(client: http.client.HTTPSConnection, body: bytes) -> tuple[int, bytes]:
    client.request("POST", PATH, body, {"Authorization": "Bearer t"})
    answer = client.getresponse()
    return answer.status, answer.read()


async def test_replies_in_order_on_one_connection_in_each_framing() -> None:
    scripts = [
        json_error(429, 3040, "Capacity", [("cf-ray", "1")]),
        reply(EVENTS, cuts=range(500)),
        reply(EVENTS, framing="length"),
        reply(EVENTS, framing="close"),
    ]
    async with StandIn(scripts) as standin:
        client = connect(standin)
        answers = [await asyncio.to_thread(post, client, body) for body in (b"one", b"two", b"", b"four")]
        client.close()
    assert answers[0][0] == 429
    assert b'"code": 3040' in answers[0][1]
    assert answers[1:] == [(200, EVENTS)] * 3
    assert standin.connections == 1
    assert [request.body for request in standin.requests] == [b"one", b"two", b"", b"four"]
    first = standin.requests[0]
    assert (first.method, first.target, first.fields["authorization"]) == ("POST", PATH, "Bearer t")
    assert (first.server_name, first.head[:5], first.head[-4:]) == ("localhost", b"POST ", b"\r\n\r\n")


async def test_a_reply_can_end_too_early() -> None:
    async with StandIn([partial(EVENTS), partial(EVENTS, "close", "length")]) as standin:
        for _ in range(2):
            client = connect(standin)
            with pytest.raises(http.client.IncompleteRead):
                await asyncio.to_thread(post, client, b"")
            client.close()
    assert standin.connections == 2
    assert not standin.requests[0].closed_by_peer.is_set()


async def test_it_sees_the_peer_close_while_a_script_runs() -> None:
    async with StandIn([silence()]) as standin:
        client = connect(standin)
        await asyncio.to_thread(client.request, "POST", PATH, b"")
        await standin.wait_requests()
        assert not standin.requests[0].closed_by_peer.is_set()
        client.close()
        await standin.wait_closed_by_peer()
        assert standin.requests[0].closed_by_peer.is_set()


async def test_a_request_without_a_script_is_a_fault() -> None:
    with pytest.raises(AssertionError):
        async with StandIn([]) as standin:
            client = connect(standin)
            with pytest.raises(http.client.RemoteDisconnected):
                await asyncio.to_thread(post, client, b"")
            client.close()
