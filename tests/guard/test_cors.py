"""Origins and the fields of CORS."""

from __future__ import annotations

import pytest
from guard_inputs import fields

from cfchat.errors import OriginNotAllowed
from cfchat.guard.cors import Origins
from cfchat.wire.fields import Fields

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
    assert reply.get("Access-Control-Allow-Credentials") == (echoed and "true")
    assert reply["Vary"] == "Origin"


def test_a_star_allows_every_origin_and_needs_no_vary() -> None:
    for request in (None, fields(), fields(origin="https://a.example")):
        reply = dict(Origins().fields(request))
        assert reply["Access-Control-Allow-Origin"] == "*" and "Vary" not in reply
        assert "Access-Control-Allow-Credentials" not in reply


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("https://a.example", "x", True),
        ("https://b.example", "x", False),
        ("null", "x", False),
        ("http://x", "x", False),  # DNS rebinding: a name of the page's owner leads here
        ("http://x:8443", "x:8443", False),
        (None, "x", True),
    ],
)
def test_a_page_of_another_origin_is_refused(origin: str | None, host: str, allowed: bool) -> None:
    request = fields(host=host, origin=origin) if origin else fields(host=host)
    Origins().check(request)
    assert passes(ONE, request) is allowed


@pytest.mark.parametrize(
    ("origin", "host", "secure", "allowed"),
    [
        ("http://localhost:8787", "localhost:8787", False, True),
        ("http://chat.localhost", "chat.localhost:80", False, True),
        ("http://127.0.0.1:8787", "127.0.0.1:8787", False, True),
        ("http://192.0.2.7", "192.0.2.7", False, True),
        ("http://[2001:db8::1]:8787", "[2001:DB8::1]:8787", False, True),
        ("http://a.example:8787", "A.example:8787", False, True),  # its host is that of an allowed origin
        ("https://our.example", "Our.example:443", True, True),  # --host
        ("https://our.example:443", "our.example", True, True),
        ("http://our.example:443", "our.example:443", False, True),
        ("https://127.0.0.1:8787", "127.0.0.1:8787", False, False),
        ("http://127.0.0.1:8787", "127.0.0.1:8787", True, False),
        ("http://127.0.0.1:8788", "127.0.0.1:8787", False, False),
        ("https://our.example", "our.example:80", True, False),
        ("http://localhost.evil.example", "localhost.evil.example", False, False),
        ("http://127.0.0.1.evil.example", "127.0.0.1.evil.example", False, False),
        ("http://evillocalhost", "evillocalhost", False, False),
        ("http://http", "http", False, False),
        ("null", "null", False, False),
        ("http://", "", False, False),
        ("http://none", None, False, False),
    ],
)
def test_a_page_of_this_servers_own(origin: str, host: str | None, secure: bool, allowed: bool) -> None:
    request = fields(origin=origin) if host is None else fields(host=host, origin=origin)
    assert passes(Origins(ONE.allowed, ("our.example",)), request, secure) is allowed


def passes(origins: Origins, request: Fields, secure: bool = False) -> bool:
    try:
        origins.check(request, secure)
    except OriginNotAllowed:
        return False
    return True
