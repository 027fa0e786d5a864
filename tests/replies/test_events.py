"""Server-sent events, to the byte."""

from __future__ import annotations

import json

from reply_forms import BROKEN, ERROR, sent

from cfchat.replies.events import Events


def test_events() -> None:
    assert sent(Events()) == (
        b'data: {"response":"Hel","text":"Hel"}\n\ndata: {"response":"lo","text":"lo"}\n\ndata: [DONE]\n\n'
    )


def test_an_interrupted_reply_ends_with_an_error_event() -> None:
    name, data = Events().fail(BROKEN).decode().splitlines()[:2]
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: ")) == {"error": ERROR, "text": ""}
