"""Reasoning in each form: what is shown of it, and that nothing is where it is hidden."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from reply_forms import META, USAGE, data_of, sent

from cfchat.conversation.model import Delta
from cfchat.replies import responses
from cfchat.replies.events import Events
from cfchat.replies.form import Form
from cfchat.replies.negotiation import negotiate
from cfchat.replies.openai import Chunks, Completion
from cfchat.replies.ui_message import UIMessage
from cfchat.replies.whole import Whole

END = Delta("", "stop", USAGE)
# The model thinks in two batches; the last words of the second one are the first of the answer.
THOUGHT = [[Delta(reasoning="H")], [Delta(reasoning="m"), Delta("Y", reasoning=".")], [Delta("es"), END]]
HIDDEN = [[Delta("Y")], [Delta("es"), END]]
FORMS: dict[str, Callable[[bool], Form]] = {
    "events": Events,
    "whole": Whole,
    "ui_message": UIMessage,
    "chunks": lambda thoughts: Chunks(True, thoughts),
    "completion": Completion,
    "response_events": lambda thoughts: responses.Events(META, {}, float, thoughts),
    "response": lambda thoughts: responses.Response(META, {}, float, thoughts),
    "text": lambda thoughts: negotiate("text/plain", thoughts),
    "bare": lambda thoughts: negotiate("*/*", thoughts),
}


@pytest.mark.parametrize("name", FORMS)
def test_hidden_reasoning_leaves_nothing_behind(name: str) -> None:
    form = FORMS[name]
    assert sent(form(False), THOUGHT) == sent(form(False), HIDDEN)
    assert form(True).thoughts == (name not in ("text", "bare"))
    if not form(True).thoughts:
        assert sent(form(True), THOUGHT) == b"Yes"


def test_events() -> None:
    first, second, *rest, end = data_of(sent(Events(True), THOUGHT))
    assert first == {"response": "", "text": "", "reasoning": "H"}
    assert second == {"response": "", "text": "", "reasoning": "m."}
    assert rest == [{"response": "Y", "text": "Y"}, {"response": "es", "text": "es"}]
    assert end["finish_reason"] == "stop" and "reasoning" not in end


def test_whole() -> None:
    assert json.loads(sent(Whole(True), THOUGHT))["reasoning"] == "Hm."
    assert "reasoning" not in json.loads(sent(Whole(True), HIDDEN))


def test_chunks_have_it_before_the_first_content() -> None:
    deltas = [chunk["choices"][0]["delta"] for chunk in data_of(sent(Chunks(False, True), THOUGHT))]
    thoughts, words = [{"reasoning_content": "H"}, {"reasoning_content": "m."}], [{"content": "Y"}, {"content": "es"}]
    assert deltas == [{"role": "assistant", "content": ""}, *thoughts, *words, {}]


def test_completion() -> None:
    (choice,) = json.loads(sent(Completion(True), THOUGHT))["choices"]
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("Yes", "Hm.")


def parts(batches: list[list[Delta]]) -> list[tuple[str, ...]]:
    """The events of the SDK's parts: type, id, and what is added."""
    events = data_of(sent(UIMessage(True), batches))
    assert [event["type"] for event in events[:2] + events[-2:]] == ["start", "start-step", "finish-step", "finish"]
    return [tuple(event.values()) for event in events[2:-2]]


def test_ui_message_closes_the_reasoning_before_it_opens_the_text() -> None:
    assert parts(THOUGHT) == [
        ("reasoning-start", "r1"), ("reasoning-delta", "r1", "H"), ("reasoning-delta", "r1", "m."),
        ("reasoning-end", "r1"),
        ("text-start", "t1"), ("text-delta", "t1", "Y"), ("text-delta", "t1", "es"), ("text-end", "t1"),
    ]  # fmt: skip
    assert parts(HIDDEN)[0] == ("text-start", "t1") and parts(HIDDEN)[-1] == ("text-end", "t1")


def test_ui_message_that_thinks_again_opens_further_parts() -> None:
    again = [[Delta("Yes")], [Delta(reasoning="Hm.")], [Delta("No"), END]]
    opened = [part[:2] for part in parts(again) if len(part) == 2]
    assert opened == [
        ("text-start", "t1"), ("text-end", "t1"), ("reasoning-start", "r2"), ("reasoning-end", "r2"),
        ("text-start", "t2"), ("text-end", "t2"),
    ]  # fmt: skip
