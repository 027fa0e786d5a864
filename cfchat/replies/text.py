"""The bare text: the model's text and nothing else, as UTF-8.

It has no room for a heartbeat or an error, because every byte is read as the model's words. So a reply that breaks
off is cut without its last chunk, which every HTTP client notices.
"""

from __future__ import annotations

from collections.abc import Sequence

from cfchat.conversation.model import Delta
from cfchat.replies.form import Form, text_of


class Text(Form):
    """The form of `Accept: text/plain`, and of a client that does not say what it wants.

    The second is labelled as an event stream, although it is none, because older front ends expect that label.
    """

    def __init__(self, content_type: str = "text/event-stream") -> None:
        self.content_type = content_type

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """Return the text of the batch."""
        return text_of(deltas).encode()
