"""Heads of HTTP/1.1 messages as bytes (RFC 9112).

Every name and value is checked against the grammar before it is written, so that no text can inject a field or a
second message. A text that fails is refused with ValueError, not repaired, and never shown: it may be a secret.
Fields that many heads have in common are encoded once by the caller and passed as `encoded`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus

from cfchat.wire import grammar


def encode_request_head(method: str, target: str, fields: Iterable[tuple[str, str]], encoded: bytes = b"") -> bytes:
    """Return a request head of HTTP/1.1. `encoded` are more field lines, from `encode_fields`.

    Raises:
        ValueError: the grammar does not allow the method, the target, a name or a value.
    """
    line = _check(grammar.TOKEN, method, "method"), _check(grammar.TARGET, target, "target")
    return b"%b %b HTTP/1.1\r\n" % line + encoded + encode_fields(fields) + b"\r\n"


def encode_fields(fields: Iterable[tuple[str, str]]) -> bytes:
    """Return the lines of these fields.

    Raises:
        ValueError: the grammar does not allow a name or a value.
    """
    return b"".join([_encode_field(name, value) for name, value in fields])


def encode_response_head(status: int, fields: Iterable[tuple[str, str]], encoded: bytes = b"") -> bytes:
    """Return a response head of HTTP/1.1, with the usual reason if the status has one; `encoded` as for a request.

    Raises:
        ValueError: the status is not between 100 and 599, or the grammar does not allow a name or a value.
    """
    if not 100 <= status <= 599:
        raise ValueError("the status is not between 100 and 599")
    lines = [(_encode_field if value[_MOST_KEPT:] else _encode_known_field)(name, value) for name, value in fields]
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (status, _REASONS.get(status, b""), b"".join(lines), encoded)


_REASONS = {int(status): status.phrase.encode("ascii") for status in HTTPStatus}


def _encode_field(name: str, value: str) -> bytes:
    line = _check(grammar.TOKEN, name, "field name"), _check(grammar.FIELD_VALUE, value, "field value")
    return b"%b: %b\r\n" % line


_MOST_KEPT = 256  # characters of a value: a client may choose one of 30 KiB, and no cache may keep many of those
# Most fields of a response were in the last one, too. Fields of requests are not cached: they hold the API token.
_encode_known_field = lru_cache(maxsize=256)(_encode_field)


def _check(pattern: grammar.Pattern, text: str, what: str) -> bytes:
    """Return the text as bytes if the pattern matches. The error names only `what` it is: the text may be a secret."""
    try:
        encoded = text.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"a {what} is not Latin-1") from None
    if not pattern.fullmatch(encoded):
        raise ValueError(f"a {what} is malformed")
    return encoded
