"""How long a body is (RFC 9112 §6): the rules that decide from the fields of a head.

Two readers that disagree about a length see different messages behind it: that is request smuggling. So a field
that could be read in two ways is refused, even where RFC 9112 would let a recipient repair it.
"""

from __future__ import annotations

import re

from cfchat.errors import ProtocolError, UnknownCoding
from cfchat.wire import grammar
from cfchat.wire.fields import Fields, members

# Whether a body is chunked, and the length that is declared, if one is.
Framing = tuple[bool, int | None]


def framing_of(minor: int, fields: Fields) -> Framing:
    """Return how the body of a message with these fields is framed (RFC 9112 §6).

    Raises:
        ProtocolError: as `is_chunked` and `content_length` do. UnknownCoding: likewise.
    """
    return (True, None) if is_chunked(minor, fields) else (False, content_length(fields))


def is_chunked(minor: int, fields: Fields) -> bool:
    """Return whether the body is chunked (RFC 9112 §6.1).

    Raises:
        ProtocolError: Transfer-Encoding is malformed, comes with Content-Length, or comes in HTTP/1.0.
        UnknownCoding: Transfer-Encoding names another coding than chunked.
    """
    value = fields.get("transfer-encoding")
    if value is None:
        return False
    if "content-length" in fields or minor < 1:
        raise ProtocolError("Transfer-Encoding with Content-Length, or in HTTP/1.0, is refused.")
    if value == "chunked":
        return True
    if not re.fullmatch(grammar.TOKEN_LIST, value.encode("latin-1")):
        raise ProtocolError("Transfer-Encoding is malformed.")
    codings = members(fields, "transfer-encoding")
    if "chunked" in codings[:-1]:
        raise ProtocolError("The chunked coding must come once, as the last one.")
    if codings != ["chunked"]:
        raise UnknownCoding("The only transfer coding that is supported is chunked.")
    return True


def content_length(fields: Fields) -> int | None:
    """Return the declared length in bytes, or None if there is no Content-Length (RFC 9112 §6.3).

    Raises:
        ProtocolError: Content-Length is malformed. A list is, too, even one of equal lengths.
    """
    value = fields.get("content-length")
    if value is None:
        return None
    if not grammar.CONTENT_LENGTH.fullmatch(value.encode("latin-1")):
        raise ProtocolError("Content-Length is malformed.")
    digits = value.lstrip("0") or "0"
    # int() refuses thousands of digits, and no body has a length of twenty.
    return int(digits) if len(digits) < 20 else 10**19
