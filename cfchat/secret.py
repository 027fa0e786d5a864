"""A value that must not be shown, and how it is taken out of a text of others.

Logs, tracebacks and error messages print values by their repr. A secret is wrapped where it is read and unwrapped
only where it goes onto the wire, so no line in between can print it by accident.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SHARED, SHORTEST = 8, 4  # characters
# A long word with a letter and a digit: a token that we do not know, or one of ours in base64.
_TOKEN_LIKE = re.compile(r"(?=[A-Za-z+/=_-]*[0-9])(?=[0-9+/=_-]*[A-Za-z])[A-Za-z0-9+/=_-]{20,}")


class Secret:
    """A string whose repr is `***`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._value

    def __repr__(self) -> str:
        return "***"


def redact(text: str, secrets: Sequence[str]) -> str:
    """Return a text with `***` for each part that may be secret.

    That is what it has in common with one of `secrets`, in upper or lower case, if it is SHARED characters or longer
    or the whole secret; and each word that looks like a token. For short texts: the work grows with the length of both.

    >>> redact("Authorization: bearer MY-TOKEN-OF-OLD and 0123abcd0123abcd0123", ["my-token-of-old"])
    'Authorization: bearer *** and ***'
    """
    folded = _fold(text)
    hidden = [match.span() for match in _TOKEN_LIKE.finditer(text)]
    for secret in map(_fold, secrets):
        size = min(len(secret), SHARED)
        if size >= SHORTEST:
            starts = range(len(folded) - size + 1)
            hidden += [(start, start + size) for start in starts if folded[start : start + size] in secret]
    pieces: list[str] = []
    end = 0
    for start, stop in sorted(hidden):
        if start > end or not pieces:
            pieces += [text[end:start], "***"]
        end = max(end, stop)
    return "".join([*pieces, text[end:]])


def _fold(text: str) -> str:
    """Return the text in lower case, and just as long."""
    return "".join([char.lower() if char.isascii() else char for char in text])
