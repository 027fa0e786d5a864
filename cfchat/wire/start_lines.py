"""Start lines of HTTP/1.1 messages (RFC 9112 §3, §4): a request line or a status line, without its CRLF.

A connection repeats its start line with every message, so the last few results are kept. Few, because a line may
have 8 KiB. A line that the grammar does not match is refused, not repaired.
"""

from __future__ import annotations

import re
from functools import lru_cache

from cfchat.errors import ProtocolError, UnsupportedVersion
from cfchat.wire import grammar


@lru_cache(maxsize=16)
def parse_request_line(line: bytes) -> tuple[str, str, int]:
    """Return method, target and minor version of a request line (RFC 9112 §3).

    Raises:
        ProtocolError: the line or its target is malformed.
        UnsupportedVersion: the version is not 1.x.
    """
    match = grammar.REQUEST_LINE.fullmatch(line)
    if match is None:
        raise ProtocolError("The request line is malformed.")
    minor, method = _parse_version(match[3], match[4]), match[1].decode("ascii")
    _check_target(method, match[2])
    return method, match[2].decode("ascii"), minor


@lru_cache(maxsize=16)
def parse_status_line(line: bytes) -> tuple[int, str, int]:
    """Return status, reason and minor version of a status line (RFC 9112 §4).

    Raises:
        ProtocolError: the line is malformed.
        UnsupportedVersion: the version is not 1.x.
    """
    match = grammar.STATUS_LINE.fullmatch(line)
    if match is None:
        raise ProtocolError("The status line is malformed.")
    return int(match[3]), (match[4] or b"").decode("latin-1"), _parse_version(match[1], match[2])


def _parse_version(major: bytes, minor: bytes) -> int:
    """Return the minor version: 0, or 1 for any later 1.x (RFC 9110 §2.5)."""
    if major != b"1":
        raise UnsupportedVersion("Only HTTP/1.0 and HTTP/1.1 are supported.")
    return min(int(minor), 1)


def _check_target(method: str, target: bytes) -> None:
    """Refuse a target whose form does not belong to the method (RFC 9112 §3.2)."""
    if method == "CONNECT":
        valid = bool(grammar.AUTHORITY.fullmatch(target))
    elif target == b"*":
        valid = method == "OPTIONS"
    elif target.startswith(b"/"):
        valid = True
    else:
        absolute = re.fullmatch(grammar.ABSOLUTE_FORM, target)
        # RFC 9110 §4.2.1: an http URI must have a host.
        valid = bool(absolute and absolute[1][:1] != b":" and grammar.HOST.fullmatch(absolute[1]))
    if not valid:
        raise ProtocolError("The request target is malformed.")
