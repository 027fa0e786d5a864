"""The client's address behind proxies."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from guard_inputs import fields
from hypothesis import given
from hypothesis import strategies as st

from cfchat.guard.addresses import Proxies, client_address, network_of
from cfchat.wire.fields import Fields

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
        ("10.0.0.1", [("X-Forwarded-For", "5.6.7.8\xa0")], "10.0.0.1"),  # only blanks and tabs are whitespace
        ("10.0.0.1", [("X-Forwarded-For", "5.6.7.8:4711")], "5.6.7.8"),
        ("10.0.0.1", [("X-Forwarded-For", "2001:db8::1")], "2001:db8::1"),
        ("10.0.0.1", [("Forwarded", "for=5.6.7.8;proto=https")], "5.6.7.8"),
        ("10.0.0.1", [("Forwarded", 'For="[2001:db8::1]:4711"')], "2001:db8::1"),
        ("10.0.0.1", [("Forwarded", "by=1.1.1.1;for=9.9.9.9, for=5.6.7.8")], "5.6.7.8"),
        ("10.0.0.1", [("Forwarded", "for=_hidden, for=10.3.3.3")], "10.3.3.3"),
        ("10.0.0.1", [("Forwarded", "proto=https")], "10.0.0.1"),
        ("10.0.0.1", [("Forwarded", "for=5.6.7.8"), ("X-Forwarded-For", "5.6.7.8")], "5.6.7.8"),
        ("10.0.0.1", [("Forwarded", "for=9.9.9.9"), ("X-Forwarded-For", "5.6.7.8")], "5.6.7.8"),
        ("10.0.0.1", [("Forwarded", "x"), ("X-Forwarded-For", "5.6.7.8")], "5.6.7.8"),
        ("10.0.0.1", [("Forwarded", "for=unknown"), ("X-Forwarded-For", "5.6.7.8")], "5.6.7.8"),
        ("10.0.0.1", [("Forwarded", ""), ("X-Forwarded-For", "5.6.7.8, 10.1.1.1")], "5.6.7.8"),
        ("10.0.0.1", [("Forwarded", "for=5.6.7.8"), ("X-Forwarded-For", "x")], "5.6.7.8"),
        ("10.0.0.1", [("Forwarded", "for=5.6.7.8"), ("X-Forwarded-For", "9.9.9.9, unknown")], "5.6.7.8"),
    ],
)
def test_the_rightmost_hop_that_is_no_trusted_proxy(peer: str, sent: list[tuple[str, str]], address: str) -> None:
    assert client_address(peer, Fields(sent), TRUSTED) == address
    assert client_address(peer, Fields(sent), ()) == peer


@pytest.mark.parametrize("beside", ["9.9.9.9", "x", "unknown", ""])
@pytest.mark.parametrize(
    ("name", "right", "other", "form"),
    [("x-forwarded-for", "5.6.7.8", "Forwarded", "for={}"), ("forwarded", "for=5.6.7.8", "X-Forwarded-For", "{}")],
)
def test_the_field_that_the_operator_names_decides_alone(
    name: str, right: str, other: str, form: str, beside: str
) -> None:
    proxies, clients = Proxies(TRUSTED, (name,)), (other, form.format(beside))
    assert proxies.client("10.0.0.1", Fields([(name, right), clients])) == "5.6.7.8"
    assert proxies.client("10.0.0.1", Fields([clients])) == "10.0.0.1"
    assert proxies.client("10.0.0.1", Fields([(name, "unknown"), clients])) == "10.0.0.1"


def test_peers_of_a_unix_socket_are_trusted() -> None:
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
