"""HTTP/1.1 messages (RFC 9112), read and written, for both roles. Sans-I/O.

A reader takes bytes (`receive_data`, `receive_eof`) and gives events (`next_event`). It is in one of four states,
each a method that gives the next event, or None to go on in another state:

    start line -> field lines -> body -> (chunked only) trailers -> start line, or ended

Every verdict depends on a prefix of all bytes that came, never on how they were cut: lines are looked at up to
their limit and no further, and data before an error is given before the error.
What is ambiguous is refused, not repaired. After an error there is nothing but that error.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus

from cfchat.wire import grammar


def encode_request_head(
    method: str, target: str, fields: Iterable[tuple[str, str]], encoded: bytes = b""
) -> bytes:
    """A request head of HTTP/1.1. `encoded` are fields that `encode_fields` made once for many.

    Raises:
        ValueError: the method, the target, a name or a value is not what the grammar allows.
    """
    line = b"%b %b HTTP/1.1\r\n" % (
        _checked(grammar.TOKEN, method, "method"),
        _checked(grammar.TARGET, target, "target"),
    )
    return line + encoded + encode_fields(fields) + b"\r\n"


def encode_fields(fields: Iterable[tuple[str, str]]) -> bytes:
    """The lines of these fields. Raises ValueError as `encode_request_head` does."""
    return b"".join([_encode_field(name, value) for name, value in fields])


def encode_response_head(status: int, fields: Iterable[tuple[str, str]], encoded: bytes = b"") -> bytes:
    """A response head of HTTP/1.1, with the standard reason where there is one; `encoded` as for a request.

    Raises:
        ValueError: the status, a name or a value is not what the grammar allows.
    """
    if not 100 <= status <= 599:
        raise ValueError("the status is not between 100 and 599")
    lines = [_encode_known_field(name, value) for name, value in fields]
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (status, _REASONS.get(status, b""), b"".join(lines), encoded)


_REASONS = {int(status): status.phrase.encode("ascii") for status in HTTPStatus}


def _encode_field(name: str, value: str) -> bytes:
    checked = _checked(grammar.TOKEN, name, "field name"), _checked(grammar.FIELD_VALUE, value, "field value")
    return b"%b: %b\r\n" % checked


# Most fields of a response are those of the last one, too. (Not of requests: a token should be in one place only.)
_encode_known_field = lru_cache(maxsize=256)(_encode_field)


def _checked(pattern: grammar.Pattern, text: str, what: str) -> bytes:
    """The text as bytes. The message names the kind of text only: the text may be a secret."""
    try:
        encoded = text.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"a {what} is not Latin-1") from None
    if not pattern.fullmatch(encoded):
        raise ValueError(f"a {what} is malformed")
    return encoded
