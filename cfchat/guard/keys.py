"""Who may ask, and how often: origins (CORS), API keys, rates, daily tokens, the address behind a proxy. Pure.

All state is bounded and in memory: it is this process's own, and begins anew with it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping

from cfchat.errors import Unauthorized

_BEARER = r"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)"
_KEY_LINE = r"([A-Za-z0-9._-]{1,64})[ \t]+([A-Za-z0-9._~+/-]{16,256}=*)"


class Keys:
    """The keys that open this server, each with a label for the log. Only their hashes are kept."""

    def __init__(self, hashes: Mapping[bytes, str]) -> None:
        self._hashes = dict(hashes)

    def __len__(self) -> int:
        return len(self._hashes)

    def label(self, authorization: str | None) -> str:
        """The label of the key in an Authorization field (RFC 6750 §2.1). Raises Unauthorized."""
        bearer = re.fullmatch(_BEARER, authorization or "")
        if bearer is None:
            raise Unauthorized("This server wants an API key: send `Authorization: Bearer ...`.")
        hashed, found = _hash(bearer[1]), ""
        for known, label in self._hashes.items():
            # Each is compared, and in constant time, so that the time tells nothing.
            if hmac.compare_digest(known, hashed):
                found = label
        if not found:
            raise Unauthorized("The API key is not valid.")
        return found


def parse_keys(text: str) -> Keys:
    """A line for each key: its label, a blank, the key; `#` begins a comment. Raises ValueError naming the line."""
    hashes: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        match = re.fullmatch(_KEY_LINE, words)
        if match is None:
            raise ValueError(f"line {number} is not a label, a blank and a key of at least 16 characters")
        hashed = _hash(match[2])
        if hashed in hashes or match[1] in hashes.values():
            raise ValueError(f"line {number} has a label or a key for a second time")
        hashes[hashed] = match[1]
    if not hashes:
        raise ValueError("holds no key")
    return Keys(hashes)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
