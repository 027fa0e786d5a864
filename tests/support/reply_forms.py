"""A short reply, complete and interrupted, and its bytes in a form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cfchat.conversation.model import Delta
from cfchat.errors import UpstreamInterrupted
from cfchat.replies.form import Form, Meta
from cfchat.wire.sse import SSEParser

META = Meta("0a1b", 1764000000, "@cf/x/y")
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
HELLO = [[Delta("Hel")], [Delta("lo"), Delta("", "stop", USAGE)]]
BROKEN = UpstreamInterrupted("The reply was interrupted.", detail="secret of the log")
ERROR = {
    "message": "The reply was interrupted.",
    "type": "upstream_error",
    "code": "upstream_interrupted",
    "param": None,
}


def sent(form: Form, batches: Sequence[Sequence[Delta]] = HELLO) -> bytes:
    """Return all bytes of a complete reply in a form."""
    return form.start(META) + b"".join(map(form.encode, batches)) + form.finish()


def data_of(raw: bytes) -> list[Any]:
    """Return the data of each event before [DONE], which must be the last one."""
    events = [event.data for event in SSEParser().feed(raw)]
    assert events.pop() == "[DONE]"
    return [json.loads(data) for data in events]
