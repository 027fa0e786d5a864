"""The chat page and the <cf-chat> module: static files, each read once, when it is first asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache

from cfchat.server.reply import Reply
from cfchat.server.request import Handler, Request

# What may come to the page is its own; nothing inline, nowhere to send a form, in nobody's frame.
CLOSED = (
    "Content-Security-Policy",
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)
OPEN = ("Cross-Origin-Resource-Policy", "cross-origin")
HTML = "text/html; charset=utf-8"
FILES = {
    "/": ("index.html", HTML),
    "/cfchat.js": ("cfchat.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}
NOTE = "Answers come from <code>$model</code> and can be wrong."
DEMO_NOTE = (
    "This is a demo: ELIZA, of 1966, answers. For a real model set <code>CLOUDFLARE_ACCOUNT_ID</code> and "
    "<code>CLOUDFLARE_API_TOKEN</code>, and leave out <code>--demo</code>."
)


def pages(model: str, demo: bool) -> Mapping[str, Handler]:
    """A handler for each path of the page, which says that `model` answers, or that it is the demo."""
    note = DEMO_NOTE if demo else NOTE
    return {path: _handler(name, content_type, note, model) for path, (name, content_type) in FILES.items()}


def _handler(name: str, content_type: str, note: str, model: str) -> Handler:
    async def handle(request: Request, reply: Reply) -> None:
        body, tag = _read(name, note, model)
        fields = [
            ("ETag", tag),
            # Kept, but asked for anew each time: no name has a version in it, and a 304 costs one round trip.
            ("Cache-Control", "no-cache"),
            ("Referrer-Policy", "no-referrer"),
            # The page is in nobody's frame; the module is for every page, whatever that one embeds (COEP).
            CLOSED if content_type == HTML else OPEN,
        ]
        if is_known(tag, request.fields.get("if-none-match")):
            return reply.send(304, fields)
        reply.send(200, [("Content-Type", content_type), *fields], body)

    return handle


@cache
def _read(name: str, note: str, model: str) -> tuple[bytes, str]:
    """A file and its entity tag, wherever the package is, in a zip for one. Raises OSError where it is missing."""
    from html import escape  # all three: who serves an API alone needs none
    from pkgutil import get_data
    from string import Template

    body = get_data("cfchat", f"web/{name}")
    assert body is not None
    if name.endswith(".html"):
        told = Template(note).substitute(model=escape(model))
        body = Template(body.decode()).substitute(note=told).encode()
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def is_known(tag: str, known: str | None) -> bool:
    """Whether an If-None-Match names the tag: weak comparison, `*` is any (RFC 9110 §13.1.2)."""
    if known is None:
        return False
    # Our tags have no comma in them: a stranger's that has one is cut, and still not ours.
    return known.strip() == "*" or tag in (item.strip().removeprefix("W/") for item in known.split(","))
