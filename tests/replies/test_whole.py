"""The reply as one JSON object."""

from __future__ import annotations

import json

from reply_forms import USAGE, sent

from cfchat.replies.whole import Whole


def test_whole() -> None:
    assert json.loads(sent(Whole())) == {
        "response": "Hello",
        "text": "Hello",
        "usage": USAGE,
        "model": "@cf/x/y",
        "finish_reason": "stop",
    }
