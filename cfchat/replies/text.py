"""The bare text wire: the model's words and nothing else, as UTF-8."""

from __future__ import annotations

from collections.abc import Sequence

from cfchat.conversation.model import Delta
from cfchat.replies.form import Form, text_of


class Text(Form):
    """The bytes are no event stream, but that is the label that the seed system's front ends know.

    An error in the text would be read aloud as the model's words, so a reply that breaks is cut.
    """

    def __init__(self, content_type: str = "text/event-stream") -> None:
        self.content_type = content_type

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """The text."""
        return text_of(deltas).encode()
