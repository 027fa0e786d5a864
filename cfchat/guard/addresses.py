"""Who may ask, and how often: origins (CORS), API keys, rates, daily tokens, the address behind a proxy. Pure.

All state is bounded and in memory: it is this process's own, and begins anew with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

from cfchat.wire.fields import Fields

# The peer of every connection on a unix socket: whoever its permissions let in. The server names it so.
UNIX = "unix"
Network = IPv4Network | IPv6Network


class Proxies(NamedTuple):
    """The peers that are trusted to say for whom they ask, all of a unix socket too; fits cfchat.server.Peers."""

    trusted: Sequence[Network] = ()

    def client(self, peer: str, fields: Fields) -> str:
        return client_address(peer, fields, self.trusted)

    def counted(self, peer: str) -> str | None:
        """A proxy's connections are those of many clients."""
        return None if _is_trusted(peer, self.trusted) else network_of(peer)


def client_address(peer: str, fields: Fields, trusted: Sequence[Network]) -> str:
    """The address of the client: the rightmost hop that is no trusted proxy (RFC 7239, X-Forwarded-For).

    Nothing is believed of a peer that is not trusted. Where both fields are there and differ, one of them is the
    client's own invention: then it is the peer's address that counts.
    """
    if not _is_trusted(peer, trusted):
        return peer
    told = [
        _rightmost(peer, hops, trusted)
        for hops in (_forwarded(fields.get_all("forwarded")), _split(fields.get_all("x-forwarded-for")))
        if hops
    ]
    return told[0] if told and all(address == told[0] for address in told) else peer


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """What is counted as one client: an IPv4 address, or the /64 that one IPv6 subscriber has."""
    found = _parse(address)
    if isinstance(found, IPv6Address):
        return f"{IPv6Address(int(found) >> 64 << 64)}/64"
    return address if found is None else str(found)


def _rightmost(peer: str, hops: Iterable[str], trusted: Sequence[Network]) -> str:
    address = peer
    for hop in reversed(list(hops)):
        found = _parse(hop)
        if found is None:
            return address  # a name, or nonsense: the last that was known
        address = str(found)
        if not _is_trusted(address, trusted):
            return address
    return address


def _split(values: Iterable[str]) -> list[str]:
    return [hop.strip() for value in values for hop in value.split(",")]


_FOR = r'(?i)(?:^|;)\s*for\s*=\s*(?:"([^"\\]*)"|([^";,\s]*))'


def _forwarded(values: Iterable[str]) -> list[str]:
    """The `for` of each element; empty where one has none. A comma inside quotes makes nonsense, which is refused."""
    found = []
    for element in _split(values):
        match = re.search(_FOR, element)
        found.append("" if match is None else match[1] or match[2] or "")
    return found


def _parse(hop: str) -> IPv4Address | IPv6Address | None:
    """An address with or without brackets and port; IPv4 in IPv6 is IPv4."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        address = ip_address(hop.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    if address == UNIX:
        return True
    found = _parse(address) if trusted else None
    return found is not None and any(found in network for network in trusted if network.version == found.version)
