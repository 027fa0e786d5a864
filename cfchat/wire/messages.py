"""HTTP/1.1 messages (RFC 9112), read and written, for both roles. Sans-I/O.

A reader takes bytes (`receive_data`, `receive_eof`) and gives events (`next_event`). It is in one of four states,
each a method that gives the next event, or None to go on in another state:

    start line -> field lines -> body -> (chunked only) trailers -> start line, or ended

Every verdict depends on a prefix of all bytes that came, never on how they were cut: lines are looked at up to
their limit and no further, and data before an error is given before the error.
What is ambiguous is refused, not repaired. After an error there is nothing but that error.
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
    char = chr(int(escape[1], 16))
    return char if re.fullmatch(_UNRESERVED, char) else escape[0]


def _persists(minor: int, fields: Fields) -> bool:
    """RFC 9112 §9.3."""
    if "connection" not in fields:
        return minor >= 1
    options = members(fields, "connection")
    return "close" not in options and (minor >= 1 or "keep-alive" in options)


class RequestHead(NamedTuple):
    """A request line and its fields. `minor` is 0 or 1: a later 1.x is read as 1.1."""

    method: str
    target: str
    minor: int
    fields: Fields

    @property
    def path(self) -> str:
        """The path, of an absolute target, too. Only unreserved characters are decoded (RFC 9110 §4.2.3)."""
        path = self._parts()[0]
        return re.sub(_ESCAPE, _decode_unreserved, path) if "%" in path else path

    @property
    def query(self) -> str:
        """What is behind the `?`."""
        return self._parts()[1]

    @property
    def host(self) -> str:
        """The host asked for: an absolute target's, else the Host field (RFC 9112 §3.2.2)."""
        absolute = re.fullmatch(grammar.ABSOLUTE_FORM, self.target.encode("latin-1"))
        return absolute[1].decode("latin-1") if absolute else self.fields.get("host") or ""

    @property
    def keep_alive(self) -> bool:
        """The client would use the connection again."""
        return _persists(self.minor, self.fields)

    @property
    def has_body(self) -> bool:
        """A body follows, though a chunked one may be empty (RFC 9112 §6)."""
        return "transfer-encoding" in self.fields or bool(self.fields.get("content-length", "").strip("0"))

    @property
    def expects_continue(self) -> bool:
        """The client waits for `100 Continue` (RFC 9110 §10.1.1: one of 1.0 never does)."""
        return self.minor >= 1 and "expect" in self.fields and "100-continue" in members(self.fields, "expect")

    @property
    def expects_something_else(self) -> bool:
        """The client expects what nobody knows (RFC 9110 §10.1.1: 417)."""
        told = self.minor >= 1 and "expect" in self.fields
        return told and not set(members(self.fields, "expect")) <= {"", "100-continue"}

    def _parts(self) -> tuple[str, str]:
        target = self.target
        if not target.startswith("/"):
            absolute = re.fullmatch(grammar.ABSOLUTE_FORM, target.encode("latin-1"))
            if absolute:
                return (absolute[2] or b"/").decode("latin-1"), (absolute[3] or b"").decode("latin-1")
        path, _, query = target.partition("?")
        return path, query


class ResponseHead(NamedTuple):
    """A status line and its fields."""

    status: int
    reason: str
    minor: int
    fields: Fields

    @property
    def keep_alive(self) -> bool:
        """The server would use the connection again."""
        return _persists(self.minor, self.fields)


class Data(NamedTuple):
    """Some of a body, never empty."""

    data: bytes


class EndOfMessage(NamedTuple):
    """A message is complete. Trailers are never merged into fields (RFC 9110 §6.5.1)."""

    trailers: Fields = NO_FIELDS


class Need(enum.Enum):
    """Not an event of the peer: why there is none."""

    DATA = "the next event needs more bytes"
    CLOSED = "the peer has ended the connection, and not inside a message"


NEED_DATA: Final = Need.DATA
CLOSED: Final = Need.CLOSED


class ReadLimits(NamedTuple):
    """Limits of what is read, in bytes where nothing else is said. Line ends don't count in `line`s."""

    line: int = 8192  # request or status line
    head: int = 32 * 1024  # all field lines, with their ends
    fields: int = 100  # their number, and that of trailers
    body: int | None = 1 << 20  # None: no limit
    chunk_line: int = 4096
    chunk_extensions_total: int = 16 * 1024
    chunks: int = 65_536  # their number, where a body has a limit
    trailers: int = 8192
    skipped_lines: int = 4  # empty lines before a request
    informational: int = 8  # 1xx heads before a response
