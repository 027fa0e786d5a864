"""A short reply, complete and interrupted, and its bytes in a form; and any reply at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from cfchat.conversation.model import Delta, ToolCall
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


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)


@st.composite
def replies(draw: st.DrawFn) -> list[list[Delta]]:
    """The batches of a whole reply, with calls of tools whose pieces alternate."""
    begun: set[int] = set()

    def piece(index: int) -> ToolCall:
        if index in begun:
            return ToolCall(index, "", "", draw(WORDS))
        begun.add(index)
        return ToolCall(index, draw(st.sampled_from(["", f"id-{index}"])), draw(WORDS), draw(WORDS))

    deltas = []
    for _ in range(draw(st.integers(0, 8))):
        what = draw(st.sampled_from(["text", "text", "reasoning", "calls", "all"]))
        calls = draw(st.lists(st.integers(0, 2), max_size=3)) if what in ("calls", "all") else []
        text, reasoning = (draw(WORDS) if what in (kind, "all") else "" for kind in ("text", "reasoning"))
        deltas.append(Delta(text, reasoning=reasoning, tool_calls=tuple(map(piece, calls))))
    reasons = st.sampled_from(["stop", "length", "tool_calls", "content_filter", "other"])
    usages = st.none() | st.just(USAGE) | st.just({"input_tokens": 2, "output_tokens": 3.0})
    deltas.append(Delta(draw(WORDS), draw(reasons), draw(usages), draw(WORDS)))
    cuts = draw(st.sets(st.integers(1, len(deltas) - 1))) if len(deltas) > 1 else set()
    return [deltas[begin:end] for begin, end in pairwise([0, *sorted(cuts), len(deltas)])]
