"""The stand-in for Cloudflare: events and refusals."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.demo.server import ACCOUNT, MODEL, TOKEN, Demo, events, pieces
from cfchat.demo.shows import SHOWS
from cfchat.errors import CfchatError
from cfchat.net.deadline import Deadline
from cfchat.server.record import Record
from cfchat.server.reply import Head, Reply
from cfchat.server.request import Request

PATH = f"/client/v4/accounts/{ACCOUNT}/ai/run/{MODEL}"


@given(st.text())
def test_pieces_joined_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text


def test_pieces_keep_their_leading_blank() -> None:
    assert pieces("New York, extraordinary\n") == ["New", " York", ",", " extraor", "dinary", "\n"]


@given(st.text(), st.integers(0, 10**6))
def test_events_are_the_classic_dialect(text: str, prompt_tokens: int) -> None:
    *words, usage, done = list(events(text, prompt_tokens))
    assert done == b"data: [DONE]\n\n"
    contents = [json.loads(event.removeprefix(b"data: ")) for event in (*words, usage)]
    assert all(event.startswith(b'data: {"response":') and event.endswith(b"}\n\n") for event in words)
    assert "".join(content["response"] for content in contents) == text
    assert all(content["p"].startswith("abde") for content in contents[:-1])
    assert contents[-1]["usage"]["total_tokens"] == prompt_tokens + len(words)


def posted(body: object, path: str = PATH, method: str = "POST", authorization: str = f"Bearer {TOKEN}") -> Request:
    async def read_body(limit: int) -> bytes:
        return body if isinstance(body, bytes) else json.dumps(body).encode()

    fields = {"authorization": authorization}
    return cast(Request, SimpleNamespace(method=method, path=path, fields=fields, read_body=read_body))


class Received:
    """The place where a reply goes: collects its head and its pieces."""

    beats: Deadline  # never asked for: no reply of the demo has heartbeats

    def __init__(self) -> None:
        self.head: Head | None = None
        self.pieces: list[bytes] = []
        self.ended = False

    def put(self, head: Head | None, piece: bytes, last: bool) -> None:
        self.head = self.head or head
        self.pieces += [piece] if piece else []
        self.ended = last

    def cut(self) -> None:
        raise AssertionError("a reply of the demo is never cut")


async def answered(request: Request) -> tuple[Head, list[bytes]]:
    """Return the head and the pieces of the demo's reply."""
    received = Received()
    await Demo(pace=0).handle(request, Reply(received, Record("1", "", "POST", PATH, {}), 15.0))
    assert received.head is not None and received.ended
    return received.head, received.pieces


async def test_it_streams_one_event_at_a_time() -> None:
    messages = [{"role": "user", "content": "because"}]
    head, pieces = await answered(posted({"messages": messages, "stream": True, "max_tokens": 2048}))
    assert head == Head(200, [("Content-Type", "text/event-stream")], None)
    assert pieces == list(events("Is that the real reason?", 1))


async def test_it_stops_at_max_tokens() -> None:
    _, pieces = await answered(posted({"messages": [{"role": "user", "content": "because"}], "max_tokens": 3}))
    assert pieces == list(events("Is that the", 1))


def ask(*turns: str) -> Request:
    """The user speaks first and last."""
    roles = ("user", "assistant") * len(turns)
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    return posted({"messages": messages, "max_tokens": 2048})


def said(pieces: list[bytes]) -> tuple[str, Any]:
    """The text, and the last event before [DONE]."""
    contents = [json.loads(piece.removeprefix(b"data: ")) for piece in pieces[:-1]]
    return "".join(content["response"] for content in contents), contents[-1]


@pytest.mark.parametrize(("word", "begin"), [("think", "<think>"), (" Code\n", "# Markdown")])
async def test_a_word_shows_thoughts_and_markdown(word: str, begin: str) -> None:
    _, pieces = await answered(ask(word))
    text, last = said(pieces)
    assert text == SHOWS[word.strip().lower()].text and text.startswith(begin) and "finish_reason" not in last


async def test_a_long_reply_is_cut_at_its_length_and_goes_on_where_it_was() -> None:
    turns, reasons = ["long", ""], ["length"]
    while reasons[-1] == "length":
        _, pieces = await answered(ask(*turns, "Go on.") if turns[1] else ask("long"))
        text, last = said(pieces)
        turns[1] += text
        reasons.append(last.get("finish_reason", "stop"))
    assert turns[1] == SHOWS["long"].text and len(reasons) > 3
    _, pieces = await answered(ask(*turns, "because"))
    assert said(pieces)[0] == "Is that the real reason?"


async def test_a_break_comes_behind_all_words() -> None:
    received = Received()
    with pytest.raises(CfchatError):
        await Demo(pace=0).handle(ask("break"), Reply(received, Record("1", "", "POST", PATH, {}), 15.0))
    assert said([*received.pieces, b""])[0] == SHOWS["break"].text and not received.ended


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"path": "/client/v4/accounts/notanaccount/ai/run/@cf/x"}, 404, 7003),
        ({"method": "GET"}, 404, 7003),
        ({"authorization": ""}, 401, 10000),
        ({"body": b"{"}, 400, 5006),
        ({"body": {"prompt": "x"}}, 400, 5006),
    ],
)
async def test_it_refuses_as_cloudflare_does(change: dict[str, Any], status: int, code: int) -> None:
    head, (body,) = await answered(posted(**{"body": {"messages": []}, **change}))
    assert head.status == status and head.length == len(body)
    assert json.loads(body)["errors"][0]["code"] == code


# --- AI Search -----------------------------------------------------------------------------------


def searching(instance: str, question: str) -> Request:
    path = f"/client/v4/accounts/{ACCOUNT}/ai-search/{instance}/chat/completions"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
    return posted({"messages": messages, "stream": True}, path)


@pytest.mark.parametrize("instance", ["instances/demo", "namespaces/team/instances/demo"])
async def test_its_ai_search_tells_pages_and_then_words(instance: str) -> None:
    _, pieces = await answered(searching(instance, "What is a rate?"))
    name, _, data = pieces[0].decode().partition("\ndata: ")
    chunks = json.loads(data)
    assert name == "event: chunks" and chunks[0].keys() == {"id", "type", "score", "text", "item"}
    assert chunks[0]["item"]["key"].endswith("README.md") and chunks[0]["text"] and 0 < chunks[0]["score"] <= 1
    assert pieces[-1] == b"data: [DONE]\n\n"
    events = [json.loads(piece.removeprefix(b"data: ")) for piece in pieces[1:-1]]
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    text = "".join(event["choices"][0]["delta"]["content"] for event in events)
    assert text.startswith(f"**{chunks[0]['item']['metadata']['title']}**")


async def test_its_ai_search_may_find_nothing() -> None:
    _, pieces = await answered(searching("instances/demo", "zzz"))
    assert pieces[0] == b"event: chunks\ndata: []\n\n" and b"nothing" in b"".join(pieces)


async def test_it_has_one_instance() -> None:
    head, pieces = await answered(searching("instances/docs", "What is a rate?"))
    assert head.status == 404 and json.loads(pieces[0])["errors"][0]["code"] == 7002
