"""Rules that all forms keep: for any cut into batches the same text, and never a part of a character."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reply_forms import META, USAGE, data_of
from response_events import read_response_events, text_of

from cfchat.conversation.model import Delta
from cfchat.replies import responses
from cfchat.replies.events import Events
from cfchat.replies.form import HEARTBEAT, Form
from cfchat.replies.openai import Chunks, Completion
from cfchat.replies.text import Text
from cfchat.replies.ui_message import UIMessage
from cfchat.replies.whole import Whole
from cfchat.wire.sse import SSEParser


@pytest.mark.parametrize("form", [Events(), UIMessage(), Chunks(False), responses.Events(META, {}, float)])
def test_a_heartbeat_is_no_event(form: Form) -> None:
    assert form.heartbeat == HEARTBEAT
    assert SSEParser().feed(HEARTBEAT) == []


def read_chunks(raw: bytes) -> str:
    chunks = data_of(raw)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert [reason for reason in reasons if reason] == reasons[-1:]
    contents = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
    return "".join(contents)


def read_ui_message(raw: bytes) -> str:
    """Return the text as the SDK does: only a started part may grow, and every started part must end."""
    events = data_of(raw)
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["start", "start-step", "text-start"]
    assert kinds[-3:] == ["text-end", "finish-step", "finish"]
    assert set(kinds[3:-3]) <= {"text-delta"}
    assert {event["id"] for event in events if event["type"].startswith("text-")} == {"t1"}
    return "".join(event.get("delta", "") for event in events)


def read_events(raw: bytes) -> str:
    *events, end = data_of(raw)
    assert all(event["response"] == event["text"] != "" for event in events)
    assert end == {"response": "", "text": "", "finish_reason": "stop", "usage": USAGE}
    return "".join(event["text"] for event in events)


FORMS: dict[str, tuple[Callable[[], Form], Callable[[bytes], str]]] = {
    "text": (Text, bytes.decode),
    "events": (Events, read_events),
    "whole": (Whole, lambda raw: str(json.loads(raw)["text"])),
    "ui_message": (UIMessage, read_ui_message),
    "chunks": (lambda: Chunks(True), read_chunks),
    "completion": (Completion, lambda raw: json.loads(raw)["choices"][0]["message"]["content"] or ""),
    "response_events": (lambda: responses.Events(META, {}, float), lambda raw: text_of(read_response_events(raw))),
    "response": (lambda: responses.Response(META, {}, float), lambda raw: text_of(json.loads(raw))),
}

# Newlines of all kinds, what JSON escapes, what ends an event, what is several bytes.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\n\r\u2028\x85\x00"\\<')) | st.sampled_from(
    ["data: [DONE]\n\n", "\n\ndata: {}\n\n", "😀", "e\u0301"]
)


@pytest.mark.parametrize("name", FORMS)
@given(data=st.data())
def test_any_cut_into_batches_gives_the_same_words(name: str, data: st.DataObject) -> None:
    make, read = FORMS[name]
    texts = data.draw(st.lists(TEXTS, min_size=1, max_size=8))
    deltas = [*map(Delta, texts), Delta("", "stop", USAGE)]
    cuts = data.draw(st.sets(st.integers(1, len(deltas) - 1)))
    batches = [deltas[begin:end] for begin, end in pairwise([0, *sorted(cuts), len(deltas)])]
    form = make()
    pieces = [form.start(META), *map(form.encode, batches), form.finish()]
    for piece in pieces:
        piece.decode()  # none ends inside a character
    assert read(b"".join(pieces)) == "".join(texts)
