"""Read which pages AI Search has found for a reply. Pure.

AI Search sends them before the words, as one event with a list of chunks; several chunks may be of one page. What
stands in them is chosen by the authors of the pages, and nothing of it can break the reply: what is odd is left out.
A page is a link only if its key is an http or https URL, or a path below the base URL that the operator gave.
Source: developers.cloudflare.com/ai-search/how-to/chunk-citations.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

from cfchat.conversation.model import Source

MOST_SOURCES = 10
LONGEST_TITLE, LONGEST_URL = 200, 2048  # characters
# What would break a line, hide what is said, or cannot be encoded.
_CONTROLS = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_CONTROL = re.compile(f"[{_CONTROLS}]")
_BLANKS = re.compile(rf"[\s{_CONTROLS}]+")
# A host without a user before it: `https://bank.example@evil.example` looks like what it is not.
_WEB = re.compile(r"(?i:https?)://(?:[^\s/?#@:\\\[\]]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:[/?#].*)?", re.DOTALL)
_URL_CHARACTERS = "/?#[]@!$&'()*+,;=:%~"


class Sources:
    """The pages of one reply: each page once, ten at most. `base_url` is empty or ends with a slash.

    `size` counts the bytes of the texts that were found, which the model reads before it answers.
    """

    def __init__(self, base_url: str = "") -> None:
        self.found: list[Source] = []
        self.size = 0
        self._base_url = base_url
        self._keys: set[str] = set()

    def read(self, data: str) -> tuple[Source, ...]:
        """Return the pages that are new, the best first. `data` is a list of chunks, or a whole reply that has one."""
        try:
            value = json.loads(data)  # not strict_json: a score that is NaN is no reason to lose the pages
        except (ValueError, RecursionError):
            return ()
        before, best = len(self.found), dict[str, tuple[float, Any]]()
        for chunk in _chunks(value):
            self.size += len(_text(chunk, "text").encode("utf-8", "replace"))
            item, score = chunk.get("item"), _score(chunk.get("score"))
            key = _text(item, "key")
            if key and key not in self._keys and (key not in best or score > best[key][0]):
                best[key] = score, item
        # Titles and links are made for few pages only: a hostile event could hold a hundred thousand.
        for key, (score, item) in sorted(best.items(), key=lambda page: -page[1][0]):
            if len(self.found) == MOST_SOURCES:
                break
            if title := _title(item) or _line(key):
                self.found.append(Source(title, _link(key, self._base_url), score))
                self._keys.add(key)
        return tuple(self.found[before:])


def _chunks(value: Any) -> list[dict[str, Any]]:
    """Return the chunks in an event, or in a whole reply, which may stand in Cloudflare's envelope."""
    for name in ("result", "chunks"):
        if type(value) is dict:
            value = value.get(name, value)
    return [chunk for chunk in value if type(chunk) is dict] if type(value) is list else []


def _text(value: object, name: str) -> str:
    """Return the text of this name in an object; an empty text if there is none."""
    text = value.get(name) if type(value) is dict else None
    return text if isinstance(text, str) else ""


def _title(item: dict[str, Any]) -> str:
    return _line(_text(item.get("metadata"), "title"))


def _line(text: str) -> str:
    """Return the beginning of a text as one line, without what would hide or change the rest."""
    line = _BLANKS.sub(" ", text[: 2 * LONGEST_TITLE]).strip()
    return line if len(line) <= LONGEST_TITLE else line[: LONGEST_TITLE - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _score(value: object) -> float:
    # The bound leaves out NaN, infinities, and numbers that a float cannot hold. A boolean is an int, too.
    known = isinstance(value, (int, float)) and type(value) is not bool and abs(value) < 1e15
    return float(value) if known else 0.0  # type: ignore[arg-type]


def _link(key: str, base_url: str) -> str | None:
    """Return the URL of a page; None if its key is only a name."""
    if len(key) > LONGEST_URL or _CONTROL.search(key):
        return None
    if _WEB.fullmatch(key):
        url = quote(key, safe=_URL_CHARACTERS)
    else:
        # RFC 3986 §4.2: a path with a colon in its first part looks like a scheme. Browsers take `..` for the folder
        # above, which may be outside of the base URL.
        path, parts = key.lstrip("/"), key.split("/")
        if not (base_url and path) or ":" in parts[0] or "." in parts or ".." in parts:
            return None
        url = base_url + quote(path)
    return url if len(url) <= LONGEST_URL else None
