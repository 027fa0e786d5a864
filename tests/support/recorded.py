"""Cloudflare's recorded replies, and strategies for replies that were never recorded."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from places import DATA

from cfchat.upstream.cloudflare.models import thinks_first

STREAMS = sorted(path.stem for path in (DATA / "streams").glob("*.sse"))
ERRORS = sorted(path.stem for path in (DATA / "errors").glob("*.json"))


def load(folder: str, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DATA / folder / f"{name}.json").read_text("utf-8"))
    return document


def stream_bytes(name: str) -> bytes:
    return (DATA / "streams" / f"{name}.sse").read_bytes()


def shape_of(expected: dict[str, Any]) -> tuple[int, bool, bool, bool]:
    """Return what a ReplyReader needs to know of the request that a recorded stream answered."""
    named = thinks_first(expected.get("model", ""))
    return expected.get("request_max_tokens", 2048), named, "tools" in expected, "json_mode" in expected


KEYS = ("response", "choices", "delta", "content", "reasoning", "finish_reason", "usage", "total_tokens")
MORE_KEYS = (
    "response_text",
    "completion_tokens",
    "error",
    "errors",
    "code",
    "message",
    "success",
    "result",
    "output",
    "tool_calls",
    "text",
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS + MORE_KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
DELTA_KEYS = ("content", "reasoning", "reasoning_content", "tool_calls")
DELTAS = VALUES | st.dictionaries(st.sampled_from(DELTA_KEYS), VALUES, max_size=3)
CHUNKS = DELTAS.map(lambda delta: {"choices": [{"delta": delta, "message": delta}]})
# Events of the Responses API.
KINDS = st.sampled_from(("created", "output_text.delta", "reasoning_text.delta", "output_item.done", "completed"))
TYPED_KEYS = ("response", "delta", "item", "output", "status", "incomplete_details", "content", "text", "type")
PARTS = st.dictionaries(st.sampled_from(TYPED_KEYS), VALUES, max_size=3)
ITEMS = st.builds(
    lambda kind, parts: {**parts, "type": kind, "content": [parts]},
    st.sampled_from(("message", "reasoning", "function_call")),
    PARTS,
)
TYPED = st.builds(
    lambda kind, event, item: {"type": f"response.{kind}", "response": {"output": [item]}, "item": item, **event},
    KINDS,
    PARTS,
    ITEMS,
)
REPLIES = VALUES | CHUNKS | TYPED | st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3)
