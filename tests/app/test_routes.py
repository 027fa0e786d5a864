"""The main job end to end: real sockets, real TLS, bytes in and bytes out."""

from __future__ import annotations

import asyncio
import json
import re
import tracemalloc
from functools import partial as bind
from pathlib import Path
from typing import Literal

import pytest
from client import parse, request, unchunk
from house import ACCOUNT, HELLO, TOKEN, House, house, quicker
from places import STREAMS
from standin import Exchange, Framing, StandIn, json_error, partial, raw, reply, silence

from cfchat.app.routes import Settings as AppSettings
from cfchat.upstream.client import Settings
from cfchat.upstream.cloudflare.models import DEFAULT_MODEL

WORDS = b'data: {"response":"Hel"}\n\ndata: {"response":"lo"}\n\ndata: [DONE]\n\n'
HALF = b'data: {"response":"Hel"}\n\n'


async def test_one_post_streams_the_models_words() -> None:
    async with StandIn([reply(WORDS)]) as standin, house(standin) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.body, answer.whole) == (200, b"Hello", True)
    assert answer.fields["content-type"] == "text/event-stream"
    assert answer.fields["cache-control"] == "no-cache, no-transform"
    assert answer.fields["access-control-allow-origin"] == "*"
    assert answer.fields["transfer-encoding"] == "chunked"
    assert re.fullmatch("[0-9a-f]{16}", answer.fields["x-request-id"])


async def test_the_request_that_cloudflare_gets() -> None:
    async with StandIn([reply(WORDS)]) as standin, house(standin) as cfchat:
        await cfchat.post()
    (seen,) = standin.requests
    assert seen.method == "POST"
    assert seen.target == f"/client/v4/accounts/{ACCOUNT}/ai/run/@cf/google/gemma-4-26b-a4b-it"
    assert seen.fields["authorization"] == f"Bearer {TOKEN}"
    assert seen.fields["accept-encoding"] == "identity"
    assert (seen.server_name, seen.alpn) == ("localhost", "http/1.1")
    assert re.fullmatch("[0-9a-f]{32}", seen.fields["x-session-affinity"])
    assert json.loads(seen.body) == {
        "messages": [{"role": "system", "content": "You are a friendly assistant"}, *HELLO],
        "stream": True,
        "max_tokens": 2048,
        "chat_template_kwargs": {"enable_thinking": False},
    }


async def test_text_leaves_before_the_reply_ends() -> None:
    """The rest of the reply is not sent before the client has the first word."""
    arrived = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + HALF)
        await arrived.wait()
        await exchange.send(b'data: {"response":"lo"}\n\ndata: [DONE]\n\n')
        exchange.close()

    async with StandIn([script]) as standin, house(standin) as cfchat:
        reader, writer = await cfchat.connect()
        writer.write(request(json.dumps(HELLO).encode()))
        assert (await reader.readuntil(b"Hel\r\n")).endswith(b"\r\n\r\n3\r\nHel\r\n")
        arrived.set()
        assert await reader.read() == b"2\r\nlo\r\n0\r\n\r\n"
        writer.close()


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_every_framing_byte_by_byte(framing: Framing) -> None:
    events = (STREAMS / "emoji_split_over_events.sse").read_bytes()
    script = reply(events, framing=framing, cuts=range(1, len(events)))
    async with StandIn([script]) as standin, house(standin) as cfchat:
        answer = await cfchat.post()
    assert (answer.body.decode(), answer.whole) == ("ok \U0001f600 hi \U0001f600 bye", True)


@pytest.mark.parametrize("path", sorted(STREAMS.glob("*.sse")), ids=lambda path: path.stem)
async def test_every_recorded_stream(path: Path) -> None:
    expected = json.loads(path.with_suffix(".json").read_text())
    content_type = expected.get("content_type", "text/event-stream")
    script = reply(path.read_bytes(), fields=[("Content-Type", content_type)])
    model = expected.get("model", DEFAULT_MODEL)
    fields = {model: {"response_format": {"type": "json_object"}} if "json_mode" in expected else {}}
    change = bind(Settings._replace, models=(model,), fields=fields)
    async with StandIn([script], repeat=True) as standin, house(standin, change=change) as cfchat:
        answer = await cfchat.post()
    broken = expected["finish"] in ("interrupted", "error")
    if expected["text"]:
        assert answer.status == 200
        assert answer.body.decode() == expected["text"].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert answer.whole is not broken
    else:
        assert answer.status == 502
        assert answer.error["type"] == "upstream_error"


# --- tries -------------------------------------------------------------------------------------


async def test_three_tries_then_words() -> None:
    busy = json_error(500, 3043, "Internal server error")
    async with StandIn([busy, busy, reply(WORDS)]) as standin, house(standin) as cfchat:
        answer = await cfchat.post()
        assert (answer.status, answer.body) == (200, b"Hello")
        assert len(standin.requests) == 3
    log = "\n".join(cfchat.log)
    assert "retrying 2/3" in log and "retrying 3/3" in log and "3043" in log
    assert "tries=3" in cfchat.log[-1]


async def test_the_last_error_is_told() -> None:
    scripts = [json_error(500, 3043, "x"), json_error(500, 3043, "x"), json_error(429, 3040, "Capacity exceeded")]
    async with StandIn(scripts) as standin, house(standin) as cfchat:
        answer = await cfchat.post()
    assert answer.status == 503
    assert answer.error["code"] == "upstream_overloaded"
    assert answer.error["request_id"] == answer.fields["x-request-id"]
    assert answer.fields["x-should-retry"] == "false"
    assert answer.fields["access-control-allow-origin"] == "*"
    assert len(standin.requests) == 3


async def test_what_cannot_pass_is_not_tried_again() -> None:
    async with StandIn([json_error(401, 10000, "Authentication error")]) as standin, house(standin) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.error["code"]) == (502, "upstream_auth")
    assert len(standin.requests) == 1
    assert "10000" not in answer.raw.decode() and any("10000" in line for line in cfchat.log)


async def test_upstream_that_dies_before_words_is_tried_again() -> None:
    async with StandIn([partial(b"", then="abort"), reply(WORDS)]) as standin, house(standin) as cfchat:
        assert (await cfchat.post()).body == b"Hello"
    assert len(standin.requests) == 2


@pytest.mark.parametrize("certificate", ["wrong_host", "expired"])
async def test_wrong_certificate_gets_no_token(certificate: str) -> None:
    async with StandIn([reply(WORDS)], certificate=certificate) as standin, house(standin) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.error["code"]) == (502, "upstream_connect")
    assert standin.requests == []


async def test_redirect_is_not_followed() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/\r\nContent-Length: 0\r\n\r\n")

    async with StandIn([script]) as standin, house(standin) as cfchat:
        assert (await cfchat.post()).status == 502
    assert len(standin.requests) == 1


async def test_first_token_deadline_is_504() -> None:
    async with StandIn([silence()], repeat=True) as standin, house(standin, change=quicker(first_delta=0.05)) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")


async def test_idle_deadline_cuts() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + HALF)
        await exchange.closed_by_peer.wait()

    async with StandIn([script]) as standin, house(standin, change=quicker(between_deltas=0.05)) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.body, answer.whole) == (200, b"Hel", False)


# --- who goes away -----------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["abort", "close"])
async def test_upstream_gone_in_mid_reply_cuts_the_body(then: Literal["abort", "close"]) -> None:
    async with StandIn([partial(HALF, then=then)]) as standin, house(standin) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.body, answer.whole) == (200, b"Hel", False)
    assert "interrupted" in cfchat.log[-1]


async def test_client_gone_before_the_first_token_closes_upstream() -> None:
    async with StandIn([silence()]) as standin, house(standin) as cfchat:
        _, writer = await cfchat.connect()
        writer.write(request(json.dumps(HELLO).encode()))
        await standin.wait_requests()
        writer.close()
        await standin.wait_closed_by_peer()
        await cfchat.logged(" 499 ")
    assert len(standin.requests) == 1


async def test_client_gone_in_mid_reply_closes_upstream() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + HALF)
        await exchange.closed_by_peer.wait()

    async with StandIn([script]) as standin, house(standin) as cfchat:
        reader, writer = await cfchat.connect()
        writer.write(request(json.dumps(HELLO).encode()))
        await reader.readuntil(b"Hel")
        writer.transport.abort()
        await standin.wait_closed_by_peer()
        await cfchat.logged(" 499 ")


# --- the pool ----------------------------------------------------------------------------------


async def test_one_connection_serves_many_replies() -> None:
    async with StandIn([reply(WORDS)], repeat=True) as standin, house(standin) as cfchat:
        for _ in range(5):
            assert (await cfchat.post()).body == b"Hello"
        assert standin.connections == 1


async def test_connection_that_died_idle_is_replaced_without_a_try() -> None:
    async def last(exchange: Exchange) -> None:
        await reply(WORDS)(exchange)
        exchange.close()

    async with StandIn([last, reply(WORDS)]) as standin, house(standin) as cfchat:
        await cfchat.post()
        assert (await cfchat.post()).body == b"Hello"
        assert standin.connections == 2
    assert "tries=1" in cfchat.log[-1]


async def test_second_reply_to_one_request_is_never_the_next() -> None:
    async def twice(exchange: Exchange) -> None:
        await reply(WORDS)(exchange)
        await reply(b'data: {"response":"not yours"}\n\ndata: [DONE]\n\n')(exchange)

    async with StandIn([twice, reply(WORDS)]) as standin, house(standin) as cfchat:
        await cfchat.post()
        assert (await cfchat.post()).body == b"Hello"


# --- what a client can do wrongly ---------------------------------------------------------------


HI = b'{"messages":[{"role":"user","content":"Hi"}],'


@pytest.mark.parametrize(
    ("rest", "param"),
    [
        (b'"tools":[{"type":"function","function":{"name":"f","parameters":{"maximum":1e999}}}]}',
         "tools[0].function.parameters.maximum"),
        (b'"tools":[{"type":"function","function":{"name":"f"}}],'
         b'"tool_choice":{"type":"function","function":{"name":"f"},"a b":[-1E+400]}}', "tool_choice.*[0]"),
        (b'"response_format":{"type":"json_object","json_schema":1e999}}', "response_format.json_schema"),
        (b'"temperature":1e999}', "temperature"),
        (b'"max_tokens":-1e999}', "max_tokens"),
    ],
)  # fmt: skip
async def test_a_number_that_json_cannot_write_again_is_400(rest: bytes, param: str) -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        answer = await cfchat.post(HI + rest, "/v1/chat/completions")
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_option", param)


async def test_what_utf_8_cannot_hold_is_replaced_wherever_it_is_passed_on() -> None:
    call = rb'{"id":"\ud800","type":"function","function":{"name":"\ud801","arguments":"\ud802"}}'
    body = (
        rb'{"messages":[{"role":"user","content":"\ud803"},{"role":"assistant","tool_calls":[%b]},'
        rb'{"role":"tool","tool_call_id":"\ud804","content":"\ud805"}],"stop":["\ud806"],'
        rb'"tools":[{"type":"function","function":{"name":"\ud807","parameters":{"\ud808":"\ud809"}}}]}' % call
    )
    async with StandIn([reply(WORDS)]) as standin, house(standin) as cfchat:
        assert (await cfchat.post(body, "/v1/chat/completions")).status == 200
    assert standin.requests[0].body.decode().count("\ufffd") == 10


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{oops", "invalid_json", None),
        (b"[]", "invalid_messages", "messages"),
        (b'[{"role":"user","content":"a"},{"role":"king","content":"b"}]', "invalid_messages", "messages[1].role"),
        (b'[{"role":"user","content":7}]', "invalid_messages", "messages[0].content"),
    ],
)
async def test_broken_body_is_400_naming_the_place(body: bytes, code: str, param: str | None) -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        answer = await cfchat.post(body)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, code, param)
    assert answer.fields["content-type"] == "application/json"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
async def test_other_method_is_405_with_allow(method: str) -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        received = await cfchat.send(f"{method} /api/chatbot HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = parse(received)
    assert (answer.status, answer.fields["allow"]) == (405, "POST, OPTIONS")
    assert (answer.raw == b"") is (method == "HEAD")


@pytest.mark.parametrize(
    ("line", "status"), [("BREW /api/chatbot", 501), ("CONNECT x:1", 501), ("OPTIONS *", 204), ("OPTIONS /none", 404)]
)
async def test_methods_of_the_server_itself(line: str, status: int) -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        answer = parse(await cfchat.send(f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()))
    assert answer.status == status


@pytest.mark.parametrize("after", [b"", b"x" * 2_000_000])
async def test_error_replies_that_hurt(after: bytes) -> None:
    """HTML from the edge, and a body that is larger than anybody should read."""
    script = reply(b"<html>502</html>" + after, 502, framing="length", fields=[("Content-Type", "text/html")])
    async with StandIn([script], repeat=True) as standin, house(standin) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.error["type"]) == (502, "upstream_error")
    assert b"html" not in answer.body


async def test_nonsense_from_upstream_is_502() -> None:
    async with StandIn([raw(b"SMTP ready\r\n\r\n")], repeat=True) as standin, house(standin) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.error["code"]) == (502, "upstream_protocol")


@pytest.mark.parametrize(("first", "status"), [(b"", 502), (HALF, 200)])
async def test_event_over_its_limit(first: bytes, status: int) -> None:
    script = reply(first + b'data: {"response":"' + b"x" * (2 << 20) + b'"}\n\n')
    async with StandIn([script], repeat=True) as standin, house(standin) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.whole) == (status, status == 502)
    assert "Traceback" not in "\n".join(cfchat.log)


async def test_reset_in_mid_reply_cuts() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + HALF)
        go.set()
        await more.wait()
        exchange.reset()

    go, more = asyncio.Event(), asyncio.Event()
    async with StandIn([script]) as standin, house(standin) as cfchat:
        reader, writer = await cfchat.connect()
        writer.write(request(json.dumps(HELLO).encode()))
        await reader.readuntil(b"Hel\r\n")
        more.set()
        assert await reader.read() == b""
        writer.close()


async def test_upstream_that_stays_after_done_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cfchat.upstream.answer.END_AFTER_DONE", 0.05)

    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + WORDS)
        await exchange.closed_by_peer.wait()

    async with StandIn([script]) as standin, house(standin) as cfchat:
        answer = await cfchat.post()
    assert (answer.body, answer.whole) == (b"Hello", True)


async def test_nobody_there_is_502() -> None:
    async with StandIn([]) as standin:
        await standin.stop()
        async with house(standin) as cfchat:
            answer = await cfchat.post()
    assert (answer.status, answer.error["code"]) == (502, "upstream_connect")
    assert "retrying 3/3" in "\n".join(cfchat.log)


async def test_other_path_is_404() -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        assert (await cfchat.post(path="/api/chatbot/")).error["code"] == "not_found"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/api/chatbot/", "/api/chatbot is meant"),
        ("//api//chatbot", "/api/chatbot is meant"),
        ("/v1//chat/completions", "/v1/chat/completions is meant"),
        ("/v1/v1/chat/completions", "/v1/chat/completions is meant"),
        ("/chat/completions", "/v1/chat/completions is meant"),
        ("/v1/v1/models/", "/v1/models is meant"),
        ("/openai/v1/models", "/v1/models is meant"),
        ("/models", "/v1/models is meant"),
        ("/api/chatbot/v1/chat/completions", "/v1/chat/completions is meant"),
        ("/v1/v1/models/x", "POST /v1/chat/completions and GET /v1/models"),
        ("/v1x", "The chat is at POST /api/chatbot"),
        ("/v1/embeddings", "POST /v1/chat/completions and GET /v1/models"),
        ("/v1", "POST /v1/chat/completions and GET /v1/models"),
        ("/v2", "The chat is at POST /api/chatbot"),
        ("/", "The chat is at POST /api/chatbot"),
    ],
)
async def test_a_404_names_the_path_that_was_meant(path: str, meant: str) -> None:
    async with StandIn([]) as standin, house(standin, page=False) as cfchat:
        answer = await cfchat.post(path=path)
    assert answer.status == 404 and meant in answer.error["message"]


async def test_a_preflight_of_a_path_that_is_not_there() -> None:
    ask = b"OPTIONS /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: https://a.example\r\n"
    async with StandIn([]) as standin, house(standin) as cfchat:
        allowed = parse(await cfchat.send(ask + b"Access-Control-Request-Method: POST\r\n\r\n"))
        bare = parse(await cfchat.send(ask + b"\r\n"))
    assert (allowed.status, allowed.fields["access-control-allow-methods"]) == (204, "GET, HEAD, POST, OPTIONS")
    assert bare.status == 404


async def test_preflight() -> None:
    ask = (
        b"OPTIONS /api/chatbot HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: https://a.example\r\n"
        b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, x-a\r\n\r\n"
    )
    async with StandIn([]) as standin, house(standin) as cfchat:
        answer = parse(await cfchat.send(ask))
    assert (answer.status, answer.raw) == (204, b"")
    assert answer.fields["access-control-allow-methods"] == "POST, OPTIONS"
    assert answer.fields["access-control-allow-headers"] == "authorization, x-a"
    assert answer.fields["access-control-allow-origin"] == "*"


async def test_long_fields_of_requests_are_not_kept() -> None:
    """What a reply repeats, and what is chosen by a field, is cached: of short fields only."""
    async with StandIn([]) as standin, house(standin) as cfchat:
        reader, writer = await cfchat.connect()

        async def ask(number: int) -> None:
            names = b"x" * 25_000 + b"%d" % number
            writer.write(
                b"OPTIONS /api/chatbot HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\n"
                b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: %b\r\n\r\n"
                b"POST /api/chatbot HTTP/1.1\r\nHost: x\r\nAccept: text/plain, x/%b\r\nContent-Length: 1\r\n\r\n1"
                % (names, names)
            )
            for _ in range(2):
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(parse(head).fields.get("content-length", "0")))

        await ask(0)
        tracemalloc.start()
        try:
            for number in range(1, 20):
                await ask(number)
            assert tracemalloc.get_traced_memory()[0] < 250_000
        finally:
            tracemalloc.stop()
        writer.close()


FORM = "Content-Type: application/x-www-form-urlencoded\r\n"


@pytest.mark.parametrize(("body", "fields"), [(b"messages=x", FORM), (b"[]", "Content-Encoding: gzip\r\n")])
async def test_forms_and_compression_are_415(body: bytes, fields: str) -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        assert (await cfchat.post(body, fields=fields)).status == 415


async def test_json_with_the_label_of_a_form_is_answered() -> None:
    async with StandIn([reply(WORDS)]) as standin, house(standin) as cfchat:
        assert (await cfchat.post(b" " + json.dumps(HELLO).encode(), fields=FORM)).body == b"Hello"


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("path", ["/api/chatbot", "/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("role", ["system", "assistant"])
async def test_a_conversation_without_a_user_is_answered(path: str, role: str) -> None:
    async with StandIn([reply(WORDS)]) as standin, house(standin) as cfchat:
        answer = await cfchat.post({"messages": [{"role": role, "content": "What is a duck?"}]}, path)
    sent = [(message["role"], message["content"]) for message in json.loads(standin.requests[0].body)["messages"]]
    assert answer.status == 200 and ("user", "Go on.") in sent
    assert any(sender == role and text.endswith("What is a duck?") for sender, text in sent)


@pytest.mark.parametrize("path", ["/api/chatbot", "/api/chat", "/v1/chat/completions"])
async def test_the_result_of_a_tool_is_answered_without_a_user(path: str) -> None:
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    async with StandIn([reply(WORDS)]) as standin, house(standin) as cfchat:
        assert (await cfchat.post({"messages": messages}, path)).status == 200
    sent = json.loads(standin.requests[0].body)["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool"]
    assert (sent[2]["tool_calls"], sent[3]["tool_call_id"]) == ([CALL], "c1")


async def test_messages_are_in_turns_for_a_model_whose_template_needs_it() -> None:
    said = [("assistant", "Hello, how can I help?"), ("user", "One."), ("user", "Two.")]
    messages = [{"role": role, "content": text} for role, text in said]
    mistral = "@cf/mistralai/mistral-small-3.1-24b-instruct"
    busy = json_error(429, 3040, "Capacity exceeded")
    change = lambda settings: settings._replace(models=(mistral, DEFAULT_MODEL))  # noqa: E731
    async with StandIn([busy, reply(WORDS)]) as standin, house(standin, change=change) as cfchat:
        assert (await cfchat.post(messages)).status == 200
    sent = [
        [(message["role"], message["content"]) for message in json.loads(asked.body)["messages"][1:]]
        for asked in standin.requests
    ]
    assert sent[0] == [("user", "Go on."), said[0], ("user", "One.\n\nTwo.")]
    assert sent[1] == said  # the fallback takes them as they came


async def test_no_body_is_411() -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        received = await cfchat.send(b"POST /api/chatbot HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert parse(received).status == 411


async def test_too_many_streams_is_503() -> None:
    async with StandIn([silence()]) as standin, house(standin, app=AppSettings(max_streams=1, max_queue=0)) as cfchat:
        _, writer = await cfchat.connect()
        writer.write(request(json.dumps(HELLO).encode()))
        await standin.wait_requests()
        answer = await cfchat.post()
        writer.close()
    assert (answer.status, answer.fields["retry-after"]) == (503, "1")


async def test_http_1_0_is_close_delimited() -> None:
    body = json.dumps(HELLO).encode()
    ask = b"POST /api/chatbot HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with StandIn([reply(WORDS)]) as standin, house(standin) as cfchat:
        answer = parse(await cfchat.send(ask))
    assert (answer.status, answer.raw) == (200, b"Hello")
    assert "transfer-encoding" not in answer.fields


async def test_nothing_said_is_in_a_log() -> None:
    events = b'data: {"response":"reply-text"}\n\ndata: not json\n\ndata: nor this\n\ndata: [DONE]\n\n'
    async with StandIn([reply(events)]) as standin, house(standin) as cfchat:
        await cfchat.post([{"role": "user", "content": "message-text"}])
    log = "\n".join(cfchat.log)
    assert "reply-text" not in log and "message-text" not in log and "not json" not in log
    assert log.count("passed over") == 1


async def test_curl_sees_a_cut_as_exit_18_and_words_as_0() -> None:
    async with StandIn([reply(WORDS), partial(HALF, then="abort")]) as standin, house(standin) as cfchat:
        assert await curl(cfchat) == (0, b"Hello")
        assert await curl(cfchat) == (18, b"Hel")


async def curl(cfchat: House) -> tuple[int, bytes]:
    url = f"http://127.0.0.1:{cfchat.port}/api/chatbot"
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sN", "--noproxy", "*", url, "-d", json.dumps(HELLO), "-H", "Content-Type: application/json"),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out


def test_unchunk_is_what_it_says() -> None:
    assert unchunk(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n") == b"abcde"
