"""Which form a client gets for its Accept field."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.errors import NotAcceptable
from cfchat.replies.negotiation import FORMS, negotiate

BARE, PLAIN, EVENTS, JSON = "bare", "text/plain", "text/event-stream", "application/json"


def wanted(accept: str | None) -> str:
    form = negotiate(accept)
    kind = form.content_type.partition(";")[0]
    return BARE if kind == EVENTS and not form.heartbeat else kind


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, BARE),
        ("", BARE),
        ("*/*", BARE),
        ("*/*;q=0.1", BARE),
        ("text/html, */*;q=0.8", BARE),  # a browser's own
        ("text/plain", PLAIN),
        ("TEXT/Plain ; charset=utf-8", PLAIN),
        ("text/*", PLAIN),
        ("text/event-stream", EVENTS),
        ("text/event-stream, */*;q=0.5", EVENTS),
        ("application/json", JSON),
        ("application/*", JSON),
        ("application/json, text/plain, */*", JSON),  # axios
        ("text/event-stream, application/json", EVENTS),
        ("application/json, text/event-stream", JSON),
        ("text/plain;q=0.5, application/json;q=0.6", JSON),
        ("text/plain;q=0.501, application/json;q=0.5", PLAIN),
        ("text/plain;q=0, */*", BARE),
        ("text/event-stream;q=0, */*", PLAIN),
        ("text/*;q=0, */*", JSON),
        ("text/*;q=0.3, text/plain;q=0.1, application/json;q=0.2", EVENTS),
        ("nonsense", BARE),
        ("nonsense, application/json", JSON),
        ("text/plain;Q=0.5, application/json;q=0.4", PLAIN),
        ("application/json;q=2, text/plain;q=0.9", JSON),  # no weight at all: as if it were not there
    ],
)
def test_which_form_a_field_gets(accept: str | None, form: str) -> None:
    assert wanted(accept) == form


@pytest.mark.parametrize("accept", ["text/html", "image/*", "*/*;q=0", "text/plain;q=0.0", "text/html, nonsense"])
def test_a_field_that_accepts_no_form_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptable) as caught:
        negotiate(accept)
    assert caught.value.status == 406
    assert all(name in caught.value.message for name in FORMS)


NAMES = st.sampled_from(["*/*", "text/*", "application/*", *FORMS, "image/png"])
WEIGHTS = st.sampled_from(["", ";q=0", ";q=0.5", ";q=0.25", ";q=1.0", "; q=0.750", ";level=1;q=0.5"])


@given(st.lists(st.tuples(NAMES, WEIGHTS), min_size=1, max_size=6, unique_by=lambda member: member[0]))
def test_the_form_has_the_highest_weight(members: list[tuple[str, str]]) -> None:
    """Compute all weights slowly, by RFC 9110 §12.5.1: no type has a higher one than the chosen form."""

    def weight(kind: str) -> float:
        for media_range in (kind, kind.partition("/")[0] + "/*", "*/*"):
            for name, parameters in members:
                if name == media_range:
                    return float(parameters.rpartition("q=")[2] or 1)
        return 0.0

    accept = ", ".join(name + parameters for name, parameters in members)
    best = max(map(weight, FORMS))
    if not best:
        with pytest.raises(NotAcceptable):
            negotiate(accept)
        return
    form = wanted(accept)
    assert weight(EVENTS if form == BARE else form) == best
    assert (form == BARE) <= (weight(EVENTS) == best and "*/*" in accept)


@given(st.text(max_size=40))
def test_any_field_gives_a_form_or_406(accept: str) -> None:
    with suppress(NotAcceptable):
        negotiate(accept)
