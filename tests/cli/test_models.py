"""`models` as an operator runs it: a process of its own, against the stand-in on real TLS."""

from __future__ import annotations

import json

import pytest
from account import MODEL, OTHER, listed, listing
from command import cfchat, run
from standin import StandIn, json_error

PRICE = [
    {"unit": "per M input tokens", "price": 0.1, "currency": "USD"},
    {"unit": "per M output tokens", "price": 0.3, "currency": "USD"},
]
CATALOGUE = listing(
    listed(MODEL, context_window="256000", price=PRICE, reasoning="true", vision="true"),
    listed("@cf/moonshotai/kimi-k2.6", require_workers_paid="true", planned_deprecation_date="2999-05-30"),
    listed(OTHER, planned_deprecation_date="2001-05-30"),
    listed("@cf/x/\x1b[2J\x9b\u202e", planned_deprecation_date="\x1b[2J\x9b\u202e"),
)


async def test_models_are_listed_as_a_table() -> None:
    async with StandIn([CATALOGUE]) as standin:
        done = await cfchat(standin.base_url, "models")
    assert (done.code, done.err) == (0, "")
    head, *lines = done.out.splitlines()
    assert head.split()[:2] == ["MODEL", "WINDOW"]
    gemma, llama, kimi = lines
    assert gemma.split()[:4] == [MODEL, "256,000", "0.100", "0.300"]
    assert "default" in gemma and "reasoning, images" in gemma
    assert llama.split()[:4] == [OTHER, "-", "-", "-"] and "fallback" in llama
    assert "paid" in kimi and "going to be removed on 2999-05-30" in kimi and "was to be removed on 2001-05-30" in llama
    assert not set("\x1b\x9b\u202e") & set(done.out)


async def test_models_as_json() -> None:
    async with StandIn([CATALOGUE]) as standin:
        done = await cfchat(standin.base_url, "models", "--json")
    first = json.loads(done.out)[0]
    assert done.code == 0
    assert (first["name"], first["window"], first["price_in"], first["price_out"]) == (MODEL, 256000, 0.1, 0.3)


async def test_models_of_a_wrong_account() -> None:
    async with StandIn([json_error(403, 10000, "Authentication error")]) as standin:
        done = await cfchat(standin.base_url, "models")
    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1 and "10000" in done.err and "; next: " in done.err


@pytest.mark.parametrize("name", ["check", "models"])
def test_the_demo_has_no_account(name: str) -> None:
    done = run(name, "--demo")
    assert done.returncode == 2 and "ask --demo" in done.stderr and len(done.stderr.splitlines()) == 1
