"""The grammar of RFC 9110, 9112 and 3986, as patterns on bytes.

All are for `fullmatch`. None can backtrack more than a fixed number of times over one byte: where two parts
could share a byte, the quantifier is possessive. What few connections need is not compiled, here as elsewhere:
`re` does that, and keeps it, when it is first asked for.
"""

from __future__ import annotations

import re
from functools import cache

Pattern = re.Pattern[bytes]

_TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_VCHAR = rb"[!-~\x80-\xff]"  # field-vchar: VCHAR / obs-text
_TEXT = rb"[\t -~\x80-\xff]"
_BWS = rb"[ \t]*+"

# RFC 9110 §5.6.2
TOKEN = re.compile(_TCHAR + rb"+")

# RFC 9110 §5.5, without the whitespace around it
FIELD_VALUE = re.compile(rb"(?:%b(?:[ \t]*+%b++)*+)?" % (_VCHAR + rb"++", _VCHAR))

# RFC 9112 §5: no space before the colon, no folded line. The whitespace around the value is still on it.
FIELD_LINE = rb"(%b++):(%b*+)" % (_TCHAR, _TEXT)

# All field lines of a section, each with its CRLF and none cut off at its begin, for `findall` on Latin-1 text.
FIELD_LINES = re.compile((rb"(?m)^" + FIELD_LINE + rb"\r\n").decode("latin-1"))

# RFC 9112 §3.2. Browsers leave `|`, `"` and the like as they are, so any visible ASCII but `#` passes.
TARGET = re.compile(rb'[!-"$-~]+')

# RFC 9112 §3: method, target, major, minor
REQUEST_LINE = re.compile(rb'(%b++) ([!-"$-~]++) HTTP/([0-9])\.([0-9])' % _TCHAR)

# RFC 9112 §4: major, minor, status, reason. The space before an empty reason is left out by real servers.
STATUS_LINE = re.compile(rb"HTTP/([0-9])\.([0-9]) ([1-5][0-9]{2})(?: (%b*))?" % _TEXT)

# RFC 9110 §8.6: no sign, no list, no other digits
CONTENT_LENGTH = re.compile(rb"[0-9]+")

# RFC 9110 §5.6.1, with RFC 9112 §7 narrowed to codings without parameters
TOKEN_LIST = rb"%b++(?:%b,%b%b++)*+" % (_TCHAR, _BWS, _BWS, _TCHAR)

# RFC 9110 §5.6.4
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\%b)*+"' % _TEXT

# RFC 9112 §7.1, §7.1.1: size, extensions. Sixteen digits hold any size there is.
CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16})((?:%(s)b;%(s)b%(t)b++(?:%(s)b=%(s)b(?:%(t)b++|%(q)b))?+)*+)"
    % {b"s": _BWS, b"t": _TCHAR, b"q": _QUOTED}
)

# --- RFC 3986 §3.2.2 --------------------------------------------------------------------------------


def _ipv6() -> bytes:
    """The nine alternatives of IPv6address, written out from their pattern."""
    h16 = rb"[0-9A-Fa-f]{1,4}"
    octet = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
    ls32 = rb"(?:%b:%b|%b(?:\.%b){3})" % (h16, h16, octet, octet)
    forms = [rb"(?:%b:){6}%b" % (h16, ls32)]
    tails = [rb"(?:%b:){%d}%b" % (h16, count, ls32) for count in (5, 4, 3, 2, 1, 0)] + [h16, b""]
    for before, tail in enumerate(tails):
        head = rb"(?:(?:%b:){0,%d}%b)?" % (h16, before - 1, h16) if before else b""
        forms.append(head + b"::" + tail)
    return b"(?:" + b"|".join(forms) + b")"


@cache
def _literal() -> bytes:
    return rb"\[(?:%b|v[0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+)\]" % _ipv6()


_REG_NAME = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})"


class HostPattern:
    """uri-host, and what is around it; IP literals apart: few servers ever see one, and their forms take long."""

    def __init__(self, name: bytes, port: bytes) -> None:
        self._name = _REG_NAME + name + port
        self._port = port

    def fullmatch(self, text: bytes) -> re.Match[bytes] | None:
        """As of a compiled pattern."""
        if text[:1] != b"[":
            return re.fullmatch(self._name, text)
        return re.fullmatch(_literal() + self._port, text)


# RFC 9110 §7.2: uri-host [ ":" port ]; the host may be empty
HOST = HostPattern(rb"*+", rb"(?::[0-9]*)?")

# RFC 9112 §3.2.3: what CONNECT asks for; here the host must be there, and the port too
AUTHORITY = HostPattern(rb"++", rb":[0-9]+")

# RFC 9112 §3.2.2: authority, path, query
ABSOLUTE_FORM = rb"(?i:https?)://([^/?]++)((?:/[^?]*+)?)(?:\?(.*))?"
