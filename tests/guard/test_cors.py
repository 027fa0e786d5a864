"""Origins and the fields of CORS."""

from __future__ import annotations

import pytest
from guard_inputs import fields

from cfchat.errors import OriginNotAllowed
from cfchat.guard.cors import Origins

ONE = Origins(("https://a.example", "http://localhost:3000"))


@pytest.mark.parametrize(
    ("origin", "echoed"),
    [
        ("https://a.example", "https://a.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://b.example", None),
        ("https://a.example.evil", None),
        ("null", None),
        (None, None),
    ],
)
def test_an_allowed_origin_is_echoed(origin: str | None, echoed: str | None) -> None:
    reply = dict(ONE.fields(fields(origin=origin) if origin else fields()))
    assert reply.get("Access-Control-Allow-Origin") == echoed
    assert reply["Vary"] == "Origin"


def test_a_star_allows_every_origin_and_needs_no_vary() -> None:
    for request in (None, fields(), fields(origin="https://a.example")):
        reply = dict(Origins().fields(request))
        assert reply["Access-Control-Allow-Origin"] == "*" and "Vary" not in reply


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("https://a.example", "x", True),
        ("https://b.example", "x", False),
        ("null", "x", False),
        ("https://x", "x", True),  # a page of this server's own
        ("https://x:8443", "x", False),
        (None, "x", True),
    ],
)
def test_a_page_of_another_origin_is_refused(origin: str | None, host: str, allowed: bool) -> None:
    request = fields(host=host, origin=origin) if origin else fields(host=host)
    Origins().check(request)
    if allowed:
        ONE.check(request)
    else:
        with pytest.raises(OriginNotAllowed):
            ONE.check(request)
