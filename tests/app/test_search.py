"""Answers from AI Search: whom it asks, how its pages look to each client, and what comes when it fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from client import Reply, request
from house import ACCOUNT, HELLO, house
from response_events import read_response_events
from standin import Model, StandIn, json_error, partial, reply, words

from cfchat.app.hooks import Hooks
from cfchat.app.hooks import Reply as Finished
from cfchat.app.routes import Settings as AppSettings
from cfchat.conversation.model import Conversation
from cfchat.guard.cors import EXPOSED
from cfchat.guard.guard import Guard
from cfchat.guard.guard import Settings as GuardSettings
from cfchat.replies.text import LONGEST_FIELD
from cfchat.secret import Secret
from cfchat.server.request import Request
from cfchat.upstream.answer import Deadlines
from cfchat.upstream.client import Settings
from cfchat.upstream.cloudflare.account import Gateway
from cfchat.upstream.retry import Policy
from cfchat.wire.sse import Event, SSEParser

DOCS, MODEL = "ai-search/docs", "@cf/meta/llama-3.1-8b-instruct-fast"
PATH = f"/client/v4/accounts/{ACCOUNT}/ai-search"
CHAT = AppSettings(system_prompt="", model=DOCS, models=(DOCS, MODEL))


def page(key: str, score: float, title: str | None = None) -> dict[str, object]:
    return {"id": "1", "score": score, "text": "x" * 30, "item": {"key": key, "metadata": {"title": title}}}


LINK, NAME = page("https://example.com/a", 0.5, "On „A“"), page("b.md", 0.25)
FOUND = b"event: chunks\ndata: " + json.dumps([NAME, LINK, {**LINK, "score": 0.1}]).encode() + b"\n\n"
NOTHING = b"event: chunks\ndata: []\n\n"
SAID = b"".join(
    b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % word
    for word in (b"Hel", b"lo")
)
DONE = b"data: [DONE]\n\n"
ANSWER = reply(FOUND + SAID + DONE)
SOURCES = [
    {"title": "On „A“", "url": "https://example.com/a", "score": 0.5},
    {"title": "b.md", "url": None, "score": 0.25},
]
SSE = "Accept: text/event-stream\r\n"


def search(*fallbacks: str, name: str = DOCS, **more: Any) -> Callable[[Settings], Settings]:
    return lambda settings: settings._replace(models=(name, *fallbacks), **more)


def events_of(answer: Reply) -> list[Event]:
    *events, done = SSEParser().feed(answer.body)
    assert answer.whole and done.data == "[DONE]"
    return events


def data_of(answer: Reply) -> list[Any]:
    return [json.loads(event.data) for event in events_of(answer)]


async def asked(fields: str = "", path: str = "/api/chatbot", body: object = HELLO) -> Reply:
    """Return the reply with two pages found."""
    async with StandIn([ANSWER]) as standin, house(standin, app=CHAT, change=search()) as cfchat:
        return await cfchat.post(body, path, fields)


# --- whom it asks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ai-search/docs", "/instances/docs/chat/completions"),
        ("ai-search/team/docs", "/namespaces/team/instances/docs/chat/completions"),
    ],
)
@pytest.mark.parametrize("by_name", [False, True])
async def test_no_model_and_the_instance_by_name_are_the_search(name: str, path: str, by_name: bool) -> None:
    chat = CHAT._replace(model=name, models=(name, MODEL))
    options = {"model": name} if by_name else {}
    async with StandIn([ANSWER]) as standin, house(standin, app=chat, change=search(name=name)) as cfchat:
        answer = await cfchat.post({"messages": HELLO, "temperature": 0.5, "max_tokens": 9, **options})
    (request,) = standin.requests
    assert (request.method, request.target) == ("POST", PATH + path)
    assert json.loads(request.body) == {"messages": HELLO, "stream": True}
    assert (answer.body, answer.fields["x-model"]) == (b"Hello", name)
    assert "x-search" not in answer.fields


async def test_a_model_by_name_goes_the_usual_way_without_sources() -> None:
    async with StandIn([words("Hello")]) as standin, house(standin, app=CHAT, change=search()) as cfchat:
        answer = await cfchat.post({"messages": HELLO, "model": MODEL}, fields=SSE)
    assert standin.requests[0].target.endswith(f"/ai/run/{MODEL}")
    assert json.loads(standin.requests[0].body)["max_tokens"] == 2048
    assert answer.fields["x-model"] == MODEL and "x-search" not in answer.fields
    assert {event.event for event in events_of(answer)} == {"message"}


async def test_a_hook_may_leave_the_search_or_name_another() -> None:
    async def before_call(conversation: Conversation, request: Request) -> Conversation:
        return replace(conversation, options=replace(conversation.options, model=names.pop()))

    names = ["ai-search/team/other", DOCS]
    hooks = Hooks(before_call=before_call)
    async with StandIn([ANSWER] * 2) as standin, house(standin, app=CHAT, change=search(), hooks=hooks) as cfchat:
        answers = [await cfchat.post({"messages": HELLO, "max_tokens": 9}, fields=SSE) for _ in range(2)]
    assert [answer.fields["x-model"] for answer in answers] == [DOCS, "ai-search/team/other"]
    assert [json.loads(request.body) for request in standin.requests] == [{"messages": HELLO, "stream": True}] * 2
    assert all(data_of(answer)[0]["sources"] == SOURCES for answer in answers)


async def test_what_the_operator_sets_is_sent() -> None:
    fields = {DOCS: {"model": MODEL, "temperature": 0.1, "ai_search_options": {"retrieval": {"max_num_results": 3}}}}
    async with StandIn([ANSWER]) as standin, house(standin, app=CHAT, change=search(fields=fields)) as cfchat:
        await cfchat.post()
    assert json.loads(standin.requests[0].body) == {**fields[DOCS], "messages": HELLO, "stream": True}


async def test_a_search_has_its_own_gateway_and_a_model_this_one() -> None:
    gateway = Gateway("g1", Secret("gateway-token"))
    change = search(MODEL, gateway=gateway)
    busy = json_error(429, 3040, "No capacity")
    async with StandIn([busy, words("Hello")]) as standin, house(standin, app=CHAT, change=change) as cfchat:
        await cfchat.post()
    search_fields, model_fields = (request.fields for request in standin.requests)
    assert not [name for name in search_fields if name.startswith("cf-aig-")]
    assert model_fields["cf-aig-gateway-id"] == "g1"


async def test_what_no_search_takes_is_refused() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    async with StandIn([]) as standin, house(standin, app=CHAT, change=search()) as cfchat:
        answer = await cfchat.post({"messages": HELLO, "tools": tools}, "/v1/chat/completions")
    assert (answer.status, answer.error["param"]) == (400, "tools")


# --- each wire -----------------------------------------------------------------------------------


async def test_events_have_the_sources_before_the_first_word() -> None:
    answer = await asked(SSE)
    first, *rest = events_of(answer)
    assert (first.event, json.loads(first.data)) == ("sources", {"sources": SOURCES, "text": ""})
    assert {event.event for event in rest} == {"message"}
    # deep-chat drops an event without a text.
    assert [type(data["text"]) for data in data_of(answer)] == [str] * (1 + len(rest))


async def test_json_has_the_sources() -> None:
    answer = await asked("Accept: application/json\r\n")
    assert json.loads(answer.body)["sources"] == SOURCES


async def test_the_ai_sdk_gets_a_part_for_each_source() -> None:
    events = data_of(await asked(path="/api/chat"))
    kinds = [event["type"] for event in events]
    assert kinds == ["start", "start-step", "text-start", "source-url", "source-document", "text-delta", *kinds[6:]]
    url = {"type": "source-url", "sourceId": "s1", "title": "On „A“", "url": "https://example.com/a"}
    document = {"type": "source-document", "sourceId": "s2", "title": "b.md", "mediaType": "text/plain"}
    assert events[3:5] == [url, document]


CITATION = {"url": "https://example.com/a", "title": "On „A“", "start_index": 5, "end_index": 5}
ANNOTATIONS = [{"type": "url_citation", "url_citation": CITATION}]


async def test_chat_completions_have_annotations() -> None:
    answer = await asked(path="/v1/chat/completions", body={"messages": HELLO, "model": DOCS})
    assert json.loads(answer.body)["choices"][0]["message"]["annotations"] == ANNOTATIONS


async def test_streamed_completions_have_annotations_in_the_last_chunk() -> None:
    chunks = data_of(await asked(path="/v1/chat/completions", body={"messages": HELLO, "stream": True}))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[-1] == {"annotations": ANNOTATIONS} and chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert not [delta for delta in deltas[:-1] if "annotations" in delta]


async def test_responses_have_annotations() -> None:
    streamed = await asked(path="/v1/responses", body={"input": "Hello", "model": DOCS, "stream": True})
    whole = await asked(path="/v1/responses", body={"input": "Hello", "model": DOCS})
    for response in (read_response_events(streamed.body), json.loads(whole.body)):
        (message,) = response["output"]
        assert message["content"][0]["annotations"] == [{"type": "url_citation", **CITATION}]


@pytest.mark.parametrize("accept", ["*/*", "text/plain"])
async def test_bare_text_has_a_field(accept: str) -> None:
    answer = await asked(f"Accept: {accept}\r\nOrigin: https://a.example\r\n")
    assert answer.body == b"Hello" and answer.fields["x-sources"].isascii()
    assert json.loads(answer.fields["x-sources"]) == SOURCES
    assert "X-Sources" in answer.fields["access-control-expose-headers"] and "X-Search" in EXPOSED


async def test_the_field_of_bare_text_has_as_many_sources_as_fit() -> None:
    found = [page(f"https://example.com/{number}" + "x" * 400, 1 - number / 100, "ü😀" * 99) for number in range(9)]
    found.append(page("short", 0))
    event = b"event: chunks\ndata: " + json.dumps(found).encode() + b"\n\n"
    async with StandIn([reply(event + SAID + DONE)]) as standin, house(standin, app=CHAT, change=search()) as cfchat:
        answer = await cfchat.post(fields="Accept: text/plain\r\n")
    field = answer.fields["x-sources"]
    assert LONGEST_FIELD - 1000 < len(field) <= LONGEST_FIELD <= 4096
    assert [source["score"] for source in json.loads(field)] == [1, 0]


WIRES = [
    ("/api/chatbot", "", HELLO),
    ("/api/chatbot", SSE, HELLO),
    ("/api/chatbot", "Accept: application/json\r\n", HELLO),
    ("/api/chat", "", {"messages": HELLO}),
    ("/v1/chat/completions", "", {"messages": HELLO}),
    ("/v1/chat/completions", "", {"messages": HELLO, "stream": True}),
    ("/v1/responses", "", {"input": "Hello"}),
]


@pytest.mark.parametrize(("path", "fields", "body"), WIRES)
@pytest.mark.parametrize("found", [NOTHING, b""])
async def test_nothing_found_looks_like_any_other_reply(path: str, fields: str, body: object, found: bytes) -> None:
    async with StandIn([reply(found + SAID + DONE)]) as standin, house(standin, app=CHAT, change=search()) as cfchat:
        answer = await cfchat.post(body, path, fields)
    assert answer.whole and not {"x-sources", "x-search"} & answer.fields.keys()
    assert b"source" not in answer.body and b"url_citation" not in answer.body


async def test_a_reply_longer_than_the_clients_number_was_not_cut() -> None:
    """The number was not sent, and the documented stream has no finish reason."""
    usage = b'data: {"response":"","usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}\n\n'
    async with StandIn([reply(SAID + usage + DONE)]) as standin, house(standin, app=CHAT, change=search()) as cfchat:
        answer = await cfchat.post({"messages": HELLO, "max_tokens": 1}, fields="Accept: application/json\r\n")
    assert json.loads(answer.body)["finish_reason"] == "stop"


@pytest.mark.parametrize(("path", "fields", "body"), WIRES[1:])
async def test_late_sources_are_told_all_the_same(path: str, fields: str, body: object) -> None:
    async with StandIn([reply(SAID + FOUND + DONE)]) as standin, house(standin, app=CHAT, change=search()) as cfchat:
        answer = await cfchat.post(body, path, fields)
    assert answer.whole and answer.body.count(b"https://example.com/a") == 1


async def test_a_base_url_makes_links() -> None:
    change = search(source_base_url="https://example.com/docs/")
    async with StandIn([ANSWER]) as standin, house(standin, app=CHAT, change=change) as cfchat:
        answer = await cfchat.post(fields="Accept: application/json\r\n")
    assert json.loads(answer.body)["sources"][1]["url"] == "https://example.com/docs/b.md"


# --- failures ------------------------------------------------------------------------------------

REFUSED = json_error(403, 10000, "Authentication error")


@pytest.mark.parametrize(
    "failure",
    [
        REFUSED,
        json_error(404, 7002, "ai_search_not_found"),
        json_error(429, 3040, "No capacity"),
        json_error(429, 971, "Slow down"),
        reply(b"<html>", 502, framing="length", fields=[("content-type", "text/html")]),
        reply(FOUND + b'event: error\ndata: {"error":{"message":"no"}}\n\n'),
        reply(FOUND + DONE),
        partial(FOUND),
        reply(b"event: chunks\ndata: " + b"x" * (1 << 20) + b"\n\n" + SAID + DONE),
    ],
    ids=["403", "404", "busy", "throttled", "502", "error event", "empty", "cut", "too large"],
)
async def test_a_named_fallback_answers_without_sources_and_says_so(failure: Any) -> None:
    async with StandIn([failure, words("Hello")]) as standin, house(standin, app=CHAT, change=search(MODEL)) as cfchat:
        answer = await cfchat.post(fields=SSE)
    assert standin.requests[1].target.endswith(f"/ai/run/{MODEL}")
    assert {event.event for event in events_of(answer)} == {"message"}
    assert (answer.fields["x-model"], answer.fields["x-search"]) == (MODEL, "failed")
    assert any("search=failed" in line for line in cfchat.log)


async def test_what_a_gateway_has_blocked_no_other_model_answers() -> None:
    blocked = json_error(424, 2016, "Prompt blocked")
    async with StandIn([blocked]) as standin, house(standin, app=CHAT, change=search(MODEL)) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.error["code"]) == (400, "content_blocked")


async def test_without_a_named_fallback_no_model_answers() -> None:
    async with StandIn([REFUSED]) as standin, house(standin, app=CHAT, change=search()) as cfchat:
        answer = await cfchat.post()
    assert (answer.status, answer.error["code"]) == (502, "upstream_auth") and len(standin.requests) == 1


async def test_a_search_that_fails_behind_its_pages_is_asked_again() -> None:
    """Pages are no words: the reply has those of the second try alone."""
    scripts = [partial(FOUND), reply(NOTHING + SAID + DONE)]
    chat = CHAT._replace(thoughts=True)
    async with StandIn(scripts) as standin, house(standin, app=chat, change=search()) as cfchat:
        answer = await cfchat.post(fields=SSE)
    assert len(standin.requests) == 2 and {event.event for event in events_of(answer)} == {"message"}


async def test_a_reply_that_breaks_off_behind_its_words_is_broken() -> None:
    async with StandIn([partial(FOUND + SAID)]) as standin, house(standin, app=CHAT, change=search()) as cfchat:
        answer = await cfchat.post(fields="Accept: text/plain\r\n")
    assert not answer.whole and json.loads(answer.fields["x-sources"]) == SOURCES


async def test_pages_without_words_are_too_late() -> None:
    """The pages are no sign that the model answers: the deadline of the first words still counts."""
    change = search(policy=Policy(attempts=1), deadlines=Deadlines(first_delta=0.05))
    silent = partial(FOUND, then="silence")
    async with StandIn([silent]) as standin, house(standin, app=CHAT, change=change) as cfchat:
        answer = await cfchat.post(fields=SSE)
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")


async def test_a_client_that_leaves_ends_the_search() -> None:
    silent = partial(FOUND, then="silence")
    async with StandIn([silent]) as standin, house(standin, app=CHAT, change=search()) as cfchat:
        _, writer = await cfchat.connect()
        writer.write(request(json.dumps(HELLO).encode()))
        await standin.wait_requests()
        writer.transport.abort()
        await standin.wait_closed_by_peer()


# --- what it costs -------------------------------------------------------------------------------


async def test_the_pages_are_paid_for_with_the_question() -> None:
    """The documented stream has no usage: a token is counted for three bytes."""
    told: asyncio.Queue[Finished] = asyncio.Queue()
    hooks = Hooks(after_reply=told.put)
    async with StandIn([ANSWER]) as standin, house(standin, app=CHAT, change=search(), hooks=hooks) as cfchat:
        await cfchat.post()
        finished = await told.get()
    question, pages = 10, 3 * 30 // 3
    assert (finished.prompt_tokens, finished.completion_tokens) == (question + pages, 1)
    assert finished.estimated and finished.model == DOCS


async def test_a_reply_is_held_at_its_length_without_the_clients_number() -> None:
    """The number is not sent, so the reply may be longer."""
    guard, model = Guard(GuardSettings(daily_tokens=2048 + 1000)), Model()
    body = {"messages": HELLO, "max_tokens": 1}
    async with StandIn([model]) as standin, house(standin, app=CHAT, change=search(), guard=guard) as cfchat:
        first = asyncio.create_task(cfchat.post(body))
        await standin.wait_requests()
        second = await cfchat.post(body)
        model.say("Hello")
        model.end()
        assert (await first).body == b"Hello"
    assert (second.status, second.error["code"]) == (429, "daily_tokens_spent")
