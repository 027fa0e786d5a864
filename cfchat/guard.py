"""Who may ask: what the reply tells a browser about other origins (WHATWG Fetch, CORS). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cfchat.wire.http11 import Fields

# For how long a browser may remember a preflight's answer, in seconds.
PREFLIGHT_MAX_AGE = 86_400

CORS_FIELDS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Expose-Headers", "X-Request-Id, X-Model, X-Messages-Left-Out, Retry-After"),
)


def is_preflight(fields: Fields) -> bool:
    return "origin" in fields and "access-control-request-method" in fields


def preflight_fields(fields: Fields, methods: Sequence[str]) -> list[tuple[str, str]]:
    """The answer to a preflight. What is asked for is echoed: `*` does not cover `Authorization`."""
    answer = [
        ("Access-Control-Allow-Methods", ", ".join(methods)),
        ("Access-Control-Max-Age", str(PREFLIGHT_MAX_AGE)),
        ("Vary", "Access-Control-Request-Headers"),
    ]
    asked = fields.get("access-control-request-headers")
    if asked:
        answer.append(("Access-Control-Allow-Headers", asked))
    return answer
