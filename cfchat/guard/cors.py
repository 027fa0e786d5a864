"""Which pages may use this server: origins, and the fields that browsers want to see (CORS, WHATWG Fetch §3.2).

CORS alone only hides a reply from a page; the reply is paid for all the same. So a request from a page of another
origin is refused before it costs anything. Requests without Origin come from no page and pass.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from cfchat.errors import OriginNotAllowed
from cfchat.wire.fields import Fields
from cfchat.wire.grammar import TOKEN_LIST

PREFLIGHT_MAX_AGE = 86_400  # seconds for which a browser may remember the answer to a preflight
EXPOSED = "X-Request-Id, X-Model, X-Messages-Left-Out, Retry-After, RateLimit, RateLimit-Policy"


class Origins(NamedTuple):
    """The origins whose pages may use this server: `("*",)`, or exact ones such as `https://example.com`."""

    allowed: tuple[str, ...] = ("*",)

    def check(self, request: Fields) -> None:
        """Refuse a request from a page of another origin. Requests from this server's own pages pass.

        Raises:
            OriginNotAllowed: Origin is neither allowed nor this server itself, by the Host field.
        """
        origin = request.get("origin")
        if origin is None or "*" in self.allowed or origin in self.allowed:
            return
        if origin.partition("://")[2] != request.get("host"):
            raise OriginNotAllowed("Pages of this origin may not use this server.")

    def fields(self, request: Fields | None) -> list[tuple[str, str]]:
        """Return the CORS fields of a reply. `request` are the request's fields, None if its head was not read."""
        exposed = ("Access-Control-Expose-Headers", EXPOSED)
        if "*" in self.allowed:
            return [("Access-Control-Allow-Origin", "*"), exposed]
        origin = None if request is None else request.get("origin")
        vary = ("Vary", "Origin")  # in every reply: a cache must not give one origin the reply to another
        return [("Access-Control-Allow-Origin", origin), exposed, vary] if origin in self.allowed and origin else [vary]


def is_preflight(fields: Fields) -> bool:
    """Return whether an OPTIONS request is a browser's preflight (WHATWG Fetch §3.2.2)."""
    return "origin" in fields and "access-control-request-method" in fields


def preflight_fields(fields: Fields, methods: Sequence[str]) -> list[tuple[str, str]]:
    """Return the fields of the answer to a preflight.

    The field names that the browser asks for are echoed, because `*` does not cover `Authorization`.
    """
    answer = [
        ("Access-Control-Allow-Methods", ", ".join(methods)),
        ("Access-Control-Max-Age", str(PREFLIGHT_MAX_AGE)),
        ("Vary", "Access-Control-Request-Headers"),
    ]
    names = fields.get("access-control-request-headers", "")
    if re.fullmatch(TOKEN_LIST, names.encode("latin-1")):
        answer.append(("Access-Control-Allow-Headers", names))
    return answer
