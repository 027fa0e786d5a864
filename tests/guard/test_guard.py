"""cfchat.guard: origins, keys, rates, budgets, addresses."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cfchat.errors import BudgetSpent, OriginNotAllowed, RateLimited, Unauthorized
from cfchat.guard.addresses import Proxies, client_address, network_of
from cfchat.guard.budgets import Budget
from cfchat.guard.cors import Origins
from cfchat.guard.guard import Guard, Settings
from cfchat.guard.keys import parse_keys
from cfchat.guard.limits import Buckets, Rate
from cfchat.wire.fields import Fields

KEY, OTHER = "k" * 16, "o" * 16 + "=="


def fields(**named: str) -> Fields:
    return Fields([(name.replace("_", "-"), value) for name, value in named.items()])


# --- origins -------------------------------------------------------------------------------------

ONE = Origins(("https://a.example", "http://localhost:3000"))


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        ("https://a.example", "https://a.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://b.example", None),
        ("https://a.example.evil", None),
        ("null", None),
        (None, None),
    ],
)
def test_an_origin_that_is_named_is_said_back(origin: str | None, told: str | None) -> None:
    found = dict(ONE.fields(fields(origin=origin) if origin else fields()))
    assert found.get("Access-Control-Allow-Origin") == told
    assert found["Vary"] == "Origin"


def test_a_star_is_for_everybody_and_varies_with_nothing() -> None:
    for request in (None, fields(), fields(origin="https://a.example")):
        found = dict(Origins().fields(request))
        assert found["Access-Control-Allow-Origin"] == "*" and "Vary" not in found


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
def test_a_strange_page_may_not_even_ask(origin: str | None, host: str, allowed: bool) -> None:
    request = fields(host=host, origin=origin) if origin else fields(host=host)
    Origins().check(request)
    if allowed:
        ONE.check(request)
    else:
        with pytest.raises(OriginNotAllowed):
            ONE.check(request)


# --- keys ----------------------------------------------------------------------------------------


def test_a_key_has_a_label() -> None:
    keys = parse_keys(f"# mine\n\nlaptop {KEY}\nphone\t{OTHER}  # hers\n")
    assert len(keys) == 2
    assert keys.label(f"Bearer {KEY}") == "laptop"
    assert keys.label(f"bearer  {OTHER}") == keys.label(f"BEARER {OTHER}") == "phone"


@pytest.mark.parametrize(
    "sent", [None, "", "Bearer", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Bearer {KEY} x"]
)
def test_what_opens_nothing(sent: str | None) -> None:
    with pytest.raises(Unauthorized) as caught:
        parse_keys(f"laptop {KEY}").label(sent)
    assert (caught.value.status, caught.value.type) == (401, "authentication_error")
    assert dict(caught.value.fields) == {"WWW-Authenticate": "Bearer"}
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no key"),
        ("# nothing", "holds no key"),
        (KEY, "line 1 is not"),
        (f"a {KEY}\nb short", "line 2 is not"),
        (f"a b {KEY}", "line 1 is not"),
        (f"a {KEY}\na {OTHER}", "line 2 has"),
        (f"a {KEY}\nb {KEY}", "line 2 has"),
    ],
)
def test_a_file_of_keys_that_is_wrong(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_keys(text)
    assert KEY not in str(caught.value)


def test_no_key_is_kept() -> None:
    keys = parse_keys(f"laptop {KEY}")
    assert KEY not in repr(vars(keys)) and KEY.encode() not in keys._hashes


# --- rates ---------------------------------------------------------------------------------------


def allowed(buckets: Buckets, moments: Sequence[float], name: str = "a") -> list[bool]:
    found = []
    for now in moments:
        try:
            buckets.take(name, now)
            found.append(True)
        except RateLimited:
            found.append(False)
    return found


def test_a_bucket_is_full_at_first_and_fills_evenly() -> None:
    buckets = Buckets(Rate(3, 60))
    assert allowed(buckets, [0, 0, 0, 0, 19.9]) == [True, True, True, False, False]
    assert allowed(buckets, [20, 20, 39.9, 40]) == [True, False, False, True]
    assert allowed(buckets, [10_000] * 4) == [True] * 3 + [False]


def test_each_has_a_bucket_of_its_own() -> None:
    buckets = Buckets(Rate(1, 60))
    assert allowed(buckets, [0, 0]) == [True, False]
    assert allowed(buckets, [0], "b") == [True]


def test_what_is_left_is_told() -> None:
    buckets = Buckets(Rate(3, 60))
    assert dict(buckets.take("a", 0.0)) == {
        "RateLimit-Policy": '"requests";q=3;w=60',
        "RateLimit": '"requests";r=2;t=20',
    }
    assert dict(buckets.take("a", 0.0))["RateLimit"] == '"requests";r=1;t=40'
    assert dict(buckets.take("a", 0.0))["RateLimit"] == '"requests";r=0;t=60'
    with pytest.raises(RateLimited, match="3 in 60 seconds") as caught:
        buckets.take("a", 5.0)
    assert caught.value.retry_after == pytest.approx(15.0)
    assert dict(caught.value.fields)["RateLimit"] == '"requests";r=0;t=55'


@given(st.floats(0, 1e8))
@example(32210.049064303148)
def test_no_second_is_made_of_what_floats_lose(now: float) -> None:
    assert ("RateLimit", '"requests";r=1;t=1800') in Buckets(Rate(2, 3600)).take("a", now)


def test_the_table_is_bounded_and_forgets_who_asked_longest_ago() -> None:
    buckets = Buckets(Rate(1, 60), most=3)
    for name in ("a", "b", "c", "a", "d"):
        allowed(buckets, [0.0], name)
    assert len(buckets) == 3
    assert allowed(buckets, [0.0], "a") == [False]
    assert allowed(buckets, [0.0], "b") == [True]


@given(
    st.integers(1, 10),
    st.integers(1, 100),
    st.lists(st.floats(0, 50), max_size=60),
)
def test_never_more_than_the_rate_in_any_window(requests: int, seconds: int, waits: list[float]) -> None:
    """A bucket allows its content at once and its rate on top of it: in any window at most twice the requests."""
    buckets, now, moments = Buckets(Rate(requests, seconds)), 0.0, []
    level, last = float(requests), 0.0  # the slow reference: a level that is filled
    for wait in waits:
        now += wait
        level = min(float(requests), level + (now - last) * requests / seconds)
        last = now
        (took,) = allowed(buckets, [now])
        if abs(level - 1) > 1e-3:
            assert took is (level >= 1)
        if took:
            level -= 1
            moments.append(now)
    for start in moments:
        assert sum(start <= moment < start + seconds for moment in moments) <= 2 * requests


# --- daily tokens --------------------------------------------------------------------------------

NOON = 86400.0 * 20000 + 43200


def test_a_budget_is_spent_and_renewed_at_midnight() -> None:
    budget = Budget(100)
    assert [budget.spend("a", tokens, NOON) for tokens in (79, 1, 10)] == [False, True, False]
    budget.check("a", NOON)
    assert not budget.spend("a", 10, NOON)
    with pytest.raises(BudgetSpent, match="00:00 UTC") as caught:
        budget.check("a", NOON + 1)
    assert caught.value.retry_after == 43199
    budget.check("b", NOON)
    budget.check("a", NOON + 43200)
    assert budget.spend("a", 80, NOON + 43200)


def test_a_table_of_budgets_is_bounded() -> None:
    budget = Budget(10, most=2)
    for name in ("a", "b", "c"):
        budget.spend(name, 10, NOON)
    budget.check("a", NOON)
    with pytest.raises(BudgetSpent):
        budget.check("c", NOON)


# --- all of it -----------------------------------------------------------------------------------


def test_a_key_is_counted_by_its_label_and_others_by_their_address() -> None:
    guard = Guard(Settings(keys=parse_keys(f"laptop {KEY}")))
    asker = guard.admit(guard.identify(fields(authorization=f"Bearer {KEY}")), "1.2.3.4", 0.0, NOON)
    assert (asker.label, asker.name, asker.fields) == ("laptop", "key laptop", [])
    assert Guard().admit("", "2001:db8::1", 0.0, NOON).name == "2001:db8::/64"


def test_budgets_of_all_and_of_each() -> None:
    guard = Guard(Settings(daily_tokens=100, daily_tokens_each=50))
    one = guard.admit("", "1.1.1.1", 0.0, NOON)
    assert guard.spend(one, 50, NOON) == ["1.1.1.1"]
    with pytest.raises(BudgetSpent):
        guard.admit("", "1.1.1.1", 0.0, NOON)
    two = guard.admit("", "2.2.2.2", 0.0, NOON)
    assert guard.spend(two, 49, NOON) == ["all together", "2.2.2.2"]
    guard.spend(two, 1, NOON)
    with pytest.raises(BudgetSpent):
        guard.admit("", "3.3.3.3", 0.0, NOON)


def test_a_wrong_key_takes_nothing_from_the_rate() -> None:
    guard = Guard(Settings(keys=parse_keys(f"laptop {KEY}"), rate=Rate(1, 60)))
    for _ in range(3):
        with pytest.raises(Unauthorized):
            guard.admit(guard.identify(fields()), "1.1.1.1", 0.0, NOON)
    guard.admit(guard.identify(fields(authorization=f"Bearer {KEY}")), "1.1.1.1", 0.0, NOON)
    with pytest.raises(RateLimited):
        guard.admit(guard.identify(fields(authorization=f"Bearer {KEY}")), "9.9.9.9", 0.0, NOON)


# --- addresses -----------------------------------------------------------------------------------

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("::1"))


@pytest.mark.parametrize(
    ("peer", "sent", "address"),
    [
        ("1.2.3.4", [("X-Forwarded-For", "5.6.7.8")], "1.2.3.4"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [("X-Forwarded-For", "5.6.7.8")], "5.6.7.8"),
        ("::1", [("X-Forwarded-For", "5.6.7.8")], "5.6.7.8"),
        ("::ffff:10.0.0.1", [("X-Forwarded-For", "5.6.7.8")], "5.6.7.8"),
        ("10.0.0.1", [("X-Forwarded-For", "9.9.9.9, 5.6.7.8, 10.1.1.1")], "5.6.7.8"),
        ("10.0.0.1", [("X-Forwarded-For", "9.9.9.9"), ("X-Forwarded-For", "5.6.7.8")], "5.6.7.8"),
        ("10.0.0.1", [("X-Forwarded-For", "10.2.2.2, 10.1.1.1")], "10.2.2.2"),
        ("10.0.0.1", [("X-Forwarded-For", "5.6.7.8, unknown")], "10.0.0.1"),
        ("10.0.0.1", [("X-Forwarded-For", "5.6.7.8, ")], "10.0.0.1"),
        ("10.0.0.1", [("X-Forwarded-For", "5.6.7.8:4711")], "5.6.7.8"),
        ("10.0.0.1", [("X-Forwarded-For", "2001:db8::1")], "2001:db8::1"),
        ("10.0.0.1", [("Forwarded", "for=5.6.7.8;proto=https")], "5.6.7.8"),
        ("10.0.0.1", [("Forwarded", 'For="[2001:db8::1]:4711"')], "2001:db8::1"),
        ("10.0.0.1", [("Forwarded", "by=1.1.1.1;for=9.9.9.9, for=5.6.7.8")], "5.6.7.8"),
        ("10.0.0.1", [("Forwarded", "for=_hidden, for=10.3.3.3")], "10.3.3.3"),
        ("10.0.0.1", [("Forwarded", "proto=https")], "10.0.0.1"),
        ("10.0.0.1", [("Forwarded", "for=5.6.7.8"), ("X-Forwarded-For", "5.6.7.8")], "5.6.7.8"),
        ("10.0.0.1", [("Forwarded", "for=9.9.9.9"), ("X-Forwarded-For", "5.6.7.8")], "10.0.0.1"),
    ],
)
def test_the_rightmost_hop_that_is_no_trusted_proxy(peer: str, sent: list[tuple[str, str]], address: str) -> None:
    assert client_address(peer, Fields(sent), TRUSTED) == address
    assert client_address(peer, Fields(sent), ()) == peer


def test_a_unix_socket_is_a_proxys() -> None:
    proxies = Proxies()
    assert proxies.client("unix", fields(x_forwarded_for="203.0.113.9")) == "203.0.113.9"
    assert proxies.client("unix", fields(x_forwarded_for="unix")) == "unix"
    assert proxies.client("unix", fields()) == "unix"
    assert proxies.counted("unix") is None


def test_a_trusted_proxys_connections_are_not_counted() -> None:
    proxies = Proxies(TRUSTED)
    assert [proxies.counted(peer) for peer in ("10.0.0.1", "1.2.3.4", "2001:db8::1")] == [
        None,
        "1.2.3.4",
        "2001:db8::/64",
    ]
    assert proxies.client("10.0.0.1", Fields([("X-Forwarded-For", "5.6.7.8")])) == "5.6.7.8"


@given(st.text(st.characters(max_codepoint=255)), st.sampled_from(("Forwarded", "X-Forwarded-For")))
def test_any_field_gives_an_address(value: str, name: str) -> None:
    from ipaddress import ip_address

    ip_address(client_address("10.0.0.1", Fields([(name, value)]), TRUSTED))


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_one_subscriber_is_one_client(address: str, network: str) -> None:
    assert network_of(address) == network
