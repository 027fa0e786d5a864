"""Who may ask, and how often: origins (CORS), API keys, rates, daily tokens, the address behind a proxy. Pure.

All state is bounded and in memory: it is this process's own, and begins anew with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from cfchat.errors import OriginNotAllowed
from cfchat.wire.fields import Fields
from cfchat.wire.grammar import TOKEN_LIST

# For how long a browser may remember a preflight's answer, in seconds.
PREFLIGHT_MAX_AGE = 86_400
EXPOSED = "X-Request-Id, X-Model, X-Messages-Left-Out, Retry-After, RateLimit, RateLimit-Policy"


class Origins(NamedTuple):
    """Whose pages may read the replies: `("*",)`, or exact origins such as `https://example.com`."""

    allowed: tuple[str, ...] = ("*",)

    def check(self, request: Fields) -> None:
        """A page of another origin may not even ask: a reply that it cannot read is paid for all the same.

        Raises OriginNotAllowed. What comes from no page, or from one of this server's own, has no such origin.
        """
        origin = request.get("origin")
        if origin is None or "*" in self.allowed or origin in self.allowed:
            return
        if origin.partition("://")[2] != request.get("host"):
            raise OriginNotAllowed("Pages of this origin may not use this server.")

    def fields(self, request: Fields | None) -> list[tuple[str, str]]:
        """What every reply tells a browser; `request` are the request's fields, None where it had no whole head."""
        exposed = ("Access-Control-Expose-Headers", EXPOSED)
        if "*" in self.allowed:
            return [("Access-Control-Allow-Origin", "*"), exposed]
        origin = None if request is None else request.get("origin")
        vary = ("Vary", "Origin")  # with and without an origin: a cache must not give one the other's reply
        return [("Access-Control-Allow-Origin", origin), exposed, vary] if origin in self.allowed and origin else [vary]


def is_preflight(fields: Fields) -> bool:
    return "origin" in fields and "access-control-request-method" in fields


def preflight_fields(fields: Fields, methods: Sequence[str]) -> list[tuple[str, str]]:
    """The answer to a preflight. Names that are asked for are echoed: `*` does not cover `Authorization`."""
    answer = [
        ("Access-Control-Allow-Methods", ", ".join(methods)),
        ("Access-Control-Max-Age", str(PREFLIGHT_MAX_AGE)),
        ("Vary", "Access-Control-Request-Headers"),
    ]
    asked = fields.get("access-control-request-headers", "")
    if re.fullmatch(TOKEN_LIST, asked.encode("latin-1")):
        answer.append(("Access-Control-Allow-Headers", asked))
    return answer
