"""The stand-in model: a conversation partner in data, and Cloudflare's wire around it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.demo.eliza import GREETING, RULES, answer, reflect
from cfchat.demo.server import ACCOUNT, MODEL, TOKEN, Demo, events, pieces
from cfchat.server.record import Record
from cfchat.server.reply import Head, Reply
from cfchat.server.request import Request

PATH = f"/client/v4/accounts/{ACCOUNT}/ai/run/{MODEL}"
# Words of the script itself reach more rules than letters at random do.
SCRIPTED = "I you my your am are me was want don't think if because mother sad hate of is joke xyzzy {0} , . I’m"
WORDS = st.sampled_from(SCRIPTED.split())
TURNS = st.lists(st.one_of(st.text(), st.lists(WORDS, max_size=12).map(" ".join)), max_size=8)


def talk(*turns: str) -> list[str]:
    """What is answered to each turn of one conversation."""
    messages = [{"role": "system", "content": "You are a friendly assistant"}]
    said = []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        said.append(answer(messages))
        messages.append({"role": "assistant", "content": said[-1]})
    return said


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("Men are all alike.", "In what way?"),
        ("They're always bugging us about something or other.", "Can you think of a specific example?"),
        ("It's true that I'm unhappy", "I am sorry to hear that you are unhappy."),
        ("I need some rest, that much seems certain", "What would it mean to you if you got some rest?"),
        ("My mother takes care of me", "Who else in your family takes care of you?"),
        ("You are like my father in some ways", "Tell me more about your family."),
        ("You are not very aggressive", "What makes you think I am not very aggressive?"),
        ("Do you hate me?", "Why do you think I hate you?"),
        ("I REMEMBER Anna’s house", "Do you often think of Anna's house?"),
        ("I dreamt of you", "Really: of me?"),
        ("", "I am not sure I understand you fully."),
    ],
)
def test_one_turn(said: str, heard: str) -> None:
    assert talk(said) == [heard]


def test_a_turn_without_words_is_answered_for_ever() -> None:
    assert len(set(talk(*[""] * 20))) == 6


def test_templates_are_taken_in_turn_and_come_round() -> None:
    said = talk(*["because"] * 5)
    assert len(set(said)) == 4
    assert said[4] == said[0]


def test_it_comes_back_to_what_was_said_of_ones_own() -> None:
    assert talk("my cat is ill", "xyzzy")[1] == "Let us go back to what you said: your cat is ill."


def test_asked_who_it_is_it_says_once_that_it_is_a_demo() -> None:
    first, second = talk("Who are you?", "no, what ARE you")
    assert "demo" in first
    assert second != first


def test_without_a_user_it_greets() -> None:
    assert answer([]) == answer([{"role": "system", "content": "x"}]) == GREETING
    assert "demo" in GREETING


@pytest.mark.parametrize(
    ("part", "turned"),
    [
        ("my view of you", "your view of me"),
        ("you are my friend", "I am your friend"),
        ("what you think of me and myself", "what I think of you and yourself"),
        ("I am sure I was with you at Home", "you are sure you were with me at Home"),
        ("are you yours", "am I mine"),
        ("", ""),
    ],
)
def test_pronouns_turn_round(part: str, turned: str) -> None:
    assert reflect(part) == turned


def test_every_template_can_be_filled() -> None:
    for rule in RULES:
        assert rule.patterns
        for pattern in rule.patterns:
            assert pattern.answers
            for template in pattern.answers:
                assert template
                assert template.format("0", *"123456"[: pattern.match.groups]), template


@given(TURNS)
def test_it_has_an_answer_to_everything_and_the_same_again(turns: list[str]) -> None:
    said = talk(*turns)
    assert all(text.strip() and text.encode() for text in said)
    assert talk(*turns) == said


@given(st.text())
def test_pieces_joined_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text


def test_pieces_keep_their_leading_blank() -> None:
    assert pieces("New York, extraordinary\n") == ["New", " York", ",", " extraor", "dinary", "\n"]


@given(st.text(), st.integers(0, 10**6))
def test_events_are_the_classic_dialect(text: str, prompt_tokens: int) -> None:
    *said, usage, done = list(events(text, prompt_tokens))
    assert done == b"data: [DONE]\n\n"
    contents = [json.loads(event.removeprefix(b"data: ")) for event in (*said, usage)]
    assert all(event.startswith(b'data: {"response":') and event.endswith(b"}\n\n") for event in said)
    assert "".join(content["response"] for content in contents) == text
    assert all(content["p"].startswith("abde") for content in contents[:-1])
    assert contents[-1]["usage"]["total_tokens"] == prompt_tokens + len(said)


def posted(body: object, path: str = PATH, method: str = "POST", authorization: str = f"Bearer {TOKEN}") -> Request:
    async def read_body(limit: int) -> bytes:
        return body if isinstance(body, bytes) else json.dumps(body).encode()

    fields = {"authorization": authorization}
    return cast(Request, SimpleNamespace(method=method, path=path, fields=fields, read_body=read_body))


class Sent:
    """The Out of a Reply that keeps what it is given."""

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.pieces: list[bytes] = []
        self.whole = False

    def put(self, head: Head | None, piece: bytes, last: bool) -> None:
        assert (head is None) == bool(self.heads) and not self.whole
        self.heads += [head] if head is not None else []
        self.pieces += [piece] if piece else []
        self.whole = last

    def cut(self) -> None:
        raise AssertionError


async def asked(request: Request, demo: Demo) -> Sent:
    """What is answered."""
    sent = Sent()
    await demo.handle(request, Reply(sent, Record("1", "", request.method, request.path, {}), 60))
    assert sent.whole
    return sent


async def test_it_streams_one_event_at_a_time() -> None:
    said = [{"role": "user", "content": "because"}]
    sent = await asked(posted({"messages": said, "stream": True, "max_tokens": 2048}), Demo(pace=0))
    assert sent.heads == [Head(200, [("Content-Type", "text/event-stream")], None)]
    assert sent.pieces == list(events("Is that the real reason?", 1))


async def test_it_stops_at_max_tokens() -> None:
    question = {"messages": [{"role": "user", "content": "because"}], "max_tokens": 3}
    assert (await asked(posted(question), Demo(pace=0))).pieces == list(events("Is that the", 1))


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
    sent = await asked(posted(**{"body": {"messages": []}, **change}), Demo())
    (head,), body = sent.heads, b"".join(sent.pieces)
    assert (head.status, head.length) == (status, len(body))
    assert json.loads(body)["errors"][0]["code"] == code
