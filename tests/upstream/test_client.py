"""The way to Cloudflare as a whole: whom it asks, how, how long, and what it reports when it fails."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from ipaddress import ip_network
from itertools import pairwise

import pytest
from client import until
from expected import status_and_code
from house import ACCOUNT, HELLO, House, house, quicker
from recorded import ERRORS, load, stream_bytes
from standin import Exchange, Script, StandIn, hang_up, json_error, partial, reply, silence

from cfchat.app.routes import Settings as AppSettings
from cfchat.conversation.model import Options
from cfchat.guard.addresses import Proxies
from cfchat.upstream import circuits
from cfchat.upstream.client import Settings
from cfchat.upstream.cloudflare.models import DEFAULT_MODEL, FALLBACK_MODELS

THINKER = "@cf/deepseek-ai/deepseek-r1-distill-qwen-32b"
FIRST, SECOND, THIRD = CHAIN = (DEFAULT_MODEL, *FALLBACK_MODELS)
WORDS = reply(b'data: {"response":"Hello"}\n\ndata: [DONE]\n\n')
HALF = b'data: {"response":"Hel"}\n\n'
BUSY = json_error(429, 3040, "Capacity temporarily exceeded, please try again.")
GONE = json_error(410, 5028, "Model has been deprecated")
FAULT = json_error(500, 3043, "Internal server error")
SPENT = json_error(429, 4006, "you have used up your daily free allocation of 10,000 neurons")
PROVIDER = json_error(400, 2005, "Failed to get response from provider")
NO_TOKENS = reply(stream_bytes("empty_reply"))
EDGE = reply(b"<html>", 502, framing="length", fields=[("content-type", "text/html")])

Change = Callable[[Settings], Settings]


def chain(**more: object) -> Change:
    return lambda settings: settings._replace(models=CHAIN, **more)  # type: ignore[arg-type]


def asked(exchange: Exchange) -> str:
    """The model of a request."""
    return exchange.target.partition("/ai/run/")[2]


def sent(exchange: Exchange) -> dict[str, object]:
    body: dict[str, object] = json.loads(exchange.body)
    return body


# --- whom it asks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "models"),
    [
        ([], [FIRST]),
        ([BUSY], [FIRST, SECOND]),
        ([BUSY, BUSY], [FIRST, SECOND, THIRD]),
        ([GONE, FAULT], [FIRST, SECOND, THIRD]),
        ([EDGE], [FIRST, FIRST]),
        ([PROVIDER], [FIRST, SECOND]),
        ([NO_TOKENS], [FIRST, SECOND]),
        ([EDGE, BUSY], [FIRST, FIRST, SECOND]),
        ([BUSY, EDGE], [FIRST, SECOND, SECOND]),
    ],
)
async def test_a_fault_that_another_model_may_not_share_asks_it(failures: list[Script], models: list[str]) -> None:
    async with StandIn([*failures, WORDS]) as standin, house(standin, change=chain()) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.body, answer.fields["x-model"]) == (200, b"Hello", models[-1])
    assert list(map(asked, standin.requests)) == models
    assert f"tries={len(models)} model={models[-1]}" in cfchat.log[-1]
    for tried, following in pairwise(models):
        assert any(f"of {tried} failed" in line and f"with {following} in" in line for line in cfchat.log)


@pytest.mark.parametrize("failure", [BUSY, GONE, FAULT, EDGE, hang_up()])
async def test_one_reply_never_costs_more_than_three_requests(failure: Script) -> None:
    async with StandIn([failure] * 3) as standin, house(standin, change=chain()) as cfchat:
        answer = await cfchat.post()
    assert (answer.status >= 500, len(standin.requests)) == (True, 3)
    assert "giving up" in "\n".join(cfchat.log) and "tries=3" in cfchat.log[-1]


@pytest.mark.parametrize("name", ERRORS)
async def test_every_recorded_error(name: str) -> None:
    """What the client is told, what the log says, and how many requests it was worth."""
    recorded = load("errors", name)
    fields = [(key, value) for key, value in recorded["headers"].items() if key != "content-length"]
    failure = reply(recorded["body"].encode(), recorded["status"], framing="length", fields=fields)
    waits = name in ("429_971_api_throttle", "429_1015_edge_text")  # longer than anybody should be kept
    tries = 1 if waits or not (recorded["retryable"] or recorded.get("fallback")) else 2 if name == "524_html" else 3
    change: Change = lambda settings: settings._replace(models=CHAIN[: 1 if name == "524_html" else 3])  # noqa: E731
    async with StandIn([failure] * tries) as standin, house(standin, change=change) as cfchat:
        answer = await cfchat.post()
    code = (502, "upstream_empty") if recorded.get("empty") else status_and_code(name, recorded)
    assert (answer.status, answer.error["code"], len(standin.requests)) == (*code, tries)
    assert answer.fields["x-should-retry"] == "false"
    assert not re.search(rf"[0-9a-f]{{8}}-|@cf|://|{ACCOUNT}|[Cc]loudflare|AiError", answer.error["message"])
    (line, *_) = (line for line in cfchat.log if "try 1/3" in line)
    if not recorded.get("empty"):
        assert f"status {recorded['status']}, code {recorded['code'] or 'none'}" in line
        assert recorded["headers"].get("cf-ray", "") in line or recorded["status"] == 200


async def test_a_fault_of_the_account_asks_nobody_else() -> None:
    async with StandIn([SPENT]) as standin, house(standin, change=chain()) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.error["code"], len(standin.requests)) == (429, "upstream_quota", 1)
    assert 0 < int(answer.fields["retry-after"]) <= 86400


async def test_cloudflare_is_told_to_refuse_only_where_somebody_else_is_left() -> None:
    async with StandIn([BUSY, BUSY, WORDS]) as standin, house(standin, change=chain()) as cfchat:
        await cfchat.post()
    assert [sent(exchange).get("options") for exchange in standin.requests] == [{"rejectIfBusy": True}] * 2 + [None]
    async with StandIn([WORDS]) as standin, house(standin) as cfchat:
        await cfchat.post()
    assert "options" not in sent(standin.requests[0])


async def test_a_model_that_is_gone_is_left_out_for_an_hour_with_one_warning() -> None:
    now = 0.0
    scripts = [GONE, *[WORDS] * 4]
    async with StandIn(scripts) as standin, house(standin, change=chain(), clock=lambda: now) as cfchat:
        for _ in range(3):
            assert (await cfchat.post()).fields["x-model"] == SECOND
            now += 1190.0
        now = 3600.0
        assert (await cfchat.post()).fields["x-model"] == FIRST
    assert list(map(asked, standin.requests)) == [FIRST, SECOND, SECOND, SECOND, FIRST]
    assert len([line for line in cfchat.log if "left out for 3600 s" in line]) == 1


async def test_a_model_that_was_gone_is_asked_again_once_the_list_has_it() -> None:
    listed = reply(models_listed(FIRST), framing="length", fields=[("content-type", "application/json")])

    async def script(exchange: Exchange) -> None:
        await (listed if exchange.method == "GET" else GONE if len(standin.requests) == 1 else WORDS)(exchange)

    async with StandIn([script], repeat=True) as standin, house(standin, change=chain(warm=0)) as cfchat:
        assert (await cfchat.post()).fields["x-model"] == SECOND
        await cfchat.upstream.start()
        await cfchat.logged(f"model {SECOND} is not in the account's list")
        assert (await cfchat.post()).fields["x-model"] == FIRST


def models_listed(*names: str) -> bytes:
    models = [{"name": name, "task": {"name": "Text Generation"}} for name in names]
    return json.dumps({"success": True, "result": models}).encode()


BY_PROXY = Proxies((ip_network("127.0.0.1"),))


async def test_failures_of_one_client_move_nobody_else_to_the_fallback() -> None:
    """Its own requests go there: what it sends may be what the model fails of."""

    async def script(exchange: Exchange) -> None:
        await (BUSY if b"poison" in exchange.body and asked(exchange) == FIRST else WORDS)(exchange)

    poison = [{"role": "user", "content": "poison"}]
    async with StandIn([script], repeat=True) as standin, house(standin, change=chain(), peers=BY_PROXY) as cfchat:
        for _ in range(4):
            answer = await cfchat.post(poison, fields="X-Forwarded-For: 192.0.2.1\r\n")
            assert answer.fields["x-model"] == SECOND
        assert list(map(asked, standin.requests)) == [FIRST, SECOND] * 3 + [SECOND]
        # So are those of others that the model answers in between: they are not in a row.
        for address in ("192.0.2.2", "192.0.2.3", "192.0.2.4"):
            for question, model in ((HELLO, FIRST), (poison, SECOND)):
                answer = await cfchat.post(question, fields=f"X-Forwarded-For: {address}\r\n")
                assert answer.fields["x-model"] == model


async def test_failures_of_three_clients_move_everybody_to_the_fallback() -> None:
    scripts = [BUSY, WORDS] * 3 + [WORDS]
    async with StandIn(scripts) as standin, house(standin, change=chain(), peers=BY_PROXY) as cfchat:
        for number in range(4):
            answer = await cfchat.post(fields=f"X-Forwarded-For: 2001:db8:0:{number}::1\r\n")
            assert answer.fields["x-model"] == SECOND
        assert asked(standin.requests[-1]) == SECOND and len(standin.requests) == 7


async def test_addresses_of_one_network_are_one_client() -> None:
    scripts = [BUSY, WORDS] * 4
    async with StandIn(scripts) as standin, house(standin, change=chain(), peers=BY_PROXY) as cfchat:
        for number in range(3):
            await cfchat.post(fields=f"X-Forwarded-For: 2001:db8::{number}\r\n")
        await cfchat.post(fields="X-Forwarded-For: 192.0.2.1\r\n")
        assert asked(standin.requests[-2]) == FIRST


async def test_a_circuit_opens_rests_and_is_tried_again_by_one_request() -> None:
    now, known = 0.0, asyncio.Event()

    async def in_the_end(exchange: Exchange) -> None:
        await known.wait()
        await WORDS(exchange)

    change = chain(circuits=circuits.Settings(failures=2, rest=10.0))
    scripts = [BUSY, WORDS, BUSY, WORDS, WORDS, BUSY, WORDS, WORDS, in_the_end, WORDS, BUSY, WORDS, WORDS]
    async with StandIn(scripts) as standin, house(
        standin, change=change, clock=lambda: now, peers=BY_PROXY
    ) as cfchat:

        async def models_asked() -> list[str]:
            """Another client asks each time."""
            before = len(standin.requests)
            assert (await cfchat.post(fields=f"X-Forwarded-For: 192.0.2.{before}\r\n")).body == b"Hello"
            return list(map(asked, standin.requests[before:]))

        assert await models_asked() == [FIRST, SECOND]
        assert await models_asked() == [FIRST, SECOND]  # it opens
        assert await models_asked() == [SECOND]
        now = 11.0
        assert await models_asked() == [FIRST, SECOND]  # tried again, and busy still
        assert await models_asked() == [SECOND]
        now = 22.0
        trial = asyncio.create_task(cfchat.post())
        await standin.wait_requests(9)
        assert await models_asked() == [SECOND]  # while nobody knows how it goes
        known.set()
        assert (await trial).fields["x-model"] == FIRST
        assert await models_asked() == [FIRST, SECOND]  # once is not often in a row: the count began again
        assert await models_asked() == [FIRST]
    assert len([line for line in cfchat.log if "not asked first for 10 s" in line]) == 1


async def test_with_every_circuit_open_the_default_is_asked() -> None:
    change = chain(circuits=circuits.Settings(failures=1))
    async with StandIn([BUSY, BUSY, BUSY, WORDS]) as standin, house(standin, change=change) as cfchat:
        assert (await cfchat.post()).status == 503
        assert (await cfchat.post()).fields["x-model"] == FIRST


async def test_a_silent_model_gives_the_next_try_to_the_next() -> None:
    def change(settings: Settings) -> Settings:
        return quicker(first_delta=0.2)(chain()(settings))

    async with StandIn([silence(), WORDS]) as standin, house(standin, change=change) as cfchat:
        assert (await cfchat.post()).fields["x-model"] == SECOND


# --- options of a request ------------------------------------------------------------------------


def asking(**options: object) -> dict[str, object]:
    return {"messages": HELLO, **options}


async def test_options_reach_the_model() -> None:
    def change(settings: Settings) -> Settings:
        return settings._replace(defaults=Options(temperature=0.25, top_p=0.5))

    app = AppSettings(models=(FIRST, THIRD))
    body = asking(temperature=1, max_tokens=77, seed=5, top_k=3, model=THIRD)
    async with StandIn([WORDS]) as standin, house(standin, app=app, change=change) as cfchat:
        answer = await cfchat.post(body)
    assert answer.fields["x-model"] == asked(standin.requests[0]) == THIRD
    found = sent(standin.requests[0])
    assert {name: found[name] for name in found if name != "messages"} == {
        "temperature": 1, "top_p": 0.5, "max_tokens": 77, "seed": 5, "top_k": 3, "stream": True,
        "options": {"rejectIfBusy": True},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": 2.5}, "temperature"),
        ({"max_tokens": 4097}, "max_tokens"),
        ({"model": SECOND}, "model"),
        ({"seed": "x"}, "seed"),
    ],
)
async def test_options_that_are_refused_cost_nothing(options: dict[str, object], param: str) -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        answer = await cfchat.post(asking(**options))
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_option", param)


async def test_a_named_model_comes_first_and_the_chain_stands_behind_it() -> None:
    app = AppSettings(models=CHAIN)
    async with StandIn([BUSY, BUSY, WORDS]) as standin, house(standin, app=app, change=chain()) as cfchat:
        await cfchat.post(asking(model=THIRD))
    assert list(map(asked, standin.requests)) == [THIRD, FIRST, SECOND]


async def test_extra_fields_go_to_their_own_model_only() -> None:
    change = chain(fields={FIRST: {"lora": "x"}, SECOND: {"stop": ["y"]}})
    async with StandIn([BUSY, WORDS]) as standin, house(standin, change=change) as cfchat:
        await cfchat.post()
    first, second = map(sent, standin.requests)
    assert (first["lora"], second["stop"]) == ("x", ["y"])
    assert "stop" not in first and "lora" not in second


async def test_distilled_thoughts_are_not_the_answer() -> None:
    thoughts = reply(b'data: {"response":"Okay, hm.\\n</th"}\n\ndata: {"response":"ink>\\n\\nHi!"}\n\ndata: [DONE]\n\n')
    change: Change = lambda settings: settings._replace(models=(THINKER,))  # noqa: E731
    async with StandIn([thoughts]) as standin, house(standin, change=change) as cfchat:
        assert (await cfchat.post()).body == b"Hi!"


# --- conversations that are too long -------------------------------------------------------------

TURN = [{"role": "user", "content": "u" * 300}, {"role": "assistant", "content": "a" * 300}]
LONG = [*TURN * 5, {"role": "user", "content": "and now?"}]


async def test_too_long_is_a_400_of_its_own() -> None:
    full = json_error(413, 5021, "The estimated number of input and maximum output tokens exceeded the context window")
    async with StandIn([full]) as standin, house(standin, change=chain()) as cfchat:
        answer = await cfchat.post(LONG)
    assert (answer.status, answer.error["code"], len(standin.requests)) == (400, "context_length_exceeded", 1)
    assert len(sent(standin.requests[0])["messages"]) == 12  # type: ignore[arg-type]


async def test_with_trim_the_oldest_turns_are_left_out_and_the_reply_says_so() -> None:
    change: Change = lambda settings: settings._replace(trim=True, window=2048 + 300)  # noqa: E731
    async with StandIn([WORDS, WORDS]) as standin, house(standin, change=change) as cfchat:
        answer = await cfchat.post(LONG)
        assert answer.fields["x-messages-left-out"] == "8"
        assert "X-Messages-Left-Out" in answer.fields["access-control-expose-headers"]
        assert "x-messages-left-out" not in (await cfchat.post()).fields
    kept = sent(standin.requests[0])["messages"]
    assert kept == [{"role": "system", "content": "You are a friendly assistant"}, *LONG[-3:]]


# --- deadlines -----------------------------------------------------------------------------------


def says(cfchat: House, message: str, flag: str) -> bool:
    """Whether the log tells which deadline it was, how long, and what sets it."""
    return any(message in line and f"{flag} sets how long" in line for line in cfchat.log)


async def test_the_first_words_deadline_says_so() -> None:
    async with StandIn([silence()] * 3) as standin, house(standin, change=quicker(first_delta=0.05)) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    assert answer.error["message"] == "The model took too long: no first words within 0.05 s."
    assert says(cfchat, "no first words within 0.05 s", "--first-token-timeout")


async def test_a_silent_address_is_given_up_with_all_that_leads_there() -> None:
    both = asyncio.Barrier(2)

    async def together(exchange: Exchange) -> None:
        await both.wait()
        await WORDS(exchange)

    scripts = [together, together, silence(), WORDS]
    async with StandIn(scripts) as standin, house(standin, change=quicker(first_delta=0.2)) as cfchat:
        await asyncio.gather(cfchat.post(), cfchat.post())
        assert cfchat.upstream._pool.state.idle == 2
        assert (await cfchat.post()).body == b"Hello"
        silent, last = standin.requests[2:]
        assert silent.connection in (1, 2) and last.connection == 3
        assert cfchat.upstream._pool.state.idle == 1


@pytest.mark.parametrize("thought", ['{"choices":[{"delta":{"reasoning_content":"Hm."}}]}', '{"response":"Hm."}'])
@pytest.mark.parametrize("close", ["", "</think>"])
async def test_thinking_is_no_silence(thought: str, close: str) -> None:
    """The first words come later than the first-token deadline allows, but never is the model silent for long."""

    async def thinking(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        for _ in range(12):
            await exchange.send(f"data: {thought}\n\n".encode())
            await asyncio.sleep(0.01)
        await exchange.send(b'data: {"response":"%b\\nHello"}\n\ndata: [DONE]\n\n' % close.encode())
        exchange.close()

    def change(settings: Settings) -> Settings:
        return quicker(first_delta=0.1)(settings)._replace(models=(THINKER,))

    async with StandIn([thinking]) as standin, house(standin, change=change) as cfchat:
        answer = await cfchat.post()
    # Nothing but the text shows whether it is a thought.
    unsure = "reasoning" not in thought and not close
    assert answer.body == (b"Hm." * 12 + b"\nHello" if unsure else b"Hello")


async def test_what_timed_out_at_cloudflare_for_good_is_asked_of_nobody() -> None:
    async with StandIn([json_error(408, 3046, "Request timeout")]) as standin, house(standin, change=chain()) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, len(standin.requests)) == (504, 1)


async def test_no_capacity_names_a_time_to_come_back() -> None:
    async with StandIn([BUSY] * 3) as standin, house(standin) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.fields["retry-after"]) == (503, "8")


async def test_the_connect_deadline_says_so() -> None:
    def tls(settings: Settings) -> Settings:
        once = settings.policy._replace(attempts=1)
        return quicker(connect=0.1)(settings._replace(origin=settings.origin._replace(tls=True), policy=once))

    async with StandIn([], certificate=None) as standin, house(standin, change=tls) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    assert answer.error["message"] == "The model's server could not be reached within 0.1 s."
    assert says(cfchat, "no TLS handshake with localhost", "--connect-timeout")


async def test_the_deadline_between_words_says_so() -> None:
    script = partial(HALF, then="silence")
    async with StandIn([script]) as standin, house(standin, change=quicker(between_deltas=0.1)) as cfchat:
        answer = await cfchat.post()
    assert (answer.body, answer.whole) == (b"Hel", False)
    assert says(cfchat, "no further words within 0.1 s", "--idle-timeout")


async def test_the_deadline_of_the_whole_reply_says_so() -> None:
    """Words keep coming, each in time."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        while not exchange.closed_by_peer.is_set():
            await exchange.send(HALF)
            await asyncio.sleep(0.01)

    async with StandIn([script]) as standin, house(standin, change=quicker(whole_reply=0.1)) as cfchat:
        answer = await cfchat.post()
        await standin.wait_closed_by_peer()
    assert answer.body.startswith(b"HelHel") and not answer.whole
    assert says(cfchat, "no end of the reply within 0.1 s", "--reply-timeout")


# --- upkeep --------------------------------------------------------------------------------------


def models_list(*entries: tuple[str, str]) -> Script:
    """The reply of `models/search`: names, and when each is going to be removed."""
    result = [
        {
            "name": name,
            "task": {"name": "Text Generation"},
            "properties": [{"property_id": "planned_deprecation_date", "value": date}] if date else [],
        }
        for name, date in entries
    ]
    body = json.dumps({"success": True, "result": result}).encode()
    return reply(body, framing="length", fields=[("content-type", "application/json")])


def either(listing: Script, answer: Script) -> Script:
    async def script(exchange: Exchange) -> None:
        await (listing if "/models/search" in exchange.target else answer)(exchange)

    return script


async def test_the_first_user_finds_a_connection_made() -> None:
    scripts = [either(models_list((FIRST, "")), WORDS)]
    async with StandIn(scripts, repeat=True) as standin, house(standin) as cfchat:
        await cfchat.upstream.start()
        await standin.wait_requests()
        await until(lambda: cfchat.upstream._pool.state.idle == 2)  # both chores are at their end
        assert (await cfchat.post()).body == b"Hello"
        assert standin.connections == 2


async def test_planned_removals_and_strange_names_are_warned_of() -> None:
    listing = models_list((FIRST, "2999-12-24"), (SECOND, "2001-12-24"))
    async with StandIn([either(listing, WORDS)], repeat=True) as standin, house(standin, change=chain()) as cfchat:
        await cfchat.upstream.start()
        await cfchat.logged(THIRD)
        assert (await cfchat.post()).body == b"Hello"
    (seen,) = (exchange for exchange in standin.requests if exchange.method == "GET")
    assert seen.target == f"/client/v4/accounts/{ACCOUNT}/ai/models/search?task=Text%20Generation"
    assert any(f"model {FIRST} is going to be removed on 2999-12-24" in line for line in cfchat.log)
    assert any(f"model {SECOND} was to be removed on 2001-12-24" in line for line in cfchat.log)
    assert any(f"model {THIRD} is not in the account's list of models" in line for line in cfchat.log)
    assert not any(f"model {SECOND} is" in line for line in cfchat.log)


@pytest.mark.parametrize("listing", [json_error(403, 10000, "Authentication error"), reply(b"<html>"), hang_up()])
async def test_a_list_that_cannot_be_read_is_one_warning_and_no_more(listing: Script) -> None:
    async with StandIn([either(listing, WORDS)], repeat=True) as standin, house(standin) as cfchat:
        await cfchat.upstream.start()
        await cfchat.logged("could not be read")
        assert (await cfchat.post()).body == b"Hello"
    assert len([line for line in cfchat.log if "could not be read" in line]) == 1


async def test_no_server_at_the_start_is_one_warning_and_no_more() -> None:
    async with StandIn([WORDS]) as standin:
        await standin.stop()
        async with house(standin) as cfchat:
            await cfchat.upstream.start()
            await cfchat.logged("no connection to the model's server")
            await cfchat.logged("could not be read")
