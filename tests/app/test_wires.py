"""The forms of a reply through the whole server: who gets which, how each breaks, and OpenAI's API."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial as bind
from typing import Any

import pytest
from client import parse, request
from house import HELLO, House, house, quicker
from places import STREAMS
from recorded import STREAMS as RECORDED
from recorded import load, stream_bytes
from response_events import calls_of, read_response_events, text_of
from standin import STREAM_TYPE, Exchange, StandIn, event, head_of, json_error, partial, reply, silence

from cfchat.app.routes import Settings as AppSettings
from cfchat.guard.guard import Guard, Settings
from cfchat.guard.keys import parse_keys
from cfchat.server.request import Limits
from cfchat.upstream.client import Settings as UpstreamSettings

WORDS = (
    b'data: {"response":"Hel"}\n\ndata: {"response":"lo"}\n\n'
    b'data: {"response":"","usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}\n\ndata: [DONE]\n\n'
)
HALF = b'data: {"response":"Hel"}\n\n'
GEMMA, LLAMA = "@cf/google/gemma-4-26b-a4b-it", "@cf/meta/llama-3.1-8b-instruct-fast"
OFFERED = AppSettings(models=(GEMMA, LLAMA), aliases={"gpt-4o-mini": LLAMA})
EVENT_WIRES = [
    ("/api/chatbot", "Accept: text/event-stream\r\n", HELLO),
    ("/api/chat", "", {"messages": HELLO}),
    ("/v1/chat/completions", "", {"messages": HELLO, "stream": True}),
    ("/v1/responses", "", {"input": "Hello", "stream": True}),
]
WHOLE_WIRES = [
    ("/api/chatbot", "Accept: application/json\r\n", HELLO),
    ("/v1/chat/completions", "", {"messages": HELLO}),
    ("/v1/responses", "", {"input": "Hello"}),
]
Wire = tuple[str, str, object]


async def ask(cfchat: House, wire: Wire) -> Any:
    path, fields, body = wire
    return await cfchat.post(body, path, fields)


def words_of(body: bytes) -> str:
    """The words of a reply on an event wire or a whole one."""
    if body.startswith(b"{"):
        whole = json.loads(body)
        if "output" in whole:
            return text_of(whole)
        return str(whole["choices"][0]["message"]["content"] if "choices" in whole else whole["response"])
    return "".join(map(_words_of_event, re.findall(r"^data: (\{.*)", body.decode(), re.MULTILINE)))


def _words_of_event(data: str) -> str:
    event = json.loads(data)
    if event.get("type") in ("text-delta", "response.output_text.delta"):
        return str(event["delta"])
    if choices := event.get("choices"):
        return choices[0]["delta"].get("content") or ""
    return event["response"] if isinstance(event.get("response"), str) else ""


@pytest.mark.parametrize(
    ("accept", "kind", "body"),
    [
        ("*/*", "text/event-stream", b"Hello"),
        ("text/plain", "text/plain; charset=utf-8", b"Hello"),
        ("text/event-stream", "text/event-stream", None),
        ("application/json", "application/json", None),
    ],
)
async def test_the_accept_field_decides(accept: str, kind: str, body: bytes | None) -> None:
    async with StandIn([reply(WORDS)]) as standin, house(standin) as cfchat:
        answer = await cfchat.post(fields=f"Accept: {accept}\r\n")
    assert (answer.status, answer.fields["content-type"], answer.whole) == (200, kind, True)
    assert answer.fields["x-model"] == GEMMA
    assert body is None or answer.body == body


async def test_nothing_that_fits_is_406_and_costs_nothing() -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        answer = await cfchat.post(fields="Accept: text/html\r\n")
    assert (answer.status, answer.error["code"]) == (406, "not_acceptable")


async def test_the_ai_sdk_gets_text_or_events_by_the_path_alone() -> None:
    body = {
        "id": "c1",
        "messages": [
            {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "Hi"}]},
            {"id": "m2", "role": "assistant", "parts": [{"type": "step-start"}, {"type": "text", "text": "Ho"}]},
            {"id": "m3", "role": "user", "parts": [{"type": "text", "text": "Hello"}]},
        ],
        "trigger": "submit-message",
    }
    async with StandIn([reply(WORDS)], repeat=True) as standin, house(standin) as cfchat:
        text, events = await cfchat.post(body), await cfchat.post(body, "/api/chat")
    assert text.body == b"Hello"
    assert events.fields["x-vercel-ai-ui-message-stream"] == "v1"
    assert events.body.startswith(b'data: {"type":"start",') and events.body.endswith(b"data: [DONE]\n\n")
    assert json.loads(standin.requests[1].body)["messages"][1:] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "Hello"},
    ]


async def test_deep_chat_is_understood_and_drawn() -> None:
    body = {"messages": [{"role": "user", "text": "Hi"}, {"role": "ai", "text": "Ho"}, {"role": "user", "text": "?"}]}
    async with StandIn([reply(WORDS)]) as standin, house(standin) as cfchat:
        answer = await cfchat.post(body, fields="Accept: text/event-stream\r\n")
    events = [json.loads(line[6:]) for line in answer.body.decode().split("\n\n") if line.startswith("data: {")]
    assert "".join(event["text"] for event in events) == "".join(event["response"] for event in events) == "Hello"


async def test_there_is_never_a_stream_to_resume() -> None:
    ask = b"GET /api/chat/%b/stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with StandIn([]) as standin, house(standin) as cfchat:
        known = parse(await cfchat.send(ask % b"c1"))
        assert (known.status, known.raw) == (204, b"")
        assert parse(await cfchat.send(ask % b"")).status == 404


# --- what breaks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", EVENT_WIRES, ids=lambda wire: wire[0])
async def test_an_event_reply_that_breaks_says_so_and_ends_cleanly(wire: Wire) -> None:
    async with StandIn([partial(HALF)]) as standin, house(standin) as cfchat:
        answer = await ask(cfchat, wire)
        assert answer.status == 200 and answer.whole
        assert b"Hel" in answer.body and b"The connection to the model was lost." in answer.body
        assert b'"finish' not in answer.body.replace(b'"finish_reason":null', b"")
        assert 'fault="interrupted: ' in cfchat.log[-1]


@pytest.mark.parametrize("wire", WHOLE_WIRES, ids=lambda wire: wire[0])
async def test_a_whole_reply_that_breaks_has_its_status(wire: Wire) -> None:
    async with StandIn([partial(HALF)]) as standin, house(standin) as cfchat:
        answer = await ask(cfchat, wire)
    assert (answer.status, answer.error["code"]) == (502, "upstream_interrupted")
    assert answer.fields["x-should-retry"] == "false"


@pytest.mark.parametrize("wire", EVENT_WIRES + WHOLE_WIRES, ids=lambda wire: wire[0])
async def test_an_error_before_the_first_word_is_the_same_for_all(wire: Wire) -> None:
    async with StandIn([json_error(401, 10000, "Authentication error")]) as standin, house(standin) as cfchat:
        answer = await ask(cfchat, wire)
    assert (answer.status, answer.error["code"], answer.error["type"]) == (502, "upstream_auth", "upstream_error")
    assert answer.fields["content-type"] == "application/json"


@pytest.mark.parametrize("wire", EVENT_WIRES + WHOLE_WIRES, ids=lambda wire: wire[0])
async def test_a_client_that_leaves_closes_upstream(wire: Wire) -> None:
    path, fields, body = wire
    async with StandIn([partial(HALF, then="silence")]) as standin, house(standin) as cfchat:
        _, writer = await cfchat.connect()
        writer.write(request(json.dumps(body).encode(), path, fields))
        await standin.wait_requests()
        writer.transport.abort()
        await standin.wait_closed_by_peer()
        await cfchat.logged(" 499 ")


async def begun(cfchat: House, wire: Wire, word: bytes = b"Hel") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A reply whose first word has come."""
    path, fields, body = wire
    reader, writer = await cfchat.connect()
    writer.write(request(json.dumps(body).encode(), path, fields))
    await reader.readuntil(word)
    return reader, writer


@pytest.mark.parametrize("wire", EVENT_WIRES, ids=lambda wire: wire[0])
async def test_events_are_ended_cleanly_by_a_server_that_stops(wire: Wire) -> None:
    """A cut would make fetch-event-source post the whole chat again."""
    async with StandIn([partial(HALF, then="silence")]) as standin, house(standin) as cfchat:
        reader, writer = await begun(cfchat, wire)
        await cfchat.server.abort()
        rest = await reader.read()
        writer.close()
    assert b"This server is stopping." in rest and rest.endswith(b"\r\n0\r\n\r\n")


async def test_text_is_cut_by_a_server_that_stops() -> None:
    async with StandIn([partial(HALF, then="silence")]) as standin, house(standin) as cfchat:
        reader, writer = await begun(cfchat, ("/api/chatbot", "", HELLO))
        await cfchat.server.abort()
        assert await reader.read() == b"\r\n"
        writer.close()


@pytest.mark.parametrize("wire", EVENT_WIRES, ids=lambda wire: wire[0])
async def test_a_silent_model_has_a_heartbeat(wire: Wire) -> None:
    beaten = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(head_of(200, [STREAM_TYPE]) + HALF)
        await beaten.wait()
        await exchange.send(WORDS)
        exchange.close()

    async with StandIn([script]) as standin, house(standin, limits=Limits(heartbeat=0.02)) as cfchat:
        reader, writer = await begun(cfchat, wire)
        await reader.readuntil(b": still there\n\n\r\n")
        await reader.readuntil(b": still there\n\n\r\n")
        beaten.set()
        rest = await reader.read()
        writer.close()
    assert b"Hel" in rest and rest.endswith(b"\r\n0\r\n\r\n")


HEARTBEAT = b": still there\n\n"
BEATING = Limits(heartbeat=0.01)


@asynccontextmanager
async def late(cfchat: House, wire: Wire) -> AsyncIterator[tuple[asyncio.StreamReader, bytes]]:
    """A reply of which nothing but the head and a heartbeat has come."""
    path, fields, body = wire
    reader, writer = await cfchat.connect()
    writer.write(request(json.dumps(body).encode(), path, fields))
    begin = await reader.readuntil(HEARTBEAT + b"\r\n")
    assert begin.startswith(b"HTTP/1.1 200 ") and begin.count(b"data:") == 0
    yield reader, begin
    writer.close()


@pytest.mark.parametrize("wire", EVENT_WIRES, ids=lambda wire: wire[0])
async def test_words_that_are_late_come_behind_heartbeats(wire: Wire) -> None:
    beaten = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await beaten.wait()
        await reply(WORDS)(exchange)

    async with (
        StandIn([script]) as standin, house(standin, limits=BEATING) as cfchat, late(cfchat, wire) as (reader, begin),
    ):  # fmt: skip
        beaten.set()
        answer = parse(begin + await reader.read())
    assert answer.fields["content-type"] == "text/event-stream" and answer.whole
    assert "x-model" not in answer.fields  # the model was not known yet
    assert words_of(answer.body) == "Hello"


@pytest.mark.parametrize("wire", EVENT_WIRES, ids=lambda wire: wire[0])
async def test_what_fails_behind_a_heartbeat_is_told_by_an_event(wire: Wire) -> None:
    """A model that refuses late, and a turn that never comes."""
    beaten = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await beaten.wait()
        await json_error(401, 10000, "Authentication error")(exchange)

    one = AppSettings(max_streams=1, queue_timeout=0.05)
    async with (
        StandIn([script]) as standin, house(standin, limits=BEATING, app=one) as cfchat,
        late(cfchat, wire) as (reader, begin), late(cfchat, wire) as (waiting, waiting_begin),
    ):  # fmt: skip
        full = parse(waiting_begin + await waiting.read())
        beaten.set()
        refused = parse(begin + await reader.read())
    assert_nothing_but_error(full, b"Too many conversations at once.")
    assert_nothing_but_error(refused, b"The server is not set up correctly.")


@pytest.mark.parametrize("wire", EVENT_WIRES, ids=lambda wire: wire[0])
async def test_tries_that_all_run_out_of_time_behind_heartbeats_end_with_an_event(wire: Wire) -> None:
    means = {"limits": BEATING, "change": quicker(first_delta=0.03)}
    async with StandIn([silence()], repeat=True) as standin, house(standin, **means) as cfchat:  # type: ignore
        answer = await ask(cfchat, wire)
        assert len(standin.requests) == 3 and " 200 " in cfchat.log[-1] and "code=upstream_timeout" in cfchat.log[-1]
    assert_nothing_but_error(answer, b"The model took too long")


def assert_nothing_but_error(answer: Any, message: bytes) -> None:
    assert (answer.status, answer.whole, answer.body.startswith(HEARTBEAT)) == (200, True, True)
    body = answer.body.replace(HEARTBEAT, b"")
    if b"response.created" in body:
        failed = read_response_events(body)
        assert (failed["output"], failed["model"]) == ([], GEMMA) and message.decode() in failed["error"]["message"]
        return
    events = body.removesuffix(b"data: [DONE]\n\n").split(b"\n\n")
    assert len(events) == 2 and b'"error' in events[0] and message in events[0]


@pytest.mark.parametrize("wire", [("/api/chatbot", "", HELLO), *WHOLE_WIRES], ids=str)
async def test_a_wire_without_heartbeats_keeps_its_status(wire: Wire) -> None:
    means = {"limits": Limits(heartbeat=0.01), "change": quicker(first_delta=0.05)}
    async with StandIn([silence()], repeat=True) as standin, house(standin, **means) as cfchat:  # type: ignore
        answer = await ask(cfchat, wire)
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")


async def test_the_bare_text_has_none() -> None:
    means = {"limits": Limits(heartbeat=0.01), "change": quicker(between_deltas=0.2)}
    async with StandIn([partial(HALF, then="silence")]) as standin, house(standin, **means) as cfchat:  # type: ignore
        answer = await cfchat.post()
    assert (answer.body, answer.whole) == (b"Hel", False)


# --- thoughts ------------------------------------------------------------------------------------

SENDING = AppSettings(thoughts=True)
IN_FIELD = b'data: {"choices":[{"delta":{"reasoning_content":"H"}}]}\n\ndata: {"response":"","reasoning":"m."}\n\n'
IN_TEXT = b'data: {"response":"<think>Hm"}\n\ndata: {"response":".</think>\\n\\n"}\n\n'
BROUGHT = {
    "/api/chatbot": r'"reasoning":"([^"]*)"',
    "/api/chat": r'"reasoning-delta","id":"r1","delta":"([^"]*)"',
    "/v1/chat/completions": r'"reasoning_content":"([^"]*)"',
    "/v1/responses": r'"reasoning_text","text":"([^"]*)"\}\],"status":"completed"\},\{',  # in the last event alone
}


@pytest.mark.parametrize("thoughts", [IN_FIELD, IN_TEXT], ids=["field", "tag"])
@pytest.mark.parametrize("wire", EVENT_WIRES + WHOLE_WIRES, ids=str)
async def test_thoughts_of_both_kinds_come_out_alike(wire: Wire, thoughts: bytes) -> None:
    async with StandIn([reply(thoughts + WORDS)]) as standin, house(standin, app=SENDING) as cfchat:
        answer = await ask(cfchat, wire)
    body = answer.body.decode()
    assert "".join(re.findall(BROUGHT[wire[0]], body)) == "Hm."
    assert answer.whole and words_of(answer.body) == "Hello"


@pytest.mark.parametrize("wire", EVENT_WIRES, ids=lambda wire: wire[0])
async def test_the_first_thought_begins_the_reply_and_ends_the_tries(wire: Wire) -> None:
    """Where thoughts are hidden the same break costs nothing but another try."""
    told = asyncio.Event()

    async def breaks(exchange: Exchange) -> None:
        await exchange.send(head_of(200, [STREAM_TYPE]) + IN_FIELD)
        await told.wait()
        exchange.abort()

    async with StandIn([breaks, breaks, reply(WORDS)]) as standin:
        async with house(standin, app=SENDING) as cfchat:
            reader, writer = await begun(cfchat, wire, b'm."')
            told.set()
            rest = await reader.read()
            writer.close()
        assert len(standin.requests) == 1
        async with house(standin) as cfchat:
            tried_again = await ask(cfchat, wire)
    assert b"The reply was interrupted." in rest and rest.endswith(b"\r\n0\r\n\r\n")
    assert b"interrupted" not in tried_again.body and b'm."' not in tried_again.body


@pytest.mark.parametrize("wire", EVENT_WIRES, ids=lambda wire: wire[0])
async def test_thoughts_without_an_answer_end_with_an_error(wire: Wire) -> None:
    done = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(head_of(200, [STREAM_TYPE]) + IN_FIELD)
        await done.wait()
        await exchange.send(b'data: {"response":"","finish_reason":"length"}\n\ndata: [DONE]\n\n')
        exchange.close()

    async with StandIn([script]) as standin, house(standin, app=SENDING) as cfchat:
        reader, writer = await begun(cfchat, wire, b'm."')
        done.set()
        rest = await reader.read()
        writer.close()
    assert b"used its whole budget thinking" in rest and rest.endswith(b"\r\n0\r\n\r\n")
    assert b'"finish' not in rest.replace(b'"finish_reason":null', b"")


async def test_the_bare_text_has_no_place_for_thoughts() -> None:
    async with StandIn([partial(IN_FIELD), reply(IN_FIELD + WORDS)]) as standin, house(standin, app=SENDING) as cfchat:
        answer = await cfchat.post()
    assert (answer.body, len(standin.requests)) == (b"Hello", 2)


async def test_the_effort_of_a_model_is_asked_for() -> None:
    async with StandIn([reply(WORDS)], repeat=True) as standin, house(standin, app=OFFERED) as cfchat:
        for more in ({"reasoning_effort": "high"}, {"reasoning": {"effort": "none"}}):
            assert (await complete(cfchat, **more)).status == 200
        refused = await complete(cfchat, model=LLAMA, reasoning_effort="low")
    switches = [json.loads(exchange.body)["chat_template_kwargs"] for exchange in standin.requests]
    assert switches == [{"enable_thinking": True}, {"enable_thinking": False}]
    assert (refused.status, refused.error["param"]) == (400, "reasoning_effort")


# --- OpenAI's API --------------------------------------------------------------------------------


async def complete(cfchat: House, **fields: object) -> Any:
    return await cfchat.post({"messages": HELLO, **fields}, "/v1/chat/completions")


async def test_a_completion() -> None:
    async with StandIn([reply(WORDS)], repeat=True) as standin, house(standin, app=OFFERED) as cfchat:
        whole = json.loads((await complete(cfchat, model="gpt-4o-mini")).body)
        stream = await complete(cfchat, stream=True, stream_options={"include_usage": True})
    assert standin.requests[0].target.endswith(f"/ai/run/{LLAMA}") and whole["model"] == LLAMA
    assert whole["choices"][0]["message"]["content"] == "Hello"
    chunks = [json.loads(event[6:]) for event in stream.body.decode().split("\n\n")[:-2]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == "Hello"
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["total_tokens"]) == ([], 7)


async def test_a_tool_is_asked_for_called_and_answered() -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    recorded = (STREAMS / "openai_tool_call.sse").read_bytes()
    async with StandIn([reply(recorded), reply(WORDS)]) as standin, house(standin) as cfchat:
        called = json.loads((await complete(cfchat, tools=[tool], tool_choice="required")).body)["choices"][0]
        (call,) = called["message"]["tool_calls"]
        result = {"role": "tool", "tool_call_id": call["id"], "content": "rain"}
        body = {"messages": [*HELLO, called["message"], result], "tools": [tool]}
        said = json.loads((await cfchat.post(body, "/v1/chat/completions")).body)
    assert called["finish_reason"] == "tool_calls"
    assert call["function"] == {"name": "get_weather", "arguments": '{"city":"Paris"}'}
    first, second = (json.loads(request.body) for request in standin.requests)
    assert (first["tools"], first["tool_choice"]) == ([tool], "required")
    assert second["messages"][2:] == [{"role": "assistant", "content": "", "tool_calls": [call]}, result]
    assert said["choices"][0]["message"]["content"] == "Hello"


async def test_calls_are_streamed() -> None:
    recorded = (STREAMS / "openai_tool_call.sse").read_bytes()
    tool = {"type": "function", "function": {"name": "get_weather"}}
    async with StandIn([reply(recorded)]) as standin, house(standin) as cfchat:
        answer = await complete(cfchat, tools=[tool], stream=True)
    chunks = [json.loads(event[6:])["choices"][0] for event in answer.body.decode().split("\n\n")[:-2]]
    calls = [call for chunk in chunks for call in chunk["delta"].get("tool_calls", ())]
    assert "".join(call["function"]["arguments"] for call in calls) == '{"city":"Paris"}'
    assert chunks[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("name", [name for name in RECORDED if load("streams", name).get("model")])
async def test_every_wire_says_the_same_of_what_models_send(name: str) -> None:
    expected = load("streams", name)
    script = reply(stream_bytes(name), fields=[("Content-Type", expected.get("content_type", STREAM_TYPE[1]))])
    change = bind(UpstreamSettings._replace, models=(expected["model"],))
    async with StandIn([script], repeat=True) as standin, house(standin, change=change) as cfchat:
        answers = [await cfchat.post(body, path, fields) for path, fields, body in EVENT_WIRES]
        whole = await complete(cfchat)
    if not expected["text"]:
        assert {answer.status for answer in [*answers, whole]} == {502}
        return
    for answer in answers:
        assert words_of(answer.body) == expected["text"]
    assert json.loads(whole.body)["choices"][0]["message"]["content"] == expected["text"]


@pytest.mark.parametrize("model", [GEMMA, LLAMA, "@cf/qwen/qwq-32b"])
@pytest.mark.parametrize("value", [{"a": 1}, '{"a":1}'])
async def test_a_json_reply_is_had_whole_and_passed_on(model: str, value: object) -> None:
    said = {"result": {"response": value, "usage": {"total_tokens": 3}}, "success": True}
    script = reply(json.dumps(said).encode(), framing="length", fields=[("Content-Type", "application/json")])
    change = bind(UpstreamSettings._replace, models=(model,))
    async with StandIn([script]) as standin, house(standin, change=change) as cfchat:
        answer = json.loads((await complete(cfchat, response_format={"type": "json_object"})).body)
    assert json.loads(standin.requests[0].body)["stream"] is False
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"a": 1}


@pytest.mark.parametrize(("fields", "asked"), [({}, {GEMMA, LLAMA}), ({"stop": "x"}, {GEMMA})])
async def test_who_does_not_take_a_field_is_not_fallen_back_on(fields: dict[str, object], asked: set[str]) -> None:
    busy = json_error(429, 3040, "Capacity exceeded")

    def change(settings: UpstreamSettings) -> UpstreamSettings:
        return settings._replace(models=(GEMMA, LLAMA))

    async with StandIn([busy], repeat=True) as standin, house(standin, app=OFFERED, change=change) as cfchat:
        await complete(cfchat, **fields)
    assert {request.target.rpartition("/run/")[2] for request in standin.requests} == asked


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": "gpt-5"}, 404, "model_not_found", "model"),
        ({"model": LLAMA, "stop": "x"}, 400, "invalid_option", "stop"),
        ({"n": 2}, 400, "invalid_option", "n"),
        ({"messages": []}, 400, "invalid_messages", "messages"),
    ],
)
async def test_what_an_sdk_makes_its_exceptions_of(
    fields: dict[str, object], status: int, code: str, param: str
) -> None:
    async with StandIn([]) as standin, house(standin, app=OFFERED) as cfchat:
        answer = await complete(cfchat, **fields)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, param)


# --- OpenAI's Responses --------------------------------------------------------------------------


async def respond(cfchat: House, **fields: object) -> Any:
    return await cfchat.post({"input": "Hello", **fields}, "/v1/responses")


async def test_a_response() -> None:
    async with StandIn([reply(WORDS)], repeat=True) as standin, house(standin, app=OFFERED) as cfchat:
        whole = json.loads((await respond(cfchat, model="gpt-4o-mini", max_output_tokens=50)).body)
        stream = await respond(cfchat, stream=True, instructions="Be brief.", store=False, previous_response_id=None)
    first, second = (json.loads(request.body) for request in standin.requests)
    assert standin.requests[0].target.endswith(f"/ai/run/{LLAMA}") and whole["model"] == LLAMA
    assert (first["max_tokens"], whole["max_output_tokens"]) == (50, 50)
    assert (text_of(whole), whole["usage"]["total_tokens"]) == ("Hello", 7)
    assert second["messages"][0]["content"] == "You are a friendly assistant\n\nBe brief."
    response = read_response_events(stream.body)
    assert (text_of(response), response["instructions"], response["model"]) == ("Hello", "Be brief.", GEMMA)
    assert response["id"] == f"resp_{stream.fields['x-request-id']}"


async def test_a_tool_is_called_and_answered_by_items() -> None:
    tool = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}, "strict": True}
    recorded = (STREAMS / "openai_tool_call.sse").read_bytes()
    async with StandIn([reply(recorded), reply(WORDS)]) as standin, house(standin) as cfchat:
        called = await respond(cfchat, tools=[tool], tool_choice="required", stream=True)
        response = read_response_events(called.body)
        ((call_id, name, arguments),) = calls_of(response)
        result = {"type": "function_call_output", "call_id": call_id, "output": "rain"}
        said = json.loads((await respond(cfchat, tools=[tool], input=[*HELLO, *response["output"], result])).body)
    assert (name, arguments, response["tools"]) == ("get_weather", '{"city":"Paris"}', [tool])
    first, second = (json.loads(request.body) for request in standin.requests)
    function = {"name": "get_weather", "parameters": {"type": "object"}, "strict": True}
    assert (first["tools"], first["tool_choice"]) == ([{"type": "function", "function": function}], "required")
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    assert second["messages"][2:] == [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_call_id": call_id},
    ]
    assert text_of(said) == "Hello"


async def test_a_format_makes_the_model_write_json() -> None:
    said = {"result": {"response": {"a": 1}, "usage": {"total_tokens": 3}}, "success": True}
    script = reply(json.dumps(said).encode(), framing="length", fields=[("Content-Type", "application/json")])
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    async with StandIn([script]) as standin, house(standin, app=OFFERED) as cfchat:
        response = read_response_events((await respond(cfchat, text={"format": form}, stream=True)).body)
    asked = json.loads(standin.requests[0].body)["response_format"]
    assert asked == {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}}
    assert json.loads(text_of(response)) == {"a": 1} and response["text"] == {"format": form}


async def test_a_reply_that_is_cut_at_its_length_is_incomplete() -> None:
    cut = HALF + b'data: {"response":"","finish_reason":"length"}\n\ndata: [DONE]\n\n'
    async with StandIn([reply(cut)], repeat=True) as standin, house(standin) as cfchat:
        whole = json.loads((await respond(cfchat)).body)
        streamed = read_response_events((await respond(cfchat, stream=True)).body)
    for response in (whole, streamed):
        assert (response["status"], response["incomplete_details"]["reason"]) == ("incomplete", "max_output_tokens")


async def test_what_the_content_filter_cuts_is_said_on_every_wire() -> None:
    cut = b'data: {"choices":[{"delta":{"content":"Hel"},"finish_reason":"content_filter"}]}\n\ndata: [DONE]\n\n'
    async with StandIn([reply(cut)], repeat=True) as standin, house(standin) as cfchat:
        bodies = [(await ask(cfchat, wire)).body for wire in EVENT_WIRES + WHOLE_WIRES]
    assert all(re.search(rb'"(?:finish_?reason|reason)":"content[_-]filter"', body, re.IGNORECASE) for body in bodies)


async def test_a_streamed_response_is_bounded_as_a_whole_one_is() -> None:
    """Its last event has all of it, so all of it is kept. Chunks are not, and go on."""
    long = b"".join(event("x" * 40_000) for _ in range(8)) + b"data: [DONE]\n\n"
    async with StandIn([reply(long)], repeat=True) as standin, house(standin) as cfchat:
        response = read_response_events((await respond(cfchat, stream=True)).body)
        assert (response["status"], 0 < len(text_of(response)) < 320_000) == ("failed", True)
        assert (await respond(cfchat)).status == 502
        assert words_of((await complete(cfchat, stream=True)).body) == "x" * 320_000


async def test_no_response_is_kept() -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        for method in ("GET", "DELETE"):
            answer = await get(cfchat, "/v1/responses/resp_1", method=method)
            assert (answer.status, answer.error["code"]) == (404, "response_not_found")
        referred = await respond(cfchat, previous_response_id="resp_1")
        preflight = await get(
            cfchat,
            "/v1/responses/resp_1",
            "Origin: https://a.example\r\nAccess-Control-Request-Method: DELETE\r\n",
            "OPTIONS",
        )
    assert (referred.status, referred.error["code"]) == (400, "unsupported_state")
    assert "DELETE" in preflight.fields["access-control-allow-methods"]


async def get(cfchat: House, path: str, fields: str = "", method: str = "GET") -> Any:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n"
    return parse(await cfchat.send(head.encode()))


async def test_models_are_listed_and_found_escaped_or_not() -> None:
    async with StandIn([]) as standin, house(standin, app=OFFERED) as cfchat:
        listed = json.loads((await get(cfchat, "/v1/models")).body)
        found = [
            json.loads((await get(cfchat, f"/v1/models/{name}")).body)["id"]
            for name in (GEMMA, GEMMA.replace("/", "%2F"), GEMMA.replace("/", "%2f").replace("@", "%40"), "gpt-4o-mini")
        ]
        missing = await get(cfchat, "/v1/models/gpt-5")
    assert [model["id"] for model in listed["data"]] == [GEMMA, LLAMA, "gpt-4o-mini"]
    assert found == [GEMMA, GEMMA, GEMMA, "gpt-4o-mini"]
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/models", "GET, HEAD, OPTIONS"),
        ("/v1/models/a/b", "GET, HEAD, OPTIONS"),
        ("/api/chat", "POST, OPTIONS"),
        ("/v1/responses", "POST, OPTIONS"),
        ("/v1/responses/resp_1", "GET, DELETE, HEAD, OPTIONS"),
    ],
)
async def test_the_methods_of_each_route(path: str, allow: str) -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        asked = await get(cfchat, path, method="OPTIONS")
        wrong = await get(cfchat, path, method="PUT")
    assert (asked.status, asked.fields["allow"]) == (204, allow)
    assert (wrong.status, wrong.fields["allow"]) == (405, allow)


async def test_head_is_get_without_its_body() -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        head, whole = await get(cfchat, "/v1/models", method="HEAD"), await get(cfchat, "/v1/models")
    assert head.raw == b"" and head.fields["content-length"] == str(len(whole.raw))


async def test_a_key_opens_the_models_and_the_responses_too() -> None:
    guard = Guard(Settings(keys=parse_keys("laptop 0123456789abcdef0123")))
    async with StandIn([]) as standin, house(standin, guard=guard) as cfchat:
        paths = ("/v1/models", f"/v1/models/{GEMMA}", "/v1/responses/resp_1")
        shut = [*[(await get(cfchat, path)).status for path in paths], (await respond(cfchat)).status]
        opened = await get(cfchat, "/v1/models", "Authorization: Bearer 0123456789abcdef0123\r\n")
    assert (shut, opened.status) == ([401] * 4, 200)


async def test_a_connection_is_kept_behind_a_get() -> None:
    get = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with StandIn([]) as standin, house(standin) as cfchat:
        received = await cfchat.send(get + get + last)
    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert received.count(b"Connection: close") == 1


async def test_silence_is_a_504_for_an_sdk() -> None:
    async with StandIn([silence()], repeat=True) as standin, house(standin, change=quicker(first_delta=0.05)) as cfchat:
        answer = await complete(cfchat, stream=True)
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
