"""The bare text wire: the model's words and nothing else, as UTF-8."""

from __future__ import annotations

from collections.abc import Sequence

from cfchat.chat import Delta

# The label that the seed system's front ends know; the bytes are not an event stream.
CONTENT_TYPE = "text/event-stream"


def encode(deltas: Sequence[Delta]) -> bytes:
    """The text of a batch; empty where it holds none. A piece never ends inside a character."""
    return "".join([delta.text for delta in deltas]).encode()
