"""The bare text: the model's text and nothing else, as UTF-8.

It has no room for a heartbeat or an error, because every byte is read as the model's words. So a reply that breaks
off is cut without its last chunk, which every HTTP client notices.
"""

from __future__ import annotations

from collections.abc import Sequence

from cfchat.conversation.model import Delta, Source
from cfchat.replies.form import Form, describe_sources, text_of
from cfchat.wire.strict_json import encode_ascii

# Characters of ASCII. With it a head still fits into 4 KiB, beyond which nginx refuses it (`proxy_buffer_size`).
LONGEST_FIELD = 3072


class Text(Form):
    """The form of `Accept: text/plain`, and of a client that does not say what it wants.

    The second is labelled as an event stream, although it is none, because older front ends expect that label.
    """

    def __init__(self, content_type: str = "text/event-stream") -> None:
        self.content_type = content_type

    def source_fields(self, sources: Sequence[Source]) -> list[tuple[str, str]]:
        """Return a field with as many sources as fit it, the best first, as a list in JSON."""
        texts, room = [], LONGEST_FIELD - len("[]")
        for text in map(encode_ascii, describe_sources(sources)):
            if len(text) < room:
                texts.append(text)
                room -= len(text) + len(",")
        return [("X-Sources", f"[{','.join(texts)}]")] if texts else []

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """Return the text of the batch."""
        return text_of(deltas).encode()
