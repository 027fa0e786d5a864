"""Read the images of a user's message. Pure.

An image comes as a `data:` URL (RFC 2397) and goes on as one: nothing is ever fetched. It must be base64 to the letter
(RFC 4648 §4: its alphabet and padding, nothing between), of a type that models take, and its first bytes must fit that
type. Only these are decoded; the text is checked piece by piece, and kept as it came. A reader that finds a shape of a
client's names its place, and repeats nothing of it.
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cfchat.errors import BadChatRequest, BadOption, InvalidImage

MOST_IMAGES = 16  # of a conversation
MOST_BYTES = 4 << 20  # of one image, decoded
# What an image costs, rather too many than too few. Gemma 4 takes at most 1,120 (ai.google.dev/gemma/docs/capabilities/
# vision), Llama 4 17 tiles of 144, Mistral Small 3.1 one for 28 x 28 of 1,540 x 1,540 pixels, Kimi at most 4,096.
TOKENS_OF_IMAGE = 4096

_HEAD = re.compile(r"data:(image/(?:png|jpeg|webp|gif));base64,", re.ASCII | re.IGNORECASE)
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_PIECE = 1 << 16  # characters that are checked at once
_FIRST = 16  # characters: the 12 bytes that tell the type
_BEGINS: Mapping[str, re.Pattern[bytes]] = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/webp": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "image/gif": re.compile(rb"GIF8[79]a"),
}


@dataclass(frozen=True, slots=True, repr=False)
class Image:
    """An image of a user's message, by its URL: `data:image/png;base64,...`, also of type jpeg, webp or gif.

    Raises:
        InvalidImage: the URL is another one, its base64 or its first bytes are wrong, or it has more than 4 MiB.

    >>> import cfchat
    >>> image = cfchat.Image("data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA7")
    >>> cfchat.Message("user", "What is this?", images=(image,)).images
    (Image(image/gif, 24 bytes),)
    >>> image.read()[:6]
    b'GIF89a'
    """

    url: str

    def __post_init__(self) -> None:
        head = _HEAD.match(self.url)
        if head is None:
            raise InvalidImage("Send the image itself as a data: URL of PNG, JPEG, WebP or GIF in base64.")
        _check_data(self.url, head.end(), head[1].lower())
        if head[0] != head[0].lower():
            object.__setattr__(self, "url", head[0].lower() + self.url[head.end() :])

    @property
    def media_type(self) -> str:
        """The type that the URL names, such as `image/png`."""
        return self.url[5 : self.url.index(";")]

    @property
    def size(self) -> int:
        """The number of bytes."""
        return _size(self.url, self.url.index(",") + 1)

    def read(self) -> bytes:
        """Return the bytes. They are decoded for each call, and not kept."""
        return a2b_base64(self.url[self.url.index(",") + 1 :])

    def __repr__(self) -> str:
        return f"Image({self.media_type}, {self.size} bytes)"


def _check_data(url: str, start: int, media_type: str) -> None:
    """Check what stands behind the head of a data: URL.

    Raises:
        InvalidImage: it is too large, not base64, or not of this type.
    """
    if _size(url, start) > MOST_BYTES:
        raise InvalidImage(f"An image can have {MOST_BYTES >> 20} MiB at most.")
    if (len(url) - start) % 4 or not url.isascii() or _has_others(url, start, len(url) - _padding(url)):
        raise InvalidImage("The image is not base64: A to Z, a to z, 0 to 9, + and /, padded with =, without blanks.")
    if not _BEGINS[media_type].match(a2b_base64(url[start : start + _FIRST])):
        raise InvalidImage(f"The image does not begin as {media_type} does: name its real type in the URL.")


def _has_others(url: str, start: int, end: int) -> bool:
    """Return whether a character between these places is not of the alphabet."""
    pieces = (url[at : min(at + _PIECE, end)] for at in range(start, end, _PIECE))
    return any(piece.encode("ascii").translate(None, _ALPHABET) for piece in pieces)


def _padding(url: str) -> int:
    return 2 if url.endswith("==") else 1 if url.endswith("=") else 0


def _size(url: str, start: int) -> int:
    """Return the bytes of the base64 that stands behind `start`."""
    return (len(url) - start) // 4 * 3 - _padding(url)


# --- the shapes of clients --------------------------------------------------------------------------

# Where the type of an image may stand, and where its URL: in chat completions `{"type": "image_url", "image_url":
# {"url": U}}` (or U itself); in OpenAI's responses `{"type": "input_image", "image_url": U}`; in the AI SDK `{"type":
# "file", "mediaType": "image/png", "url": U}`, of its version 4 `contentType` or `mimeType`, in its prompts `{"type":
# "image", "image": U}`; in deep-chat `{"type": "image", "src": U}`.
_TYPES = ("type", "mediaType", "mimeType", "contentType")
_URLS = ("image_url", "image", "url", "src", "data")
_IMAGE_TYPE = re.compile(r"(?:input_)?image(?:_url|/.*)?", re.ASCII | re.IGNORECASE | re.DOTALL)
_IMAGE_URL = re.compile(r"data:image/", re.ASCII | re.IGNORECASE)
# Keys of a message that list its files: of deep-chat, and of the AI SDK's version 4.
ATTACHMENTS = ("files", "experimental_attachments")
NO_FILES = "Audio, video and documents are not supported: send text."


def is_image(part: Mapping[str, object]) -> bool:
    """Return whether a part or an attachment is an image, by its type or its URL."""
    if any(isinstance(kind, str) and _IMAGE_TYPE.fullmatch(kind) for kind in map(part.get, _TYPES)):
        return True
    url = _find_url(part)
    return isinstance(url, str) and _IMAGE_URL.match(url) is not None


def read_image(part: Mapping[str, object], place: str, role: str) -> Image:
    """Read a part or an attachment that is an image.

    Raises:
        InvalidImage: it is wrong, or not a user's.
    """
    if role != "user":
        raise InvalidImage("Only a message of the user can hold images.", param=place)
    url = _find_url(part)
    try:
        return Image(url if isinstance(url, str) else "")
    except InvalidImage as error:
        error.param = place
        raise


def _find_url(part: Mapping[str, object]) -> object:
    url = next((value for value in map(part.get, _URLS) if value is not None), None)
    return url.get("url") if isinstance(url, dict) else url


def find_attachments(message: Mapping[str, object], place: str) -> Iterator[tuple[Mapping[str, object], str]]:
    """Give the images that a message lists beside its text, each with its place.

    Raises:
        BadChatRequest: one is no image.
    """
    for key in ATTACHMENTS:
        items = message.get(key) or []
        if not isinstance(items, list):
            raise BadChatRequest("The files of a message must be a list.", param=f"{place}.{key}")
        for index, item in enumerate(items):
            where = f"{place}.{key}[{index}]"
            if not isinstance(item, dict) or not is_image(item):
                raise BadChatRequest(NO_FILES, param=where)
            yield item, where


def check_model(model: str, sees: Callable[[str], bool], offered: Sequence[str]) -> None:
    """Check that the model of a conversation with images takes them; `offered` are those that a client may name.

    Raises:
        BadOption: it does not; the message names those that do.
    """
    if not sees(model):
        others = ", ".join(list(filter(sees, offered))[:10])
        advice = f"These do: {others}." if others else "None does that is offered here: send text."
        raise BadOption(f"This model does not take images. {advice}", param="model")
