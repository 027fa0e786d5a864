"""The client's address behind proxies, and the network that is counted as one client.

A proxy adds the address of its own client at the right of a field. Only a trusted peer is believed, and of its hops
only the rightmost that is no trusted proxy: everything to the left of it may be the client's invention. All of a
unix socket's peers are trusted, because its file permissions decide which programs connect.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

from cfchat.net.listen import UNIX
from cfchat.wire.fields import Fields, members

Network = IPv4Network | IPv6Network


FORWARDED, X_FORWARDED_FOR = "forwarded", "x-forwarded-for"
# Most proxies set X-Forwarded-For. They pass Forwarded on as the client sent it, so it counts last.
CLIENT_FIELDS = (X_FORWARDED_FOR, FORWARDED)


class Proxies(NamedTuple):
    """The peers that are trusted to name their clients. Has the methods of the server's `Peers`.

    `fields` are the header fields in which they do; the first that ends in an address decides.
    """

    trusted: Sequence[Network] = ()
    fields: Sequence[str] = CLIENT_FIELDS

    def client(self, peer: str, fields: Fields) -> str:
        """Return the address of the client behind a peer."""
        return client_address(peer, fields, self.trusted, self.fields)

    def counted(self, peer: str) -> str | None:
        """Return the network that a peer's connections count for; None for a proxy, which has many clients."""
        return None if _is_trusted(peer, self.trusted) else network_of(peer)


def client_address(peer: str, fields: Fields, trusted: Sequence[Network], names: Sequence[str] = CLIENT_FIELDS) -> str:
    """Return the address of the client: the rightmost hop that is no trusted proxy (RFC 7239 §5.2, X-Forwarded-For).

    A field does not count if it is missing or its last hop is no address: then no proxy has added to it. Return the
    peer's own address if the peer is not trusted, or if none of the fields in `names` counts.
    """
    if not _is_trusted(peer, trusted):
        return peer
    for name in names:
        if name in fields:
            hops = members(fields, name)  # split at every comma: a quoted address has none
            address = _find_client(map(_parse_for, hops) if name == FORWARDED else hops, trusted)
            if address:
                return address
    return peer


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Return the network that counts as one client: an IPv4 address, or the /64 that one IPv6 subscriber has."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return address if parsed is None else str(parsed)


def _find_client(hops: Iterable[str], trusted: Sequence[Network]) -> str:
    """Go through the hops from the right, while they are trusted proxies; return the last address, if there is one."""
    address = ""
    for hop in reversed(list(hops)):
        parsed = _parse(hop)
        if parsed is None:
            return address  # not an address, such as `unknown`: the last one that is known counts
        address = str(parsed)
        if not _is_trusted(address, trusted):
            return address
    return address


_FOR = r'(?i)(?:^|;)\s*for\s*=\s*(?:"([^"\\]*)"|([^";,\s]*))'


def _parse_for(element: str) -> str:
    """Return the `for` of an element of Forwarded (RFC 7239 §4), or an empty string."""
    match = re.search(_FOR, element)
    return "" if match is None else match[1] or match[2] or ""


def _parse(hop: str) -> IPv4Address | IPv6Address | None:
    """Return the address of a hop, which may have brackets and a port; None if it has none. IPv4 in IPv6 is IPv4."""
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
    """Return whether an address is a trusted proxy's, or a peer on a unix socket."""
    if address == UNIX:
        return True
    parsed = _parse(address) if trusted else None
    return parsed is not None and any(parsed in network for network in trusted if network.version == parsed.version)
