"""The grammar of RFC 9110, 9112 and 3986, as patterns on bytes.

Every pattern is for `fullmatch`; a looser check such as `int()` or `strip()` accepts more than the RFC. No pattern
backtracks more than a fixed number of times over one byte: where two parts could share a byte, the quantifier is
possessive. Patterns that few connections need stay uncompiled: `re` compiles them at their first use and caches them.
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

# RFC 9112 §5: no space before the colon, no folded line. The match includes the whitespace around the value.
FIELD_LINE = rb"(%b++):(%b*+)" % (_TCHAR, _TEXT)

# All whole field lines of a section, each with its CRLF. For `findall` on Latin-1 text.
FIELD_LINES = re.compile((rb"(?m)^" + FIELD_LINE + rb"\r\n").decode("latin-1"))

# RFC 9112 §3.2. Browsers do not escape `|`, `"` and the like, so any visible ASCII but `#` passes.
TARGET = re.compile(rb'[!-"$-~]+')

# RFC 9112 §3: method, target, major, minor
REQUEST_LINE = re.compile(rb'(%b++) ([!-"$-~]++) HTTP/([0-9])\.([0-9])' % _TCHAR)

# RFC 9112 §4: major, minor, status, reason. Real servers leave out the space before an empty reason.
STATUS_LINE = re.compile(rb"HTTP/([0-9])\.([0-9]) ([1-5][0-9]{2})(?: (%b*))?" % _TEXT)

# RFC 9110 §8.6: no sign, no list, no other digits
CONTENT_LENGTH = re.compile(rb"[0-9]+")

# RFC 9110 §5.6.1: a list of tokens. RFC 9112 §7 allows codings with parameters; we do not.
TOKEN_LIST = rb"%b++(?:%b,%b%b++)*+" % (_TCHAR, _BWS, _BWS, _TCHAR)

# RFC 9110 §5.6.4
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\%b)*+"' % _TEXT

# RFC 9112 §7.1, §7.1.1: size, extensions. Sixteen digits hold any real size.
CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16})((?:%(s)b;%(s)b%(t)b++(?:%(s)b=%(s)b(?:%(t)b++|%(q)b))?+)*+)"
    % {b"s": _BWS, b"t": _TCHAR, b"q": _QUOTED}
)

# --- RFC 3986 §3.2.2 --------------------------------------------------------------------------------


def _build_ipv6() -> bytes:
    """Build the nine alternatives of IPv6address."""
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
def _build_ip_literal() -> bytes:
    """Build the pattern of IP-literal."""
    return rb"\[(?:%b|v[0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+)\]" % _build_ipv6()


_REG_NAME = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})"


class HostPattern:
    """A pattern of uri-host and its port.

    IP literals have a pattern of their own, because it takes long to compile and few servers ever see one.
    """

    def __init__(self, name: bytes, port: bytes) -> None:
        self._name = _REG_NAME + name + port
        self._port = port

    def fullmatch(self, text: bytes) -> re.Match[bytes] | None:
        """Match the whole text, as a compiled pattern does."""
        if text[:1] != b"[":
            return re.fullmatch(self._name, text)
        return re.fullmatch(_build_ip_literal() + self._port, text)


# RFC 9110 §7.2: uri-host [ ":" port ]; the host may be empty
HOST = HostPattern(rb"*+", rb"(?::[0-9]*)?")

# RFC 9112 §3.2.3: the target of CONNECT; host and port must both be there
AUTHORITY = HostPattern(rb"++", rb":[0-9]+")

# RFC 9112 §3.2.2: authority, path
ABSOLUTE_FORM = rb"(?i:https?)://([^/?]++)((?:/[^?]*+)?)(?:\?.*)?"
