"""API keys: the file that lists them, and the check of a request's Authorization field (RFC 6750 §2.1).

Only hashes are kept, so a dump of the process shows no key. A key is compared with every hash, in constant time, so
the time of a refusal says nothing. Errors name the line of a file, never its text.
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
    """The keys that this server accepts. Each has a label, which the log shows instead of the key."""

    def __init__(self, hashes: Mapping[bytes, str]) -> None:
        self._hashes = dict(hashes)

    def __len__(self) -> int:
        return len(self._hashes)

    def find_label(self, authorization: str | None) -> str:
        """Return the label of the key in an Authorization field (RFC 6750 §2.1).

        Raises:
            Unauthorized: the field is missing or malformed, or the key is unknown.
        """
        bearer = re.fullmatch(_BEARER, authorization or "")
        if bearer is None:
            raise Unauthorized("This server wants an API key: send `Authorization: Bearer ...`.")
        hashed, label = _hash(bearer[1]), ""
        for known, known_label in self._hashes.items():  # to the end, so that the time says nothing
            if hmac.compare_digest(known, hashed):
                label = known_label
        if not label:
            raise Unauthorized("The API key is not valid.")
        return label


def parse_keys(text: str) -> Keys:
    """Read keys from text: a line for each with its label, a blank and the key; `#` begins a comment.

    Raises:
        ValueError: a line is malformed or repeats a label or a key, or there is no key. The message names the line.
    """
    hashes: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        match = re.fullmatch(_KEY_LINE, entry)
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
