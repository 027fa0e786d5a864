"""Server-sent events, to the byte."""

from __future__ import annotations

import json

from reply_forms import BROKEN, ERROR, data_of, sent

from cfchat.conversation.model import Delta
from cfchat.replies.events import Events


def test_events() -> None:
    assert sent(Events()) == (
        b'data: {"response":"Hel","text":"Hel"}\n\ndata: {"response":"lo","text":"lo"}\n\n'
        b'data: {"response":"","text":"","finish_reason":"stop",'
        b'"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}\n\ndata: [DONE]\n\n'
    )


def test_the_last_event_tells_that_a_reply_was_cut_at_its_length_and_that_no_usage_was_reported() -> None:
    *_, last = data_of(sent(Events(), [[Delta("Hel"), Delta("lo", "length")]]))
    assert last == {"response": "", "text": "", "finish_reason": "length", "usage": None}


def test_an_interrupted_reply_ends_with_an_error_event() -> None:
    name, data = Events().fail(BROKEN).decode().splitlines()[:2]
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: ")) == {"error": ERROR, "text": ""}
