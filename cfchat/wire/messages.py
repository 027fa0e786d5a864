"""The parts of HTTP messages, as the readers give them: heads, data, ends, and the limits of reading.

All are immutable tuples. A head answers the questions that RFC 9110 and 9112 ask of its fields: whether the
connection stays open, whether a body follows, what the client expects. Nothing here reads bytes or knows a state.
"""

from __future__ import annotations

import enum
import re
from typing import Final, NamedTuple

from cfchat.wire import grammar
from cfchat.wire.fields import NO_FIELDS, Fields, members

_ESCAPE = "%([2-7][0-9A-Fa-f])"
_UNRESERVED = "[A-Za-z0-9._~-]"


def _decode_unreserved(escape: re.Match[str]) -> str:
    """Return the character that an escape stands for if it is unreserved, else the escape itself."""
    char = chr(int(escape[1], 16))
    return char if re.fullmatch(_UNRESERVED, char) else escape[0]


def _is_persistent(minor: int, fields: Fields) -> bool:
    """Return whether the connection stays open after the message (RFC 9112 §9.3)."""
    option = fields.get("connection")
    if option is None or option == "keep-alive":
        return minor >= 1 or option is not None
    options = members(fields, "connection")
    return "close" not in options and (minor >= 1 or "keep-alive" in options)


class RequestHead(NamedTuple):
    """A request line and its fields. `minor` is 0 or 1: any later 1.x counts as 1.1."""

    method: str
    target: str
    minor: int
    fields: Fields

    @property
    def path(self) -> str:
        """Return the path without the query, with unreserved characters decoded (RFC 9110 §4.2.3)."""
        target = self.target
        absolute = None if target.startswith("/") else re.fullmatch(grammar.ABSOLUTE_FORM, target.encode("latin-1"))
        path = (absolute[2] or b"/").decode("latin-1") if absolute else target.partition("?")[0]
        return re.sub(_ESCAPE, _decode_unreserved, path) if "%" in path else path

    @property
    def keep_alive(self) -> bool:
        """Return whether the client wants to use the connection again."""
        return _is_persistent(self.minor, self.fields)

    @property
    def has_body(self) -> bool:
        """Return whether a body follows; if it is chunked, it may still be empty (RFC 9112 §6)."""
        return "transfer-encoding" in self.fields or bool(self.fields.get("content-length", "").strip("0"))

    @property
    def expects_continue(self) -> bool:
        """Return whether the client waits for `100 Continue`; in HTTP/1.0 it never does (RFC 9110 §10.1.1)."""
        return self.minor >= 1 and "expect" in self.fields and "100-continue" in members(self.fields, "expect")

    @property
    def expects_something_else(self) -> bool:
        """Return whether the client expects anything else, which is answered with 417 (RFC 9110 §10.1.1)."""
        expects = self.minor >= 1 and "expect" in self.fields
        return expects and not set(members(self.fields, "expect")) <= {"", "100-continue"}


class ResponseHead(NamedTuple):
    """A status line and its fields."""

    status: int
    reason: str
    minor: int
    fields: Fields

    @property
    def keep_alive(self) -> bool:
        """Return whether the server wants to use the connection again."""
        return _is_persistent(self.minor, self.fields)


class Data(NamedTuple):
    """A piece of a body, never empty."""

    data: bytes


class EndOfMessage(NamedTuple):
    """The end of a complete message. Trailers are never merged into the header fields (RFC 9110 §6.5.1)."""

    trailers: Fields = NO_FIELDS


class Need(enum.Enum):
    """The reason why there is no event."""

    DATA = "the next event needs more bytes"
    CLOSED = "the peer ended the connection between two messages"


NEED_DATA: Final = Need.DATA
CLOSED: Final = Need.CLOSED


class ReadLimits(NamedTuple):
    """The limits of reading, in bytes unless a comment says otherwise. `line` and `chunk_line` are without CRLF."""

    line: int = 8192  # request or status line
    head: int = 32 * 1024  # all field lines, with each CRLF
    fields: int = 100  # the number of header fields, and of trailers
    body: int | None = 1 << 20  # None: no limit
    chunk_line: int = 4096
    chunk_extensions_total: int = 16 * 1024
    chunks: int = 65_536  # the number of chunks, if `body` has a limit
    trailers: int = 8192
    skipped_lines: int = 4  # empty lines before a request
    informational: int = 8  # 1xx heads before a response
