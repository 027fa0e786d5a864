"""Images as clients send them: the smallest of each type, and shapes of their parts."""

from __future__ import annotations

import base64
from collections.abc import Mapping

FIRST_BYTES = {
    "image/png": b"\x89PNG\r\n\x1a\n" + bytes(8),
    "image/jpeg": b"\xff\xd8\xff\xe0" + bytes(8),
    "image/webp": b"RIFF\x0a\x00\x00\x00WEBPVP8 ",
    "image/gif": b"GIF89a" + bytes(8),
}


def url_of(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def url_of_size(size: int, media_type: str = "image/png") -> str:
    """The URL of an image of so many bytes."""
    return url_of(FIRST_BYTES[media_type].ljust(size, b"\x5a"), media_type)


PNG, GIF = url_of_size(40), url_of_size(30, "image/gif")


def asked(url: str, text: str = "What is this?") -> list[Mapping[str, object]]:
    """A conversation of one message with an image, as OpenAI's clients send it."""
    return [
        {"role": "user", "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]}
    ]
