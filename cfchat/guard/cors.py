"""Which pages may use this server: origins, and the fields that browsers want to see (CORS, WHATWG Fetch §3.2).

CORS alone only hides a reply from a page; the reply is paid for all the same. So a request from a page of another
origin is refused before it costs anything. Requests without Origin come from no page and pass.

The server's own pages pass, but the Host field alone does not prove that a page is one of them. A stranger can let a
name of his lead to this machine (DNS rebinding), and then Host and Origin are alike. Nobody can do that with an IP
address, with `localhost`, or with a name that the operator gave.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import NamedTuple

from cfchat.errors import OriginNotAllowed
from cfchat.wire.fields import Fields
from cfchat.wire.grammar import TOKEN, TOKEN_LIST

PREFLIGHT_MAX_AGE = 86_400  # seconds for which a browser may remember the answer to a preflight
# Fields of a reply that pages may read.
EXPOSED = (
    "X-Request-Id, X-Model, X-Messages-Left-Out, X-Sources, X-Search, Retry-After, RateLimit, RateLimit-Policy, "
    "Idempotency-Replayed"
)
DEFAULT_PORTS = {"http": "80", "https": "443"}


class Origins(NamedTuple):
    """The origins whose pages may use this server: `("*",)`, or exact ones such as `https://example.com`.

    `names` are hosts that this server has, beside those in `allowed`.
    """

    allowed: tuple[str, ...] = ("*",)
    names: tuple[str, ...] = ()

    def check(self, request: Fields, secure: bool = False) -> None:
        """Refuse a request from a page of another origin. `secure` says whether the request came over TLS.

        Raises:
            OriginNotAllowed: Origin is neither allowed nor this server's own.
        """
        origin = request.get("origin")
        if origin is None or "*" in self.allowed or origin in self.allowed:
            return
        own = split_origin(f"{'https' if secure else 'http'}://{request.get('host')}")
        if own is None or own != split_origin(origin) or not self._knows(own[1]):
            raise OriginNotAllowed("Pages of this origin may not use this server.")

    def _knows(self, host: str) -> bool:
        """Return whether a host is no name that a stranger could let lead here."""
        named = [parts[1] for parts in map(split_origin, self.allowed) if parts is not None]
        return _is_address(host) or f".{host}".endswith(".localhost") or host in (*self.names, *named)

    def fields(self, request: Fields | None) -> list[tuple[str, str]]:
        """Return the CORS fields of a reply. `request` are the request's fields, None if its head was not read."""
        exposed = ("Access-Control-Expose-Headers", EXPOSED)
        if "*" in self.allowed:
            return [("Access-Control-Allow-Origin", "*"), exposed]
        origin = None if request is None else request.get("origin")
        vary = ("Vary", "Origin")  # in every reply: a cache must not give one origin the reply to another
        if origin is None or origin not in self.allowed:
            return [vary]
        # For pages that ask with cookies, which a proxy before this server may want. `*` can never allow it.
        return [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true"), exposed, vary]


def split_origin(origin: str) -> tuple[str, str, str] | None:
    """Return scheme, host and port; the port is empty if the scheme implies it. None if it is no origin (RFC 6454)."""
    match = re.fullmatch(r"([a-z][a-z0-9+.-]*)://([^\[\]/?#@:\s]+|\[[0-9a-f:.]+\])(?::([0-9]*))?", origin.lower())
    if match is None:
        return None
    port = match[3] or ""
    return match[1], match[2], "" if port == DEFAULT_PORTS.get(match[1]) else port


def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_preflight(fields: Fields) -> bool:
    """Return whether an OPTIONS request is a browser's preflight (WHATWG Fetch §3.2.2)."""
    return "origin" in fields and "access-control-request-method" in fields


def preflight_fields(fields: Fields, methods: Sequence[str]) -> list[tuple[str, str]]:
    """Return the fields of the answer to a preflight.

    The field names that the browser asks for are echoed, because `*` does not cover `Authorization`. The method that
    it asks for is allowed, too, so that the page can read why a path does not take it.
    """
    asked = fields.get("access-control-request-method", "")
    more = [asked] if asked not in methods and TOKEN.fullmatch(asked.encode("latin-1")) else []
    answer = [
        ("Access-Control-Allow-Methods", ", ".join([*methods, *more])),
        ("Access-Control-Max-Age", str(PREFLIGHT_MAX_AGE)),
        ("Vary", "Access-Control-Request-Headers"),
    ]
    names = fields.get("access-control-request-headers", "")
    if re.fullmatch(TOKEN_LIST, names.encode("latin-1")):
        answer.append(("Access-Control-Allow-Headers", names))
    return answer
