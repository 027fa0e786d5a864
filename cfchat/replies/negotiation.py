"""Choose the form of a reply by the client's Accept field (RFC 9110 §12.5.1).

Every form gets the weight of the most exact media range that matches it; the highest weight wins. Clients send few
different Accept fields, so the choice is cached. Malformed ranges are ignored, because browsers send much in this
field and a wrong guess costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from cfchat.errors import NotAcceptable
from cfchat.replies.events import Events
from cfchat.replies.form import Form
from cfchat.replies.text import Text
from cfchat.replies.whole import Whole
from cfchat.wire import grammar

# In the order of our preference, for a client that accepts several alike.
FORMS: dict[str, Callable[[bool], Form]] = {
    "text/plain": lambda thoughts: Text("text/plain; charset=utf-8"),
    "text/event-stream": Events,
    "application/json": Whole,
}

_MOST_KEPT = 256  # characters of a field whose choice is cached: one may have 32 KiB

_TOKEN = grammar.TOKEN.pattern.decode()
_RANGE = rf"({_TOKEN})/({_TOKEN})[ \t]*((?:;.*)?)"
_WEIGHT = r";[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*(?:;.*)?"


def negotiate(accept: str | None, thoughts: bool = False) -> Form:
    """Return a new form for an Accept field; the bare text if the field is missing or accepts anything.

    `thoughts` says whether the reply shows the model's reasoning; the bare text has no place for it.

    Of forms with the same weight, one that the field names wins over one that a wildcard matches; then the order of
    the field decides.

    Raises:
        NotAcceptable: the field accepts none of the forms.
    """
    accept = accept or ""
    return (_choose.__wrapped__ if accept[_MOST_KEPT:] else _choose)(accept)(thoughts)


@lru_cache(maxsize=64)
def _choose(accept: str) -> Callable[[bool], Form]:
    """Return the function that makes the form."""
    ranges = dict(_parse_ranges(accept)) or {"*/*": 1.0}
    weights = {name: _find_weight(name, ranges) for name in FORMS}
    best = max(weights.values())
    if not best:
        message = f"A reply can be {', '.join(FORMS)}, or */* for the bare text."
        raise NotAcceptable(message, param="accept")
    named = next((name for name in ranges if weights.get(name) == best), None)
    if named is not None:
        return FORMS[named]
    # The bare text is labelled as events, so a client that accepts anything gets it only if it accepts events alike.
    if ranges.get("*/*") == best and weights["text/event-stream"] == best:
        return lambda thoughts: Text()
    return next(form for name, form in FORMS.items() if weights[name] == best)


def _parse_ranges(accept: str) -> Iterator[tuple[str, float]]:
    """Yield the media ranges in their order, in lower case, with their weights; skip malformed ones."""
    for member in accept.split(","):
        match = re.fullmatch(_RANGE, member.strip(" \t"))
        if match is None:
            continue
        weight = re.search(_WEIGHT, match[3])
        yield f"{match[1]}/{match[2]}".lower(), float(weight[1]) if weight else 1.0


def _find_weight(name: str, ranges: dict[str, float]) -> float:
    """Return the weight of the most exact range that matches a media type."""
    for media_range in (name, name.partition("/")[0] + "/*", "*/*"):
        if media_range in ranges:
            return ranges[media_range]
    return 0.0
