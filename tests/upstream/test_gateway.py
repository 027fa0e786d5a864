"""AI Gateway: the bytes that it gets, its routes, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from account import OTHER, cloudflare, listed, listing
from command import cfchat as command
from house import ACCOUNT, HELLO, TOKEN, house
from standin import Script, StandIn, json_error, reply

from cfchat.app.hooks import Hooks
from cfchat.app.routes import Settings as AppSettings
from cfchat.conversation.model import Conversation
from cfchat.guard.guard import Guard
from cfchat.guard.guard import Settings as GuardSettings
from cfchat.guard.keys import parse_keys
from cfchat.secret import Secret
from cfchat.server.request import Request
from cfchat.upstream.client import Settings
from cfchat.upstream.cloudflare.account import Gateway
from cfchat.upstream.cloudflare.models import DEFAULT_MODEL, FALLBACK_MODELS

FIRST = DEFAULT_MODEL
WORDS = reply(b'data: {"response":"Hello"}\n\ndata: [DONE]\n\n')
CHUNK = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":"stop"}]}\n\n'
USED = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}\n\n'
ROUTED = CHUNK + USED + b"data: [DONE]\n\n"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACED = f"traceparent: 00-{TRACE}-{SPAN}-01\r\n"
AUTO, ROUTE = "cloudflare/auto", "dynamic/support-chat"

Change = Callable[[Settings], Settings]


def chain(settings: Settings) -> Settings:
    return settings._replace(models=(DEFAULT_MODEL, *FALLBACK_MODELS))


def by_gateway(gateway: Gateway, base_path: str | None = None) -> Change:
    def change(settings: Settings) -> Settings:
        origin = settings.origin if base_path is None else settings.origin._replace(base_path=base_path)
        return settings._replace(gateway=gateway, origin=origin)

    return change


def metadata(fields: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = json.loads(fields["cf-aig-metadata"])
    return found


async def test_a_gateway_by_its_field() -> None:
    change = by_gateway(Gateway("my-gw", Secret("gw-token")))
    async with StandIn([WORDS]) as standin, house(standin, change=change) as cfchat:
        answer = await cfchat.post()
    (seen,) = standin.requests
    assert seen.target == f"/client/v4/accounts/{ACCOUNT}/ai/run/{FIRST}"
    assert seen.fields["cf-aig-gateway-id"] == "my-gw"
    assert seen.fields["cf-aig-authorization"] == "Bearer gw-token"
    assert metadata(seen.fields) == {"request_id": answer.fields["x-request-id"]}
    assert (seen.fields["cf-aig-skip-cache"], seen.fields["cf-aig-max-attempts"]) == ("true", "1")
    assert "cf-aig-cache-ttl" not in seen.fields
    assert "gw-token" not in "\n".join(cfchat.log)


async def test_a_gateway_by_its_own_url_and_with_its_cache() -> None:
    change = by_gateway(Gateway("my-gw", cache=60), "/v1")
    async with StandIn([WORDS]) as standin, house(standin, change=change) as cfchat:
        assert (await cfchat.post()).body == b"Hello"
    (seen,) = standin.requests
    assert seen.target == f"/v1/{ACCOUNT}/my-gw/workers-ai/{FIRST}"
    assert seen.fields["cf-aig-cache-ttl"] == "60"
    for name in ("cf-aig-gateway-id", "cf-aig-authorization", "cf-aig-skip-cache"):
        assert name not in seen.fields


async def test_no_gateway_no_fields_of_it() -> None:
    async with StandIn([WORDS]) as standin, house(standin) as cfchat:
        await cfchat.post()
    assert not [name for name in standin.requests[0].fields if name.startswith("cf-aig")]


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (json_error(400, 2001, "Please configure AI Gateway"), 502, "upstream_auth"),
        (json_error(424, 2016, "Prompt blocked due to security configurations"), 400, "content_blocked"),
        (json_error(424, 2017, "Response blocked due to security configurations"), 502, "upstream_refused"),
    ],
)
async def test_what_a_gateway_refuses_is_not_asked_again(script: Script, status: int, code: str) -> None:
    async with StandIn([script]) as standin, house(standin, change=chain) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.error["code"], len(standin.requests)) == (status, code, 1)


# --- traces, and whose money it is ----------------------------------------------------------------


async def test_without_a_gateway_the_request_is_what_it_always_was() -> None:
    keys = Guard(GuardSettings(keys=parse_keys("laptop a-key-that-is-long")))
    fields = f"{TRACED}authorization: Bearer a-key-that-is-long\r\n"
    async with StandIn([WORDS]) as standin, house(standin, guard=keys) as cfchat:
        assert (await cfchat.post(fields=fields)).body == b"Hello"
    (seen,) = standin.requests
    affinity, length = seen.fields["x-session-affinity"], len(seen.body)
    assert seen.head.decode() == (
        f"POST /client/v4/accounts/{ACCOUNT}/ai/run/{FIRST} HTTP/1.1\r\nHost: localhost:{standin.port}\r\n"
        f"Authorization: Bearer {TOKEN}\r\nAccept-Encoding: identity\r\nUser-Agent: cfchat\r\n"
        "Content-Type: application/json\r\nAccept: text/event-stream\r\n"
        f"Content-Length: {length}\r\nX-Session-Affinity: {affinity}\r\n\r\n"
    )
    assert set(json.loads(seen.body)) == {"messages", "stream", "max_tokens", "chat_template_kwargs"}


@pytest.mark.parametrize("base_path", [None, "/v1"])
async def test_a_trace_goes_on_with_the_requests_id_as_its_span(base_path: str | None) -> None:
    change = by_gateway(Gateway("my-gw"), base_path)
    async with StandIn([WORDS], repeat=True) as standin, house(standin, change=change) as cfchat:
        answer = await cfchat.post(fields=TRACED)
        await cfchat.post()
        await cfchat.post(fields=f"traceparent: 00-{TRACE.upper()}-{SPAN}-01\r\n")
        await cfchat.logged(f" trace={TRACE} parent={SPAN} ")
    traced, *others = standin.requests
    span = traced.fields["cf-aig-otel-parent-span-id"]
    assert (traced.fields["cf-aig-otel-trace-id"], span) == (TRACE, answer.fields["x-request-id"])
    assert re.fullmatch("[0-9a-f]{16}", span)
    (line,) = [line for line in cfchat.log if f"trace={TRACE}" in line]
    assert line.startswith(span)
    assert not [name for each in others for name in each.fields if "otel" in name]


async def test_the_label_of_a_key_goes_into_the_metadata() -> None:
    keys = Guard(GuardSettings(keys=parse_keys("laptop a-key-that-is-long")))
    async with StandIn([WORDS]) as standin, house(standin, guard=keys, change=by_gateway(Gateway("gw"))) as cfchat:
        answer = await cfchat.post(fields="authorization: Bearer a-key-that-is-long\r\n")
    (seen,) = standin.requests
    assert metadata(seen.fields) == {"request_id": answer.fields["x-request-id"], "key": "laptop"}
    assert b"a-key-that-is-long" not in seen.head


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("J\u00fcrgen \U0001f600", None),
        ('"}\r\nEvil: 1', None),
        ("\udc80", None),
        ("x" * 96, None),
        ("x" * 5000, "x" * 63 + "-[0-9a-f]{32}"),
        ("\U0001f600" * 97, "\U0001f600" * 63 + "-[0-9a-f]{32}"),
    ],
)
async def test_any_name_that_a_hook_gives_is_one_field(name: str, sent: str | None) -> None:
    async def authenticate(request: Request) -> str:
        return name + request.fields.get("x-more", "")

    change, hooks = by_gateway(Gateway("gw")), Hooks(authenticate=authenticate)
    async with StandIn([WORDS], repeat=True) as standin, house(standin, change=change, hooks=hooks) as cfchat:
        for fields in ("", "", "x-more: y\r\n"):
            assert (await cfchat.post(fields=fields)).body == b"Hello"
    first, again, other = [metadata(seen.fields)["key"] for seen in standin.requests]
    assert first == again != other, "one budget each"
    assert first == name if sent is None else re.fullmatch(sent, first)
    assert all(seen.head.isascii() and "evil" not in seen.fields for seen in standin.requests)
    assert max(len(seen.fields["cf-aig-metadata"]) for seen in standin.requests) < 1500


# --- routes ---------------------------------------------------------------------------------------


def by_route(route: str, gateway: Gateway, base_path: str | None = None) -> Change:
    change = by_gateway(gateway, base_path)
    return lambda settings: change(settings)._replace(models=(route, FIRST))


@pytest.mark.parametrize(
    ("route", "field", "chosen"),
    [
        (AUTO, "cf-aig-routed-model: openai/gpt-5.6-luna", "openai/gpt-5.6-luna"),
        (ROUTE, "cf-aig-model: @cf/zai-org/glm-4.7-flash", "@cf/zai-org/glm-4.7-flash"),
        (ROUTE, "cf-aig-step: 0", ROUTE),
        (AUTO, "cf-aig-routed-model: <b>evil</b> model=x", AUTO),
        (AUTO, f"cf-aig-routed-model: {'x' * 201}", AUTO),
    ],
)
async def test_a_route_by_the_gateways_own_url(route: str, field: str, chosen: str) -> None:
    name, _, value = field.partition(": ")
    answers = reply(ROUTED, fields=[(name, value)])
    change = by_route(route, Gateway("my-gw", Secret("gw-token")), "/v1")
    async with StandIn([answers]) as standin, house(standin, change=change) as cfchat:
        answer = await cfchat.post()
        await cfchat.logged("POST /api/chatbot")
    (seen,) = standin.requests
    assert seen.target == f"/v1/{ACCOUNT}/my-gw/compat/chat/completions"
    assert json.loads(seen.body) == {
        "model": route,
        "messages": [{"role": "system", "content": "You are a friendly assistant"}, *HELLO],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 2048,
    }  # fmt: skip
    assert seen.fields["cf-aig-session-id"] == seen.fields["x-session-affinity"]
    assert seen.fields["cf-aig-authorization"] == "Bearer gw-token"
    assert "authorization" not in seen.fields, "a provider would get it"
    assert (answer.body, answer.fields["x-model"]) == (b"Hello", chosen)
    assert any(f" model={chosen}" in line for line in cfchat.log)
    assert "evil" not in "\n".join(cfchat.log)


async def test_a_route_without_a_token_of_the_gateway_gets_the_accounts() -> None:
    change = by_route(AUTO, Gateway("my-gw"), "/v1")
    async with StandIn([reply(ROUTED)]) as standin, house(standin, change=change) as cfchat:
        await cfchat.post()
    (seen,) = standin.requests
    assert seen.fields["cf-aig-authorization"] == f"Bearer {TOKEN}" and "authorization" not in seen.fields


async def test_a_route_at_the_apis_own_url() -> None:
    change = by_route(ROUTE, Gateway("my-gw", Secret("gw-token")))
    async with StandIn([reply(ROUTED)]) as standin, house(standin, change=change) as cfchat:
        assert (await cfchat.post()).body == b"Hello"
    (seen,) = standin.requests
    assert seen.target == f"/client/v4/accounts/{ACCOUNT}/ai/v1/chat/completions"
    assert (seen.fields["cf-aig-gateway-id"], seen.fields["authorization"]) == ("my-gw", f"Bearer {TOKEN}")
    assert json.loads(seen.body)["model"] == ROUTE


async def test_a_reply_that_is_not_streamed_has_the_models_name_and_its_usage() -> None:
    message = {"role": "assistant", "content": "Hello"}
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    fields = [("content-type", "application/json"), ("cf-aig-routed-model", "xai/grok-4.5")]
    answers = reply(json.dumps(whole).encode(), framing="length", fields=fields)
    async with StandIn([answers]) as standin, house(standin, change=by_route(AUTO, Gateway("gw"))) as cfchat:
        answer = await cfchat.post({"messages": [{"role": "user", "content": "Hi"}]}, "/v1/chat/completions")
    document = json.loads(answer.body)
    assert (document["model"], document["usage"]) == ("xai/grok-4.5", usage)


async def test_a_route_that_is_busy_falls_back_and_is_asked_for_no_hurry() -> None:
    busy = json_error(429, 3040, "Capacity temporarily exceeded, please try again.")
    async with StandIn([busy, WORDS]) as standin, house(standin, change=by_route(ROUTE, Gateway("gw"))) as cfchat:
        assert (await cfchat.post()).fields["x-model"] == FIRST
    assert "options" not in json.loads(standin.requests[0].body)
    assert standin.requests[1].target.endswith(f"/ai/run/{FIRST}")


async def test_a_client_may_name_a_route_but_not_what_only_workers_ai_takes() -> None:
    change, app = by_gateway(Gateway("gw")), AppSettings(models=(FIRST, ROUTE), aliases={"gpt-4o": ROUTE})
    messages = [{"role": "user", "content": "Hi"}]
    async with StandIn([reply(ROUTED)]) as standin, house(standin, change=change, app=app) as cfchat:
        answer = await cfchat.post({"model": "gpt-4o", "messages": messages, "temperature": 0.5, "max_tokens": 9})
        assert answer.body == b"Hello"
        refused = await cfchat.post({"model": ROUTE, "messages": messages, "top_k": 5})
        assert (refused.status, refused.error["param"]) == (400, "top_k")
    sent = json.loads(standin.requests[0].body)
    assert (sent["model"], sent["temperature"], sent["max_completion_tokens"]) == (ROUTE, 0.5, 9)


async def test_a_hook_may_name_a_route_only_if_there_is_a_gateway() -> None:
    async def before_call(conversation: Conversation, _: Request) -> Conversation:
        return replace(conversation, options=replace(conversation.options, model=ROUTE))

    async with StandIn([]) as standin, house(standin, hooks=Hooks(before_call=before_call)) as cfchat:
        answer = await cfchat.post()
        assert (answer.status, answer.error["code"]) == (502, "upstream_refused")
        assert ROUTE not in answer.body.decode()
    assert any("--gateway names yours" in line for line in cfchat.log)


async def test_no_list_of_models_has_routes_and_nobody_misses_them() -> None:
    change = by_route(ROUTE, Gateway("gw"))
    async with StandIn([listing(listed(OTHER))]) as standin, house(standin, change=change) as cfchat:
        await cfchat.upstream.start()
        await cfchat.logged("not in the account's list")
    assert [line for line in cfchat.log if "list of models" in line and ROUTE in line] == []


async def test_check_says_which_model_the_gateway_chose() -> None:
    chosen = reply(ROUTED, fields=[("cf-aig-routed-model", "anthropic/claude-sonnet-5")])
    async with cloudflare(answer=chosen) as standin:
        done = await command(standin.base_url, "check", "--gateway", "gw", "--model", AUTO)
    assert done.code == 0 and done.line("model").startswith("ok"), done.out
    assert "warn" not in done.out
    assert f"{AUTO}: anthropic/claude-sonnet-5 answers;" in done.line("model")
