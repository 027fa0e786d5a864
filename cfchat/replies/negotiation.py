"""Which form of a reply a client wants: its Accept field (RFC 9110 §12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from cfchat.errors import NotAcceptable
from cfchat.replies.events import Events
from cfchat.replies.form import Form
from cfchat.replies.text import Text
from cfchat.replies.whole import Whole

# In the order of ours, where a client leaves the choice to us within a type.
FORMS: dict[str, Callable[[], Form]] = {
    "text/plain": lambda: Text("text/plain; charset=utf-8"),
    "text/event-stream": Events,
    "application/json": Whole,
}

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_RANGE = rf"({_TOKEN})/({_TOKEN})[ \t]*((?:;.*)?)"
_WEIGHT = r";[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*(?:;.*)?"


def negotiate(accept: str | None) -> Form:
    """The form that an Accept field asks for; the bare text where it takes anything, or is not there.

    Of forms that are wanted alike, one that is named goes before one that a wildcard meets, then the order of the
    field decides. Raises NotAcceptable where it takes none of them.
    """
    return _maker(accept or "")()


@lru_cache(maxsize=64)
def _maker(accept: str) -> Callable[[], Form]:
    ranges = dict(_ranges(accept)) or {"*/*": 1.0}
    weights = {name: _weight(name, ranges) for name in FORMS}
    anything = ranges.get("*/*", 0.0)
    best = max(weights.values())
    if not best:
        told = f"A reply can be {', '.join(FORMS)}, or */* for the bare text."
        raise NotAcceptable(told, param="accept")
    named = next((name for name in ranges if weights.get(name) == best), None)
    if named is not None:
        return FORMS[named]
    # The bare text has the label of events, for those who do not care.
    if anything == best and weights["text/event-stream"] == best:
        return Text
    return next(form for name, form in FORMS.items() if weights[name] == best)


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    """Media ranges in lower case with their weights, in their order; what is malformed is passed over."""
    for member in accept.split(","):
        found = re.fullmatch(_RANGE, member.strip(" \t"))
        if found is None:
            continue
        weight = re.search(_WEIGHT, found[3])
        yield f"{found[1]}/{found[2]}".lower(), float(weight[1]) if weight else 1.0


def _weight(name: str, ranges: dict[str, float]) -> float:
    """The most exact range that meets the type decides."""
    for met in (name, name.partition("/")[0] + "/*", "*/*"):
        if met in ranges:
            return ranges[met]
    return 0.0
