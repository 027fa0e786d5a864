"""The bare text wire, to the byte."""

from __future__ import annotations

from reply_forms import BROKEN, sent

from cfchat.replies.text import Text


def test_text() -> None:
    assert sent(Text()) == b"Hello"
    assert Text().fail(BROKEN) == b"" and Text().heartbeat == b""
