"""Serve the chat page and the <cf-chat> module, and the operator's page.

They are static files of the package, each read once, when it is first requested: a server of the API alone reads none.
Browsers keep them and ask again each time by entity tag, because no name has a version in it. The pages get a strict
Content-Security-Policy; the module may be embedded in any page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache

from cfchat.server.reply import Handler, Reply
from cfchat.server.request import Request
from cfchat.upstream.cloudflare.models import is_search

# A page loads only its own files, has nothing inline, sends no form, and stands in no frame.
CLOSED = (
    "Content-Security-Policy",
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)
OPEN = ("Cross-Origin-Resource-Policy", "cross-origin")
HTML, SCRIPT, STYLES = (f"text/{kind}; charset=utf-8" for kind in ("html", "javascript", "css"))
PICTURE = "image/svg+xml"
FILES = {
    "/": ("index.html", HTML),
    "/cfchat.js": ("cfchat.js", SCRIPT),
    "/page.css": ("page.css", STYLES),
    "/favicon.svg": ("favicon.svg", PICTURE),
}
ADMIN_FILES = {
    "/": ("admin.html", HTML),
    "/admin.js": ("admin.js", SCRIPT),
    "/readings.js": ("readings.js", SCRIPT),
    "/admin.css": ("admin.css", STYLES),
    "/favicon.svg": ("favicon.svg", PICTURE),
}
NOTE = "Answers come from <code>$model</code> and can be wrong."
DEMO_NOTE = (
    "This is a demo: $answering. For a real model set <code>CLOUDFLARE_ACCOUNT_ID</code> and "
    "<code>CLOUDFLARE_API_TOKEN</code>, and leave out <code>--demo</code>."
)


def pages(
    model: str, demo: bool, images: Callable[[], int] = lambda: 0, resume: bool = False
) -> Mapping[str, Handler]:
    """Return the handlers by path. The page names `model`, or says that it is the demo.

    It sends so many `images`, and its replies go on after a loss or a reload with `resume`.
    """

    def offer() -> str:
        return (f' images="{most}"' if (most := images()) else "") + (" resume" if resume else "")

    answering = "cfchat's own README files answer" if is_search(model) else "ELIZA, of 1966, answers"
    note = DEMO_NOTE.replace("$answering", answering) if demo else NOTE
    return {path: _handler(name, content_type, note, model, offer) for path, (name, content_type) in FILES.items()}


def admin_pages() -> Mapping[str, Handler]:
    """Return the handlers of the operator's page by path."""
    return {path: _handler(name, content_type) for path, (name, content_type) in ADMIN_FILES.items()}


def _handler(
    name: str, content_type: str, note: str = "", model: str = "", offer: Callable[[], str] = str
) -> Handler:
    async def handle(request: Request, reply: Reply) -> None:
        body, tag = _read(name, note, model, offer() if content_type == HTML else "")
        fields = [
            ("ETag", tag),
            # Kept, but asked for each time: a 304 costs one round trip.
            ("Cache-Control", "no-cache"),
            ("Referrer-Policy", "no-referrer"),
            # Every page may use the module, also one with Cross-Origin-Embedder-Policy.
            CLOSED if content_type == HTML else OPEN,
        ]
        if matches(tag, request.fields.get("if-none-match")):
            reply.send(304, fields)
        else:
            reply.send(200, [("Content-Type", content_type), *fields], body)

    return handle


@cache
def _read(name: str, note: str, model: str, offers: str) -> tuple[bytes, str]:
    """Return a file and its entity tag, also from a package in a zip.

    Raises:
        OSError: the file is missing.
    """
    from html import escape  # all three here: a server of the API alone needs none
    from pkgutil import get_data
    from string import Template

    body = get_data("cfchat", f"web/{name}")
    assert body is not None
    if name.endswith(".html"):
        text = Template(note).substitute(model=escape(model))
        body = Template(body.decode()).substitute(note=text, offers=offers).encode()
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def matches(tag: str, if_none_match: str | None) -> bool:
    """Return whether the field names the tag: weak comparison, `*` is any (RFC 9110 §13.1.2)."""
    if if_none_match is None:
        return False
    # Our tags have no comma. A client's tag that has one is cut here, and no part of it is ours.
    tags = (item.strip().removeprefix("W/") for item in if_none_match.split(","))
    return if_none_match.strip() == "*" or tag in tags
