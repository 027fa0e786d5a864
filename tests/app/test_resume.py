"""Replies that outlive their connections, through the whole server: joined, stopped, replayed, never paid for twice."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from client import Reply, parse, request, unchunk, until
from house import HELLO, House, house
from standin import Model, StandIn, json_error, partial, silence, words

from cfchat.app.hooks import Hooks
from cfchat.app.hooks import Reply as Finished
from cfchat.app.kept.replies import Keeping
from cfchat.app.kept.resume import read_key
from cfchat.app.routes import Settings
from cfchat.conversation.model import Conversation, Message, Options
from cfchat.errors import BadIdempotencyKey
from cfchat.guard.guard import Guard
from cfchat.guard.guard import Settings as GuardSettings
from cfchat.guard.keys import parse_keys
from cfchat.guard.limits import Rate
from cfchat.server.request import Request
from cfchat.wire.sse import SSEParser

CHAT = "0123456789abcdef"
KEPT = Settings(keeping=Keeping(60))
EVENTS, WHOLE, TEXT = "Accept: text/event-stream\r\n", "Accept: application/json\r\n", "Accept: text/plain\r\n"
KEY = "Idempotency-Key: 6f9619ff-8b86-d011-b42d-00cf4fc964ff\r\n"
ANN, BOB = "Authorization: Bearer ann-s-key-ann-s-key\r\n", "Authorization: Bearer bob-s-key-bob-s-key\r\n"
KEYS = parse_keys("ann ann-s-key-ann-s-key\nbob bob-s-key-bob-s-key\n")


def get(chat: str = CHAT, fields: str = "", method: str = "GET") -> bytes:
    return f"{method} /api/chat/{chat}/stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n".encode()


def post(path: str = "/api/chat", fields: str = "", chat: str = CHAT) -> bytes:
    return request(json.dumps({"id": chat, "messages": HELLO}).encode(), path, fields)


async def stop(cfchat: House, path: str, fields: str = "") -> Reply:
    return parse(await cfchat.send(request(b"", path, fields)))


def data_of(body: bytes) -> list[Any]:
    return [json.loads(event.data) for event in SSEParser().feed(body) if event.data[:1] == "{"]


def text_of(body: bytes) -> str:
    return "".join(data.get("delta", data.get("text", "")) for data in data_of(body))


def name_of(body: bytes) -> str:
    """The name of a reply in the ids of its events."""
    return SSEParser().feed(body)[0].id.partition(".")[0]


class Client:
    """A client that reads as far as a test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._received = b""

    async def until(self, text: str) -> bytes:
        while text.encode() not in self._received:
            piece = await self._reader.read(1 << 16)
            assert piece, self._received
            self._received += piece
        return self._received

    async def rest(self) -> Reply:
        self._received += await self._reader.read()
        return parse(self._received)

    async def leave(self) -> None:
        self._writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def asked(cfchat: House, data: bytes) -> AsyncIterator[Client]:
    reader, writer = await cfchat.connect()
    writer.write(data)
    yield Client(reader, writer)
    writer.transport.abort()


def nothing_runs(cfchat: House) -> bool:
    return cfchat.app.streams == (0, 0) and not cfchat.upstream.pool.state.lent_out and not cfchat.app.waiting.size


# --- a chat's stream ------------------------------------------------------------------------------


async def test_a_chat_can_be_joined_wherever_it_was_cut() -> None:
    """From its very start, with the same message, however often."""
    said = ["Hel", "lo ", "世界", "!"]
    models = [Model() for _ in range(len(said) + 1)]
    async with StandIn(models) as standin, house(standin, app=KEPT) as it:
        for cut, model in enumerate(models):
            async with asked(it, post()) as client:
                await standin.wait_requests(cut + 1)
                for word in said[:cut]:
                    model.say(word)
                    await client.until(json.dumps(word)[1:-1] if word.isascii() else word)
            async with asked(it, get()) as again:
                for word in said[cut:]:
                    model.say(word)
                model.end()
                joined = await again.rest()
            replayed = parse(await it.send(get()))
            assert joined.whole and text_of(joined.body) == "".join(said)
            assert data_of(replayed.body) == data_of(joined.body)
            first = data_of(joined.body)[0]
            assert first["type"] == "start" and first["messageId"].startswith("msg_")
        assert joined.fields["x-vercel-ai-ui-message-stream"] == "v1" and "x-model" in joined.fields
        await until(lambda: nothing_runs(it))
    assert len(standin.requests) == len(models)
    assert sum(" resumed=" in line for line in it.log) == 2 * len(models)


async def test_there_is_nothing_to_join_under_another_name() -> None:
    async with StandIn([words("Hi")], repeat=True) as standin, house(standin, app=KEPT) as it:
        await it.send(post())
        for chat in ("0123456789abcdeF", CHAT[:-1], "a/b", "%00" * 16, "..%2F" * 4, "x" * 129, "ü"):
            assert parse(await it.send(get(chat.encode("ascii", "ignore").decode() or "-"))).status == 204
        for chat in ("short", "x" * 129, "0123456789abcde/", "0123456789 abcdef", ""):
            await it.send(post(chat=chat))
        for body in ({"id": 1234567890123456}, {"id": None}, {"id": [CHAT]}, {}):
            await it.post({**body, "messages": HELLO}, "/api/chat")
        assert it.app.kept[:2] == (0, 1)
        colon = "a:b:c:d:e:f:g:h:i"
        await it.send(post(chat=colon))
        assert parse(await it.send(get(colon.replace(":", "%3A")))).status == 200


async def test_head_asks_whether_there_is_a_stream() -> None:
    async with StandIn([model := Model()]) as standin, house(standin, app=KEPT) as it:
        assert parse(await it.send(get(method="HEAD"))).status == 204
        async with asked(it, post()) as client:
            model.say("Hel")
            await client.until("Hel")
            head = parse(await it.send(get(method="HEAD")))
            assert (head.status, head.raw) == (200, b"") and head.fields["content-type"] == "text/event-stream"
            model.end()
            await client.rest()


async def test_only_so_many_may_read() -> None:
    two = Settings(keeping=Keeping(60, readers=2))
    async with (
        StandIn([model := Model()]) as standin,
        house(standin, app=two) as it,
        asked(it, post()) as client,
        asked(it, get()) as second,
    ):
        model.say("Hel")
        await client.until("Hel")
        await second.until("Hel")
        third = parse(await it.send(get()))
        assert (third.status, third.error["code"], "retry-after" in third.fields) == (429, "too_many_readers", True)
        await second.leave()
        await it.logged(" 499 ")
        async with asked(it, get()) as fourth:
            model.end()
            assert text_of((await fourth.rest()).body) == text_of((await client.rest()).body) == "Hel"


async def test_a_reply_belongs_to_the_label_of_its_key() -> None:
    guard = Guard(GuardSettings(keys=KEYS))
    async with StandIn([model := Model()]) as standin, house(standin, app=KEPT, guard=guard) as it:
        async with asked(it, post(fields=ANN)) as client:
            model.say("Hel")
            await client.until("Hel")
            assert parse(await it.send(get(fields=BOB))).status == 204
            assert parse(await it.send(get())).status == 401
            assert (await stop(it, f"/api/chat/{CHAT}/stop")).status == 401
            assert (await stop(it, f"/api/chat/{CHAT}/stop", BOB)).body == b'{"success":true}\n'
            model.say("lo")
            model.end()
            assert text_of((await client.rest()).body) == "Hello"
        assert text_of(parse(await it.send(get(fields=ANN))).body) == "Hello"


async def test_joining_counts_for_the_rate_and_not_for_tokens() -> None:
    guard = Guard(GuardSettings(rate=Rate(3, 60), daily_tokens=60))
    usage = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
    limited = Settings(keeping=Keeping(60))
    async with StandIn([model := Model()]) as standin, house(standin, app=limited, guard=guard) as it:
        async with asked(it, post(fields=KEY)) as client:
            model.say("Hi")
            model.end(usage=usage)
            assert (await client.rest()).whole
        assert parse(await it.send(get())).fields["ratelimit"].startswith('"requests";r=1')
        assert text_of(parse(await it.send(post(fields=KEY))).body) == "Hi"
        assert parse(await it.send(get())).error["code"] == "rate_limited"


# --- events ---------------------------------------------------------------------------------------


async def test_events_go_on_behind_the_last_one() -> None:
    said = ["Hel", "lo", " wor", "ld"]
    models = [Model() for _ in said]
    async with StandIn(models) as standin, house(standin, app=KEPT) as it:
        for cut, model in enumerate(models, 1):
            ask = post("/api/chatbot", EVENTS)
            async with asked(it, ask) as client:
                for word in said[:cut]:
                    model.say(word)
                    received = await client.until(f'"{word}"')
            events = SSEParser().feed(unchunk(received.partition(b"\r\n\r\n")[2] + b"0\r\n\r\n"))
            last = events[-1].id
            name, _, number = last.partition(".")
            assert len(name) == 32 and number == str(cut)
            async with asked(it, post("/api/chatbot", f"{EVENTS}Last-Event-ID: {last}\r\n")) as again:
                for word in said[cut:]:
                    model.say(word)
                model.end()
                rest = await again.rest()
            assert "".join(json.loads(event.data)["text"] for event in events) + text_of(rest.body) == "".join(said)
            assert rest.body.endswith(b"data: [DONE]\n\n")
    assert len(standin.requests) == len(said)


@pytest.mark.parametrize("field", ["x", f"{'0' * 32}.1", "{}.99", f"{'0' * 32}.", "٣", f"{'0' * 32}.1.1"])
async def test_an_unknown_last_event_is_an_ordinary_question(field: str) -> None:
    async with StandIn([words("Hi")], repeat=True) as standin, house(standin, app=KEPT) as it:
        first = name_of((await it.post(fields=EVENTS)).body)
        field = field.replace("{}", first)
        data = request(json.dumps(HELLO).encode(), fields=f"{EVENTS}Last-Event-ID: ").partition(b"Last-Event-ID: ")
        answer = parse(await it.send(data[0] + data[1] + field.encode() + b"\r\n" + data[2]))
        assert text_of(answer.body) == "Hi" and name_of(answer.body) != first


async def test_the_id_of_an_event_stands_behind_its_data() -> None:
    """fetch-event-source takes an id with its line: if the data came later, a cut between the two would lose it."""
    async with StandIn([words("Hi", " you")]) as standin, house(standin, app=KEPT) as it:
        body = (await it.post(fields=EVENTS)).body
    assert re.fullmatch(rb'(?s)data: \{"response":"Hi.*"\}\nid: [0-9a-f]{32}\.1\n\n.*', body)


async def test_the_events_of_another_cannot_be_joined() -> None:
    guard = Guard(GuardSettings(keys=KEYS))
    async with StandIn([words("Ann"), words("Bob")]) as standin, house(standin, app=KEPT, guard=guard) as it:
        first = await it.post(fields=EVENTS + ANN)
        place = f"Last-Event-ID: {SSEParser().feed(first.body)[0].id}\r\n"
        assert text_of((await it.post(fields=EVENTS + BOB + place)).body) == "Bob"
        rest = await it.post(fields=EVENTS + ANN + place)
        assert text_of(rest.body) == "" and rest.body.endswith(b"data: [DONE]\n\n")


# --- responses ------------------------------------------------------------------------------------

RESPOND = request(b'{"input": "Hello", "stream": true}', "/v1/responses")


def get_response(name: str, query: str = "stream=true", method: str = "GET") -> bytes:
    return f"{method} /v1/responses/{name}?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()


async def test_a_response_goes_on_behind_any_event() -> None:
    async with StandIn([model := Model()]) as standin, house(standin, app=KEPT) as it:
        async with asked(it, RESPOND) as client:
            model.say("Hel")
            received = await client.until("Hel")
        name = received.partition(b'"id":"')[2].partition(b'"')[0].decode()
        async with asked(it, get_response(name)) as again:
            await again.until("Hel")
            model.say("lo")
            model.end()
            whole = data_of((await again.rest()).body)
        assert name.startswith("resp_") and [event["sequence_number"] for event in whole] == [*range(len(whole))]
        assert "".join(event["delta"] for event in whole if event["type"] == "response.output_text.delta") == "Hello"
        assert whole[-1]["type"] == "response.completed" and whole[-1]["response"]["id"] == name
        for after in range(len(whole)):
            rest = parse(await it.send(get_response(name, f"stream=true&starting_after={after}")))
            assert data_of(rest.body) == whole[after + 1 :]
        for query in ("", "stream=false", "starting_after=1"):
            error = parse(await it.send(get_response(name, query))).error
            assert error["code"] == "response_not_found" and "stream=true" in error["message"]
        assert parse(await it.send(get_response(name, "stream=true&starting_after=x"))).status == 400
        assert parse(await it.send(get_response("resp_0000000000000000"))).status == 404
        assert parse(await it.send(get_response(name, method="HEAD"))).raw == b""
        assert parse(await it.send(get_response(name, method="DELETE"))).status == 404
        assert len(standin.requests) == 1


async def test_no_log_says_what_a_reply_can_be_read_by() -> None:
    async with StandIn([words("Hello")], repeat=True) as standin, house(standin, app=KEPT) as it:
        response = data_of(parse(await it.send(RESPOND)).body)[0]["response"]["id"]
        events = name_of(parse(await it.send(post("/api/chatbot", EVENTS))).body)
        await it.send(post())
        for asking in (get_response(response), get_response(response, method="DELETE"), get()):
            await it.send(asking)
        for path in (f"/v1/responses/{response}/cancel", f"/api/chatbot/{events}/stop", f"/api/chat/{CHAT}/stop"):
            await stop(it, path)
        lines = [line for line in it.log if "first_ms=" in line]
    assert len(lines) == 9 and len(response) == 5 + 32
    names = (response.removeprefix("resp_"), events, CHAT)
    assert [name for name in names if name in "".join(lines)] == []
    assert any("POST /api/chat/*/stop 200" in line for line in lines)


# --- stop -----------------------------------------------------------------------------------------

ENDS = [
    ("/api/chat", "", f"/api/chat/{CHAT}/stop"),
    ("/api/chatbot", EVENTS, "/api/chatbot/REPLY/stop"),
    ("/v1/responses", "", "/v1/responses/REPLY/cancel"),
]


@pytest.mark.parametrize(("path", "fields", "stops"), ENDS)
async def test_a_stop_closes_the_call_to_the_model_and_ends_the_reply_as_its_form_does(
    path: str, fields: str, stops: str
) -> None:
    async with StandIn([model := Model()]) as standin, house(standin, app=KEPT) as it:
        async with asked(it, RESPOND if path == "/v1/responses" else post(path, fields)) as client:
            model.say("Hel")
            received = await client.until("Hel")
            name = re.search(rb"id: (\w{32})|(resp_\w{32})", received)
            if name:
                stops = stops.replace("REPLY", (name[1] or name[2]).decode())
            answer = await stop(it, stops)
            assert (answer.status, answer.body) == (200, b'{"success":true}\n')
            assert not it.upstream.pool.state.lent_out
            await standin.wait_closed_by_peer()
            ended = await client.rest()
        assert ended.whole and text_of(ended.body).startswith("Hel")
        if fields:
            assert data_of(ended.body)[-1]["error"]["code"] == "stopped"
        elif name:
            last = data_of(ended.body)[-1]
            assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")
            assert last["response"]["output"][0]["status"] == "incomplete"
        else:
            assert ended.body.endswith(b'data: {"type":"abort"}\n\ndata: [DONE]\n\n')
        assert any('fault="stopped"' in line or "fault=stopped" in line for line in it.log)
        assert (await stop(it, stops)).body == (await stop(it, stops)).body == answer.body


async def test_a_stop_before_the_first_words_is_an_end_too() -> None:
    async with StandIn([silence()]) as standin, house(standin, app=KEPT) as it, asked(it, post()) as client:
        await standin.wait_requests()
        await stop(it, f"/api/chat/{CHAT}/stop")
        await standin.wait_closed_by_peer()
        assert (await client.rest()).body == b'data: {"type":"abort"}\n\ndata: [DONE]\n\n'
        assert parse(await it.send(get())).status == 204


async def test_forms_that_cannot_say_it_have_a_status_or_a_cut() -> None:
    async with StandIn([model := Model()]) as standin, house(standin, app=KEPT) as it:
        ask = post("/api/chat", KEY)
        async with (
            asked(it, ask) as client,
            asked(it, ask.replace(b"/api/chat ", b"/api/chatbot ").replace(b"Host", WHOLE.encode() + b"Host")) as whole,
            asked(it, ask.replace(b"/api/chat ", b"/api/chatbot ").replace(b"Host", TEXT.encode() + b"Host")) as text,
        ):
            model.say("Hel")
            await client.until("Hel")
            await text.until("Hel")
            await until(lambda: it.app.metrics.resumed.samples()["cfchat_resumed_total"] == 2)
            await stop(it, f"/api/chat/{CHAT}/stop")
            answer = await whole.rest()
            assert (answer.status, answer.error["code"], answer.fields["x-should-retry"]) == (409, "stopped", "false")
            assert not (await text.rest()).whole


async def test_a_new_question_of_a_chat_stops_the_one_before() -> None:
    async with StandIn([model := Model(), words("Two")]) as standin, house(standin, app=KEPT) as it:
        async with asked(it, post()) as client:
            model.say("One")
            await client.until("One")
            second = parse(await it.send(post()))
            assert text_of(second.body) == "Two" and (await client.rest()).body.endswith(b'abort"}\n\ndata: [DONE]\n\n')
        await standin.wait_closed_by_peer()
        assert text_of(parse(await it.send(get())).body) == "Two"


# --- the grace ------------------------------------------------------------------------------------


async def test_a_lost_client_does_not_end_its_reply_and_is_charged_once() -> None:
    replies: list[Finished] = []

    async def after_reply(finished: Finished) -> None:
        replies.append(finished)

    hooks = Hooks(after_reply=after_reply)
    async with StandIn([model := Model()]) as standin, house(standin, app=KEPT, hooks=hooks) as it:
        async with asked(it, post()) as client:
            model.say("Hel")
            await client.until("Hel")
        await it.logged(" 499 ")
        assert it.app.streams == (1, 0)
        model.say("lo")
        model.end(usage={"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7})
        await it.logged("ended after its client had left: whole")
        await until(lambda: nothing_runs(it))
        assert text_of(parse(await it.send(get())).body) == text_of(parse(await it.send(get())).body) == "Hello"
    assert [(reply.whole, reply.completion_tokens) for reply in replies] == [(True, 2)]


async def test_the_grace_runs_out() -> None:
    short = Settings(keeping=Keeping(0.05))
    hel = partial(b'data: {"response":"Hel"}\n\n', then="silence")
    async with StandIn([hel]) as standin, house(standin, app=short) as it:
        async with asked(it, post()) as client:
            await client.until("Hel")
        await standin.wait_closed_by_peer()
        await until(lambda: nothing_runs(it) and it.app.kept == (0, 0, 0))
        assert parse(await it.send(get())).status == 204


NAMELESS = [("/api/chatbot", ""), ("/api/chatbot", EVENTS), ("/api/chat", "")]
NAMELESS += [("/v1/chat/completions", ""), ("/v1/responses", "")]


@pytest.mark.parametrize(("path", "fields"), NAMELESS)
async def test_what_nobody_can_name_ends_with_its_client(path: str, fields: str) -> None:
    """An event or a response has told its name to nobody yet."""
    body = {"id": "short", "messages": HELLO, "input": "Hello", "stream": path == "/v1/responses"}
    ask = request(json.dumps(body).encode(), path, fields)
    async with StandIn([silence()]) as standin, house(standin, app=KEPT) as it:
        async with asked(it, ask):
            await standin.wait_requests()
        await standin.wait_closed_by_peer()
        await until(lambda: nothing_runs(it))
        assert it.app.kept == (0, 0, 0)


async def test_what_waits_without_its_client_is_counted() -> None:
    async with StandIn([silence()]) as standin, house(standin, app=KEPT) as it:
        async with asked(it, post()):
            await standin.wait_requests()
            size = it.app.waiting.size
        await it.logged(" 499 ")
        assert it.app.waiting.size == size > 0
        await stop(it, f"/api/chat/{CHAT}/stop")
        await until(lambda: nothing_runs(it))


async def test_what_is_too_long_is_read_to_its_end_and_not_joined() -> None:
    small = Settings(keeping=Keeping(60, each=1000))
    said = ["x" * 900, "y" * 200, "z" * 100_000, "!"]
    async with StandIn([model := Model()]) as standin, house(standin, app=small) as it:
        async with asked(it, post()) as client:
            for word in said:
                model.say(word)
                await client.until(word)
                known = parse(await it.send(get(method="HEAD"))).status
                assert known == (200 if word == said[0] else 204)
            model.end()
            assert text_of((await client.rest()).body) == "".join(said)
        assert it.app.kept == (0, 0, 0)


async def test_what_is_too_long_to_be_joined_can_be_stopped() -> None:
    small = Settings(keeping=Keeping(60, each=1000))
    one, two = Model(), Model()
    async with StandIn([one, two, words("Hi")]) as standin, house(standin, app=small) as it:
        async with asked(it, post()) as client:
            one.say("x" * 1001)
            await client.until("x" * 1001)
            await stop(it, f"/api/chat/{CHAT}/stop")
            assert (await client.rest()).body.endswith(b'{"type":"abort"}\n\ndata: [DONE]\n\n')
        async with asked(it, post()) as client:
            two.say("x" * 1001)
            await client.until("x" * 1001)
            assert text_of(parse(await it.send(post())).body) == "Hi"
            assert (await client.rest()).body.endswith(b'{"type":"abort"}\n\ndata: [DONE]\n\n')


# --- Idempotency-Key ------------------------------------------------------------------------------


@pytest.mark.parametrize("forms", [(EVENTS, WHOLE), (WHOLE, TEXT), (TEXT, EVENTS)])
async def test_two_at_once_ask_once_and_get_the_same_words(forms: tuple[str, str]) -> None:
    async with StandIn([words("Hel", "lo")]) as standin, house(standin, app=KEPT) as it:
        answers = await asyncio.gather(*(it.post(fields=KEY + form) for form in forms))
        answers.append(await it.post(fields=KEY + forms[0]))
    texts = [json.loads(answer.body)["text"] if form is WHOLE else text_of(answer.body) or answer.body.decode()
             for answer, form in zip(answers, [*forms, forms[0]], strict=True)]  # fmt: skip
    assert texts == ["Hello"] * 3
    assert sorted(answer.fields.get("idempotency-replayed", "") for answer in answers) == ["", "true", "true"]
    assert all("Idempotency-Replayed" in answer.fields["access-control-expose-headers"] for answer in answers)


async def test_a_lost_answer_is_not_asked_for_again() -> None:
    ask = request(json.dumps({"messages": HELLO}).encode(), "/v1/chat/completions", KEY)
    async with StandIn([model := Model()]) as standin, house(standin, app=KEPT) as it:
        async with asked(it, ask):
            await standin.wait_requests()
        await it.logged(" 499 ")
        model.say("Hi")
        model.end()
        again = parse(await it.send(ask))
        assert json.loads(again.body)["choices"][0]["message"]["content"] == "Hi"
        assert again.fields["idempotency-replayed"] == "true"
        assert any(" resumed=1 " in line for line in it.log) and "6f9619ff" not in "".join(it.log)


async def test_a_question_that_failed_can_be_asked_again() -> None:
    fault = json_error(401, 10000, "Authentication error")
    async with StandIn([fault, words("Hi")]) as standin, house(standin, app=KEPT) as it:
        first = await asyncio.gather(it.post(fields=KEY), it.post(fields=KEY))
        assert [(answer.status, answer.error["code"]) for answer in first] == [(502, "upstream_auth")] * 2
        assert (await it.post(fields=KEY)).body == b"Hi"


async def test_an_answer_that_broke_off_is_replayed_as_it_was() -> None:
    async with StandIn([partial(b'data: {"response":"Hel"}\n\n')]) as standin, house(standin, app=KEPT) as it:
        for _ in range(2):
            answer = await it.post(fields=KEY + EVENTS)
            assert answer.whole and text_of(answer.body) == "Hel" and b"upstream_interrupted" in answer.body
        assert (await it.post(fields=KEY + WHOLE)).status == 502


async def test_a_key_belongs_to_one_question() -> None:
    async with StandIn([words("Hi")]) as standin, house(standin, app=KEPT) as it:
        assert (await it.post(fields=KEY)).body == b"Hi"
        other = await it.post([{"role": "user", "content": "Bye"}], fields=KEY)
        assert (other.status, other.error["code"]) == (422, "idempotency_key_reused")
        other = await it.post({"messages": HELLO, "seed": 1}, "/v1/chat/completions", KEY)
        assert (other.status, other.error["code"]) == (422, "idempotency_key_reused")


async def test_a_key_belongs_to_one_client() -> None:
    guard = Guard(GuardSettings(keys=KEYS))
    async with StandIn([words("Hi"), words("Ho")]) as standin, house(standin, app=KEPT, guard=guard) as it:
        assert (await it.post(fields=KEY + ANN)).body == b"Hi"
        other = await it.post(fields=KEY + BOB)
        assert other.body == b"Ho" and "idempotency-replayed" not in other.fields


async def test_the_same_body_may_be_another_question_elsewhere() -> None:
    """A tool is passed on by one path, and ignored by the other."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    body = {"messages": HELLO, "tools": tools}
    async with StandIn([words("Hi")]) as standin, house(standin, app=KEPT) as it:
        assert (await it.post(body, fields=KEY)).body == b"Hi"
        assert (await it.post(body, "/v1/chat/completions", KEY)).status == 422


async def test_a_retry_joins_the_chat_that_it_would_else_stop() -> None:
    async with (
        StandIn([model := Model()]) as standin,
        house(standin, app=KEPT) as it,
        asked(it, post(fields=KEY)) as client,
        asked(it, post(fields=KEY)) as second,
    ):
        model.say("Hel")
        await client.until("Hel")
        await second.until("Hel")
        model.end()
        assert text_of((await client.rest()).body) == text_of((await second.rest()).body) == "Hel"


X = "x" * 20
MALFORMED = ["", X[:15], "x" * 256, f'"{X[:15]}"', f'"{X}', f'"{X}";a=1', f'"a {X}"', f'"\\{X}"', f"{X}, {X}", "ü" * 20]


@pytest.mark.parametrize("key", MALFORMED)
async def test_a_malformed_key_is_refused(key: str) -> None:
    with pytest.raises(BadIdempotencyKey):
        read_key(key)
    async with StandIn([]) as standin, house(standin, app=KEPT) as it:
        head, _, rest = request(json.dumps(HELLO).encode(), fields="Idempotency-Key: ").partition(b"Key: ")
        answer = parse(await it.send(head + b"Key: " + key.encode("latin-1") + b"\r\n" + rest))
    assert (answer.status, answer.error["code"]) == (400, "invalid_idempotency_key")


def test_quotes_are_no_part_of_a_key() -> None:
    assert read_key('"' + "x" * 255 + '"') == read_key("x" * 255)
    assert read_key('"' + r"\"\\" * 9 + '"') == '"\\' * 9
    assert read_key(None) == ""


# --- off ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "fields"), [("/api/chat", KEY), ("/api/chatbot", KEY + EVENTS), ("/api/chatbot", "")])
async def test_without_resume_a_reply_ends_with_its_client(path: str, fields: str) -> None:
    async with StandIn([model := Model(), words("Hi")]) as standin, house(standin) as it:
        async with asked(it, post(path, fields)) as client:
            model.say("Hel")
            received = await client.until("Hel")
        assert b"id: " not in received
        await standin.wait_closed_by_peer()
        await until(lambda: nothing_runs(it))
        assert parse(await it.send(get())).status == 204
        assert (await stop(it, f"/api/chat/{CHAT}/stop")).status == 404
        assert (await it.post(fields="Idempotency-Key: short\r\n")).body == b"Hi"


# --- hooks ----------------------------------------------------------------------------------------


async def test_a_client_may_leave_in_before_call() -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def before_call(conversation: Conversation, request: Request) -> Conversation:
        inside.set()
        await go_on.wait()
        return Conversation((Message("user", "changed"),), Options())

    hooks = Hooks(before_call=before_call)
    async with StandIn([words("Hi")]) as standin, house(standin, app=KEPT, hooks=hooks) as it:
        async with asked(it, post()):
            await inside.wait()
        await it.logged(" 499 ")
        go_on.set()
        assert text_of(parse(await it.send(get())).body) == "Hi"
    assert json.loads(standin.requests[0].body)["messages"][-1]["content"] == "changed"
