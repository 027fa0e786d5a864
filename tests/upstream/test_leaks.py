"""An origin that repeats the whole request, as proxies, firewalls and debugging gateways do: nothing of it gets out."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from functools import partial

import pytest
from command import cfchat as command
from house import ACCOUNT, house
from proxy_standin import ProxyStandIn
from standin import Exchange, Script, StandIn, wire_of

from cfchat.errors import UpstreamError
from cfchat.secret import Secret, redact
from cfchat.upstream.client import Settings
from cfchat.upstream.cloudflare.account import Gateway

TOKEN, GATEWAY_TOKEN, WORDS = "v1.0-Hq3_xYz-98aBcDeFgHiJk", "gw-Secret_Token-0987", "My PIN is four two zero"
SECRETS = (TOKEN, ACCOUNT, GATEWAY_TOKEN, WORDS, "PIN", "two zero")
SAID = b'data: {"response":"Hel"}\n\n'
TEXT, EVENTS, JSON = (("content-type", kind) for kind in ("text/html", "text/event-stream", "application/json"))


def told(exchange: Exchange) -> str:
    return exchange.head.decode("latin-1") + exchange.body.decode()


def envelope(text: str, code: object = 5006) -> bytes:
    chain = [{"code": 1, "message": text}]
    return json.dumps({"success": False, "errors": [{"code": code, "message": text, "error_chain": chain}]}).encode()


def page(status: int) -> Script:
    async def answer(exchange: Exchange) -> None:
        body = f"<html><pre>{told(exchange)}</pre></html>".encode()
        rays = [("cf-ray", TOKEN), ("cf-ai-req-id", ACCOUNT)]
        await exchange.send(wire_of(body, status, "length", [TEXT, *rays]))

    return answer


def error(status: int, where: str = "message") -> Script:
    async def answer(exchange: Exchange) -> None:
        text = told(exchange)
        bodies = {
            "message": envelope(text),
            "code": envelope("", text),
            "token as code": envelope("", TOKEN),
            "string": json.dumps({"error": text}).encode(),
            "shape": json.dumps({"debug": text}).encode(),
        }
        await exchange.send(wire_of(bodies[where], status, "length", [JSON]))

    return answer


def within(kind: str, before: bytes = SAID) -> Script:
    async def answer(exchange: Exchange) -> None:
        text = told(exchange)
        usage = {"total_tokens": 5, text: 3, "details": {text: 1}, text[:30]: {}}
        finish = {"choices": [{"delta": {}, "finish_reason": text}], "usage": usage}
        last = {
            "error event": b"event: error\ndata: %b\n\n" % text.replace("\r\n", "\ndata: ").encode(),
            "error": b"data: %b\n\n" % envelope(text),
            "finish": b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(finish).encode(),
        }
        await exchange.send(wire_of(before + last[kind], 200, "chunked", [EVENTS]))

    return answer


SCRIPTS: dict[str, Script] = {
    "400, page": page(400),
    "502, page": page(502),
    "401, message": error(401),
    "400, code": error(400, "code"),
    "400, token as code": error(400, "token as code"),
    "200, message": error(200),
    "200, string": error(200, "string"),
    "200, shape": error(200, "shape"),
    "error event": within("error event"),
    "error": within("error"),
    "error event first": within("error event", b""),
    "error first": within("error", b""),
    "finish reason": within("finish"),
    "finish reason without words": within("finish", b""),
}


def gateway(settings: Settings) -> Settings:
    return settings._replace(token=Secret(TOKEN), gateway=Gateway("mine", Secret(GATEWAY_TOKEN)))


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream", "application/json"])
@pytest.mark.parametrize("name", SCRIPTS)
async def test_nothing_of_the_request_is_in_the_log_or_in_the_reply(
    name: str, accept: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with StandIn([SCRIPTS[name]], repeat=True) as standin, house(standin, change=gateway) as cfchat:
        reply = await cfchat.post([{"role": "user", "content": WORDS}], fields=f"Accept: {accept}\r\n")
        sent = told(standin.requests[0])
        await cfchat.logged("POST /api/chatbot")
    assert all(secret in sent for secret in SECRETS)
    out = caplog.text + reply.raw.decode("latin-1") + repr(reply.fields)
    assert not [secret for secret in SECRETS if secret in out]


async def test_nor_is_what_the_list_of_models_says() -> None:
    async with StandIn([error(200, "shape"), page(403)]) as standin, house(standin, change=gateway) as cfchat:
        for _ in range(2):
            with pytest.raises(UpstreamError) as caught:
                await cfchat.upstream.catalogue()
            assert not [secret for secret in (TOKEN, ACCOUNT, GATEWAY_TOKEN) if secret in str(caught.value)]
            assert ACCOUNT in caught.value.origin_text


ODD = "\x1b[2J\x9b\u202e\r\nINFO forged"


@pytest.mark.parametrize("flags", [(), ("--json",)])
async def test_check_shows_an_excerpt_without_secrets(flags: tuple[str, ...]) -> None:
    async def answer(exchange: Exchange) -> None:
        basic = b64encode(f"x:{TOKEN}".encode()).decode()
        text = f"{ODD} It works! {TOKEN.upper()} {TOKEN[:12]} {GATEWAY_TOKEN} {ACCOUNT[4:28]} {basic}"
        await exchange.send(wire_of(text.encode(), 404, "length", [TEXT]))

    async with StandIn([answer]) as standin:
        run = partial(command, standin.base_url, CLOUDFLARE_API_TOKEN=TOKEN, CF_AIG_TOKEN=GATEWAY_TOKEN)
        done = await run("check", "--gateway", "mine", *flags)
    assert "It works!" in done.out and r"\x1b[2J" in done.out.replace("\\\\", "\\").replace("u001b", "x1b")
    parts = (TOKEN[:8], TOKEN[:8].upper(), GATEWAY_TOKEN[:8], ACCOUNT[4:12], "eDp2")
    assert not [part for part in parts if part in done.out]
    assert "*** *** *** *** ***" in done.out and "forged\n" not in done.out
    assert not set("\x1b\x9b\u202e\r") & set(done.out)


async def test_a_proxys_reason_phrase_is_left_out() -> None:
    refusal = b"HTTP/1.1 407 Denied for Basic dXNlcjpwYXNzd29yZA== \xc2\x9b\r\n\r\n"
    async with ProxyStandIn(refusal) as proxy:
        url = proxy.url.replace("://", "://user:password@")
        done = await command("https://localhost:9/client/v4", "check", HTTPS_PROXY=url)
        assert "Proxy-Authorization: Basic dXNlcjpwYXNzd29yZA==" in proxy.seen[0]
    assert " answered 407;" in done.line("connect").replace("\n", ";")
    assert "dXNl" not in done.out and "password" not in done.out.replace("USER:PASSWORD", "") and "\x9b" not in done.out


@pytest.mark.parametrize(
    ("text", "secrets", "shown"),
    [
        ("", ["secret-of-ours"], ""),
        ("nothing", [], "nothing"),
        ("a SECRET-OF-ours b", ["secret-of-ours"], "a *** b"),
        ("ecret-of-o", ["secret-of-ours"], "***"),
        ("secret-", ["secret-of-ours"], "secret-"),
        ("secret-of-ours" * 2, ["secret-of-ours"], "***"),
        ("short and sho", ["short"], "*** and sho"),
        ("the token t", ["t"], "the token t"),
        ("İsecret-of-oursİ", ["secret-of-ours"], "İ***İ"),
        ("x eyJhbGciOiJIUzI1NiIsInR5cCI6 y", [], "x *** y"),
        ("an-ordinary-word-of-length", [], "an-ordinary-word-of-length"),
    ],
)
def test_what_may_be_secret_is_replaced(text: str, secrets: list[str], shown: str) -> None:
    assert redact(text, secrets) == shown
