"""The list of models: what is read of it, and what is no list."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.errors import UpstreamProtocolError
from cfchat.upstream.cloudflare.catalogue import Model, read_models


def listed(*entries: object) -> bytes:
    return json.dumps({"result": entries, "success": True, "errors": [], "messages": []}).encode()


def entry(name: str, task: str = "Text Generation", **properties: object) -> dict[str, object]:
    pairs = [{"property_id": key, "value": value} for key, value in properties.items()]
    return {"id": "1", "name": name, "description": "", "task": {"id": "2", "name": task}, "properties": pairs}


def test_the_list_of_models() -> None:
    prices = [
        {"unit": "per M input tokens", "price": 0.1, "currency": "USD"},
        {"unit": "per M output tokens", "price": 3, "currency": "USD"},
    ]
    whole = entry(
        "@cf/a/b",
        context_window="256000",
        price=prices,
        planned_deprecation_date="2026-12-24T00:00:00Z",
        require_workers_paid="true",
        reasoning="true",
        function_calling="true",
        vision="true",
    )
    bare = entry("@cf/a/c", context_window="many", price=[{"unit": "per M input tokens", "price": "free"}])
    body = listed(whole, entry("@cf/a/image", "Text-to-Image"), bare)
    assert read_models(body) == [
        Model("@cf/a/b", 256_000, 0.1, 3.0, "2026-12-24", True, True, True, True),
        Model("@cf/a/c"),
    ]


@pytest.mark.parametrize(
    ("day", "words"),
    [
        ("2026-11-29", "was to be removed on 2026-11-29"),
        ("2026-11-30", "is going to be removed on 2026-11-30"),
        ("2026-12-01T00:00:00Z", "is going to be removed on 2026-12-01"),
        *((odd, "") for odd in (None, "", "soon\x1b[2J", 20261130, "30.11.2026")),
    ],
)
def test_a_day_that_is_past_is_told_as_past(day: object, words: str) -> None:
    (model,) = read_models(listed(entry("@cf/a/b", planned_deprecation_date=day)))
    assert model.removal(1796083199.0) == words  # the last second of 2026-11-30 in UTC


@pytest.mark.parametrize("name", ["@cf/a/b\x1b[2J", "@cf/a/b\nforged", "@cf/a", "", None, "@cf/a/" + "b" * 10_000])
def test_a_model_that_cannot_be_asked_is_left_out(name: Any) -> None:
    assert read_models(listed(entry(name), entry("@cf/a/c"))) == [Model("@cf/a/c")]


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"result":null}', b'{"result":{}}x', b'{"result":[{"name":"@cf/a/b"}]}', b"\xff"]
)
def test_a_list_of_something_else(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError, match="list of models"):
        read_models(body)


@given(st.binary(max_size=60) | st.recursive(st.none() | st.text(), lambda inner: st.lists(inner, max_size=2) | (
    st.dictionaries(st.sampled_from(("result", "task", "name", "properties", "property_id", "value")), inner)
)).map(lambda reply: json.dumps(reply).encode()))  # fmt: skip
def test_only_protocol_errors_come_of_any_list(body: bytes) -> None:
    try:
        assert all(type(model) is Model for model in read_models(body))
    except UpstreamProtocolError as error:
        assert error.detail
