"""What a reply costs, through the real socket: reserved before it is asked for, settled however it ends."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest
from client import Reply as Answered
from client import request, until
from house import HELLO, House, house, quicker
from standin import Fields, Model, Script, StandIn, event, hang_up, json_error, reply, silence
from standin import partial as half

from cfchat.app.hooks import Hooks, Reply
from cfchat.guard.guard import Guard, Settings
from cfchat.upstream.answer import Answer
from cfchat.upstream.client import Settings as Upstream
from cfchat.upstream.cloudflare.models import DEFAULT_MODEL
from cfchat.upstream.cloudflare.usage import Cost

WORDS = reply(
    b'data: {"response":"Hello"}\n\ndata: {"response":"","usage":{"total_tokens":60,"completion_tokens":9}}\n\n'
    b"data: [DONE]\n\n"
)
USAGE = {"prompt_tokens": 50, "completion_tokens": 7, "total_tokens": 57}
BODY = json.dumps(HELLO).encode()
QUESTION = 28  # the estimate for BODY and the server's own system message
DONE = b"data: [DONE]\n\n"
COMPLETIONS = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
JSON_MODE = {"response_format": {"type": "json_object"}}


class Told(asyncio.Queue[Reply]):
    """A queue of the replies that the hook `after_reply` was called with."""

    @property
    def hooks(self) -> Hooks:
        return Hooks(after_reply=self.put)


def asking(max_tokens: int, **more: object) -> bytes:
    return json.dumps({"messages": HELLO, "max_tokens": max_tokens, **more}).encode()


def whole(body: object) -> Script:
    """A reply that is not streamed."""
    return reply(json.dumps(body).encode(), framing="length", fields=[("content-type", "application/json")])


def left(guard: Guard) -> int:
    """The tokens of the day that are neither spent nor held for all clients together."""
    (budget, name), *_ = guard._budgets
    return budget._tokens - budget._spent.get(name, 0) - sum(budget._held.values())


def numbers(cfchat: House) -> dict[str, float]:
    """What /metrics would tell."""
    return {name: number for family in cfchat.app.metrics.samples().values() for name, number in family.items()}


async def leaving(cfchat: House, body: bytes = BODY, path: str = "/api/chatbot") -> asyncio.StreamWriter:
    """A client that has asked; `abort` lets it leave."""
    _, writer = await cfchat.connect()
    writer.write(request(body, path))
    return writer


# --- reserved -------------------------------------------------------------------------------------


ENOUGH = 2 * (QUESTION + 100) + 10


@pytest.mark.parametrize("settings", [Settings(daily_tokens=ENOUGH), Settings(daily_tokens_each=ENOUGH)])
async def test_replies_under_way_cannot_pass_a_budget_together(settings: Settings) -> None:
    """Two of five fit; when they are over and cheaper than they might have been, there is room again."""
    guard, models = Guard(settings), [Model(), Model()]
    async with StandIn([*models, WORDS]) as standin, house(standin, guard=guard) as cfchat:
        running = [asyncio.create_task(cfchat.post(asking(100))) for _ in models]
        await standin.wait_requests(2)
        refused = [await cfchat.post(asking(100)) for _ in range(3)]
        for answer in refused:
            assert (answer.status, answer.error["code"]) == (429, "daily_tokens_spent")
            assert "under way" in answer.error["message"] and int(answer.fields["retry-after"]) <= 10
        assert len(standin.requests) == 2
        for model in models:
            model.say("Hello")
            model.end(usage=USAGE)
        assert [(await task).body for task in running] == [b"Hello"] * 2
        assert (await cfchat.post(asking(100))).status == 200


async def test_a_reply_that_may_cost_more_than_is_left_is_refused_and_a_shorter_one_is_not() -> None:
    guard = Guard(Settings(daily_tokens_each=1000))
    async with StandIn([WORDS, WORDS]) as standin, house(standin, guard=guard) as cfchat:
        assert (await cfchat.post(asking(900))).status == 200
        answer = await cfchat.post(asking(930))
        assert (answer.status, answer.error["code"]) == (429, "daily_tokens_spent")
        assert "may take 958" in answer.error["message"] and "940 are left" in answer.error["message"]
        assert int(answer.fields["retry-after"]) > 10 or answer.fields["retry-after"] == "1"  # at midnight
        assert (await cfchat.post(asking(900))).status == 200


async def test_a_reply_that_may_be_longer_than_the_budget_takes_all_of_it() -> None:
    guard, model = Guard(Settings(daily_tokens=100)), Model()
    async with StandIn([model]) as standin, house(standin, guard=guard) as cfchat:
        first = asyncio.create_task(cfchat.post())
        await standin.wait_requests()
        assert (await cfchat.post(asking(1))).status == 429
        model.say("Hello")
        model.end(usage=USAGE)
        assert (await first).status == 200 and left(guard) == 43


async def test_tools_and_schemas_are_reserved_too() -> None:
    guard = Guard(Settings(daily_tokens=12_000))
    large = {"tools": [{"type": "function", "function": {"name": "f", "description": "é" * 20_000}}]}
    async with StandIn([]) as standin, house(standin, guard=guard) as cfchat:
        for more in (large, {"messages": [*HELLO, {"role": "tool", "tool_call_id": "i" * 40_000, "content": "x"}]}):
            answer = await cfchat.post(asking(10, **more), COMPLETIONS)
            assert (answer.status, answer.error["code"]) == (429, "daily_tokens_spent"), more.keys()


ENDS: dict[str, list[Script]] = {
    "whole": [WORDS],
    "refused": [json_error(401, 10000, "Authentication error")],
    "never began": [hang_up()] * 6,
    "cut": [half(event("Hel"))],
    "empty": [reply(DONE)] * 3,
    "an error under a 200": [reply(b'data: {"errors":[{"code":3003,"message":"x"}]}\n\n')] * 3,
}


@pytest.mark.parametrize("end", ENDS)
async def test_what_is_reserved_is_free_again_however_a_reply_ends(end: str) -> None:
    guard = Guard(Settings(daily_tokens=100_000))
    async with StandIn(ENDS[end]) as standin, house(standin, guard=guard) as cfchat:
        await cfchat.post()
        await until(lambda: cfchat.app.streams == (0, 0))
        assert left(guard) >= 100_000 - 3 * QUESTION - 60
        if end in ("refused", "never began", "an error under a 200"):
            assert left(guard) == 100_000


# --- settled --------------------------------------------------------------------------------------


async def test_daily_tokens_are_counted_as_cloudflare_counts_them() -> None:
    guard = Guard(Settings(daily_tokens=110))
    async with StandIn([WORDS, WORDS]) as standin, house(standin, guard=guard) as cfchat:
        assert [(await cfchat.post(asking(20))).status for _ in range(3)] == [200, 200, 429]
    assert len([line for line in cfchat.log if "80 % of today's tokens" in line]) == 1


async def settled(
    script: Script, body: bytes = BODY, path: str = "/api/chatbot", model: str = DEFAULT_MODEL
) -> tuple[Answered, Reply]:
    """Let a client ask, and the model be tried once. Return the answer, and the reply that `after_reply` got."""

    def once(settings: Upstream) -> Upstream:
        return settings._replace(policy=settings.policy._replace(attempts=1), models=(model,))

    told = Told()
    async with StandIn([script]) as standin, house(standin, hooks=told.hooks, change=once) as cfchat:
        return await cfchat.post(body, path), await told.get()


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}
TOOL_CALL = b"data: " + json.dumps({"choices": [{"delta": {"tool_calls": [{"index": 0, **CALL}]}}]}).encode() + b"\n\n"
HMM = b'data: {"choices":[{"delta":{"reasoning_content":"hmm, hmm"}}]}\n\n'
TOO_LONG = b'data: {"choices":[{"delta":{},"finish_reason":"length"}],"usage":%b}\n\n' % json.dumps(USAGE).encode()


def chosen(content: object, **more: object) -> dict[str, object]:
    return {"choices": [{"message": {"role": "assistant", "content": content, **more}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    ("script", "tokens"),
    [
        (whole({"result": {"response": "", "usage": USAGE}, "success": True}), (50, 7)),
        (whole({"result": {"response": None, "usage": USAGE}, "success": True}), (50, 7)),
        (whole({**chosen(None), "usage": USAGE}), (50, 7)),
        (whole({**chosen("", reasoning_content="hmm, hmm"), "usage": USAGE}), (50, 7)),
        (whole({"output": [], "usage": {"input_tokens": 50, "output_tokens": 7}}), (50, 7)),
        (whole(chosen(None, tool_calls=[CALL])), (QUESTION, len("weather" + '{"city":"Paris"}') // 3)),
        (whole({"result": {}, "success": True}), (QUESTION, 0)),
        (whole({"unheard": "of"}), (QUESTION, 0)),
    ],
    ids=["classic", "null", "chat", "thoughts", "responses", "calls", "nothing", "unknown"],
)
async def test_a_whole_reply_without_an_answer_is_paid_for(script: Script, tokens: tuple[int, int]) -> None:
    answer, found = await settled(script)
    assert answer.status == 502 and not found.whole
    assert (found.prompt_tokens, found.completion_tokens) == tokens


async def test_json_mode_without_an_answer_is_paid_for() -> None:
    script = whole({"result": {"response": "", "usage": USAGE}, "success": True})
    answer, found = await settled(script, asking(99, **JSON_MODE), COMPLETIONS)
    assert answer.status == 502 and (found.prompt_tokens, found.completion_tokens) == (50, 7)


@pytest.mark.parametrize(
    ("script", "tokens", "estimated"),
    [
        (reply(HMM + TOO_LONG + DONE), (50, 7), False),
        (half(HMM * 30), (QUESTION, 80), True),
        (half(event("hmm, hmm") * 30), (QUESTION, 80), True),
        (reply(TOOL_CALL + DONE), (QUESTION, 7), True),
        (reply(DONE), (QUESTION, 0), True),
    ],
    ids=["thoughts alone", "a break before the first word", "and before the closing tag", "calls in vain", "nothing"],
)
async def test_a_stream_without_a_word_is_paid_for(script: Script, tokens: tuple[int, int], estimated: bool) -> None:
    answer, found = await settled(script, model="@cf/qwen/qwq-32b")
    assert answer.status == 502 and not found.whole
    assert (found.prompt_tokens, found.completion_tokens, found.estimated) == (*tokens, estimated)


async def test_a_failed_try_is_paid_for_together_with_the_next_one() -> None:
    told = Told()
    scripts = [half(HMM * 30), reply(event("Hello", usage=USAGE) + DONE)]
    async with StandIn(scripts) as standin, house(standin, hooks=told.hooks) as cfchat:
        assert (await cfchat.post()).body == b"Hello"
        found = await told.get()
    assert (found.prompt_tokens, found.completion_tokens, found.whole) == (QUESTION + 50, 80 + 7, True)


async def test_calls_of_tools_without_a_usage_are_estimated() -> None:
    answer, found = await settled(reply(TOOL_CALL + DONE), asking(99, tools=[TOOL]), COMPLETIONS)
    assert answer.status == 200 and found.whole and found.estimated
    assert found.completion_tokens == 7 and found.prompt_tokens > QUESTION + len(json.dumps(TOOL)) // 4


async def test_tools_are_in_the_estimate() -> None:
    tools = [{"type": "function", "function": {"name": f"f{number}", "description": "ü" * 900}} for number in range(99)]
    body = asking(99, tools=tools)
    _, found = await settled(reply(event("Hello") + DONE), body, COMPLETIONS)
    assert len(body) // 9 < found.prompt_tokens  # the body has a six-letter escape for two bytes
    assert abs(found.prompt_tokens - len(json.dumps(tools, ensure_ascii=False).encode()) // 3) < 1000


async def test_an_estimate_counts_bytes() -> None:
    _, found = await settled(reply(event("é" * 30) + DONE))
    assert (found.completion_tokens, found.estimated) == (20, True)


BEGUN = event("Hello", usage=USAGE)


@pytest.mark.parametrize(
    ("events", "tokens", "estimated"),
    [
        (BEGUN, (50, 7), False),
        (event("Hello") + BEGUN + event("x" * 30), (50, 17), True),
        (event("x" * 30), (28, 10), True),
    ],
    ids=["told", "told, then more", "not told"],
)
async def test_a_reply_that_is_cut_costs_what_was_told_and_what_came_after(
    events: bytes, tokens: tuple[int, int], estimated: bool
) -> None:
    answer, found = await settled(half(events))
    assert not answer.whole and not found.whole
    assert (found.prompt_tokens, found.completion_tokens, found.estimated) == (*tokens, estimated)


async def test_a_client_that_leaves_pays_what_was_told() -> None:
    told = Told()
    script = half(BEGUN, then="silence")
    async with StandIn([script]) as standin, house(standin, hooks=told.hooks) as cfchat:
        reader, writer = await cfchat.connect()
        writer.write(request(BODY))
        await reader.readuntil(b"Hello")
        writer.transport.abort()
        found = await told.get()
    assert (found.prompt_tokens, found.completion_tokens, found.estimated) == (50, 7, False)


async def test_a_client_that_leaves_while_the_model_thinks_pays_for_the_thoughts() -> None:
    def answers() -> list[Answer]:
        return [found for found in gc.get_objects() if type(found) is Answer]

    def thinking() -> bool:
        return any(found.cost == Cost(unreported=240) for found in answers() if found not in others)

    others = answers()  # of other tests
    told = Told()
    async with StandIn([half(HMM * 30, then="silence")]) as standin, house(standin, hooks=told.hooks) as cfchat:
        writer = await leaving(cfchat)
        await until(thinking)
        writer.transport.abort()
        assert (await told.get()).completion_tokens == 80


async def test_a_client_that_leaves_before_the_first_word_has_asked_all_the_same() -> None:
    guard = Guard(Settings(daily_tokens_each=QUESTION))
    async with StandIn([silence()]) as standin, house(standin, guard=guard) as cfchat:
        writer = await leaving(cfchat)
        await standin.wait_requests()
        writer.close()
        await cfchat.logged(" 499 ")
        assert (await cfchat.post()).error["code"] == "daily_tokens_spent"


async def test_a_model_that_keeps_silent_until_the_deadline_was_asked() -> None:
    """It may have written all of a reply that is not streamed."""
    guard = Guard(Settings(daily_tokens=10_000))
    hurried = quicker(first_delta=0.02)
    async with StandIn([silence()] * 3) as standin, house(standin, guard=guard, change=hurried) as cfchat:
        assert (await cfchat.post()).status == 504
        assert left(guard) == 10_000 - QUESTION * len(standin.requests)


async def test_what_never_began_is_not_counted() -> None:
    guard = Guard(Settings(daily_tokens_each=QUESTION))
    async with StandIn([hang_up()] * 6) as standin, house(standin, guard=guard) as cfchat:
        assert [(await cfchat.post()).status for _ in range(2)] == [502, 502]


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 10**14, "completion_tokens": 7, "total_tokens": 10**14 + 7},
        {"completion_tokens": 10**14},
        {"total_tokens": 1e14},
        {"total_tokens": 1e14, "prompt_tokens": 50},
    ],
)
async def test_a_usage_of_more_than_was_asked_for_is_capped_and_logged(usage: object) -> None:
    guard = Guard(Settings(daily_tokens=10_000))
    wrong = reply(event("Hello") + event("", usage=usage) + DONE)
    async with StandIn([wrong, WORDS]) as standin, house(standin, guard=guard) as cfchat:
        assert (await cfchat.post(asking(100))).body == b"Hello"
        assert left(guard) >= 10_000 - 3 * QUESTION - 100
        await cfchat.logged("more tokens than were asked for")
        assert (await cfchat.post()).status == 200
        counted = numbers(cfchat)
        assert counted['cfchat_tokens_total{kind="completion"}'] <= 109
        assert counted['cfchat_tokens_total{kind="prompt"}'] <= 3 * QUESTION + 51
    assert len([line for line in cfchat.log if "more tokens than" in line]) == 1


# --- neurons --------------------------------------------------------------------------------------

LAST = event("", usage={**USAGE, "neurons": 1.25})


@pytest.mark.parametrize(
    ("events", "fields", "neurons"),
    [
        (event("Hello") + LAST, [], 1.25),
        (event("Hello", usage=USAGE) + event("", usage={"neurons": 1.25}), [], 1.25),
        (event("Hello", usage=USAGE), [("cf-ai-neurons", "0.5")], 0.5),
        (event("Hello") + LAST, [("CF-AI-Neurons", "9")], 1.25),
        (event("Hello", usage=USAGE), [("cf-ai-neurons", "1e999")], None),
        (event("Hello", usage={**USAGE, "neurons": "1"}), [("cf-ai-neurons", "+1")], None),
    ],
)
async def test_neurons_are_logged_and_counted(events: bytes, fields: Fields, neurons: float | None) -> None:
    script = reply(events + DONE, fields=fields)
    async with StandIn([script, script]) as standin, house(standin) as cfchat:
        for _ in range(2):
            assert (await cfchat.post()).body == b"Hello"
        await cfchat.logged(" POST ")
        counted = numbers(cfchat)
    assert counted["cfchat_neurons_total"] == 2 * (neurons or 0)
    lines = [line for line in cfchat.log if " POST " in line]
    assert len(lines) == 2 and all((f" neurons={neurons}" in line) is (neurons is not None) for line in lines)


async def test_neurons_of_a_whole_reply() -> None:
    script = reply(
        json.dumps({"result": {"response": {"a": 1}, "usage": USAGE}, "success": True}).encode(),
        framing="length",
        fields=[("content-type", "application/json"), ("cf-ai-neurons", "0.25")],
    )
    async with StandIn([script]) as standin, house(standin) as cfchat:
        await cfchat.post(json.dumps({"messages": HELLO, **JSON_MODE}).encode(), COMPLETIONS)
        await cfchat.logged("neurons=0.25")
