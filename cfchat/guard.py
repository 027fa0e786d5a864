"""Who may ask, and how often: origins (CORS), API keys, rates, daily tokens, the address behind a proxy. Pure.

All state is bounded and in memory: it is this process's own, and begins anew with it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from math import ceil, floor
from typing import NamedTuple

from cfchat.errors import BudgetSpent, OriginNotAllowed, RateLimited, Unauthorized
from cfchat.wire.grammar import TOKEN_LIST
from cfchat.wire.http11 import Fields

# For how long a browser may remember a preflight's answer, in seconds.
PREFLIGHT_MAX_AGE = 86_400
EXPOSED = "X-Request-Id, X-Model, X-Messages-Left-Out, Retry-After, RateLimit, RateLimit-Policy"
DAY = 86_400.0
# The peer of every connection on a unix socket: whoever its permissions let in. The server names it so.
UNIX = "unix"
# Names remembered of those who asked; beyond it the one that asked longest ago is forgotten.
MOST_NAMES = 100_000
WARN_AT = 0.8

Network = IPv4Network | IPv6Network


# --- origins (WHATWG Fetch, CORS) ----------------------------------------------------------------


class Origins(NamedTuple):
    """Whose pages may read the replies: `("*",)`, or exact origins such as `https://example.com`."""

    allowed: tuple[str, ...] = ("*",)

    def check(self, request: Fields) -> None:
        """A page of another origin may not even ask: a reply that it cannot read is paid for all the same.

        Raises OriginNotAllowed. What comes from no page, or from one of this server's own, has no such origin.
        """
        origin = request.get("origin")
        if origin is None or "*" in self.allowed or origin in self.allowed:
            return
        if origin.partition("://")[2] != request.get("host"):
            raise OriginNotAllowed("Pages of this origin may not use this server.")

    def fields(self, request: Fields | None) -> list[tuple[str, str]]:
        """What every reply tells a browser; `request` are the request's fields, None where it had no whole head."""
        exposed = ("Access-Control-Expose-Headers", EXPOSED)
        if "*" in self.allowed:
            return [("Access-Control-Allow-Origin", "*"), exposed]
        origin = None if request is None else request.get("origin")
        vary = ("Vary", "Origin")  # with and without an origin: a cache must not give one the other's reply
        return [("Access-Control-Allow-Origin", origin), exposed, vary] if origin in self.allowed and origin else [vary]


def is_preflight(fields: Fields) -> bool:
    return "origin" in fields and "access-control-request-method" in fields


def preflight_fields(fields: Fields, methods: Sequence[str]) -> list[tuple[str, str]]:
    """The answer to a preflight. Names that are asked for are echoed: `*` does not cover `Authorization`."""
    answer = [
        ("Access-Control-Allow-Methods", ", ".join(methods)),
        ("Access-Control-Max-Age", str(PREFLIGHT_MAX_AGE)),
        ("Vary", "Access-Control-Request-Headers"),
    ]
    asked = fields.get("access-control-request-headers", "")
    if re.fullmatch(TOKEN_LIST, asked.encode("latin-1")):
        answer.append(("Access-Control-Allow-Headers", asked))
    return answer


# --- API keys ------------------------------------------------------------------------------------

_BEARER = r"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)"
_KEY_LINE = r"([A-Za-z0-9._-]{1,64})[ \t]+([A-Za-z0-9._~+/-]{16,256}=*)"


class Keys:
    """The keys that open this server, each with a label for the log. Only their hashes are kept."""

    def __init__(self, hashes: Mapping[bytes, str]) -> None:
        self._hashes = dict(hashes)

    def __len__(self) -> int:
        return len(self._hashes)

    def label(self, authorization: str | None) -> str:
        """The label of the key in an Authorization field (RFC 6750 §2.1). Raises Unauthorized."""
        bearer = re.fullmatch(_BEARER, authorization or "")
        if bearer is None:
            raise Unauthorized("This server wants an API key: send `Authorization: Bearer ...`.")
        hashed, found = _hash(bearer[1]), ""
        for known, label in self._hashes.items():
            # Each is compared, and in constant time, so that the time tells nothing.
            if hmac.compare_digest(known, hashed):
                found = label
        if not found:
            raise Unauthorized("The API key is not valid.")
        return found


def parse_keys(text: str) -> Keys:
    """A line for each key: its label, a blank, the key; `#` begins a comment. Raises ValueError naming the line."""
    hashes: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        match = re.fullmatch(_KEY_LINE, words)
        if match is None:
            raise ValueError(f"line {number} is not a label, a blank and a key of at least 16 characters")
        hashed = _hash(match[2])
        if hashed in hashes or match[1] in hashes.values():
            raise ValueError(f"line {number} has a label or a key for a second time")
        hashes[hashed] = match[1]
    if not hashes:
        raise ValueError("holds no key")
    return Keys(hashes)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


# --- rates ---------------------------------------------------------------------------------------


class Rate(NamedTuple):
    """So many requests in so many seconds."""

    requests: int
    seconds: int


class Buckets:
    """A token bucket for each name, as the one moment when it will be full again (GCRA, of ITU-T I.371)."""

    def __init__(self, rate: Rate, most: int = MOST_NAMES) -> None:
        self._rate = rate
        self._most = most
        self._full: dict[str, float] = {}  # in the order of the last request

    def __len__(self) -> int:
        return len(self._full)

    def take(self, name: str, now: float) -> list[tuple[str, str]]:
        """One request; the fields that tell what is left. Raises RateLimited with the same and a Retry-After."""
        rate = self._rate
        each = rate.seconds / rate.requests
        full = max(self._full.pop(name, now), now)
        wait = full + each - now - rate.seconds
        # A tolerance for what floats lose: the last of the requests must not fail by 1e-12 of a second.
        if wait > each * 1e-6:
            self._full[name] = full
            raise RateLimited(
                f"Too many requests: this server allows {rate.requests} in {rate.seconds} seconds.",
                retry_after=wait,
                fields=self._told(full - now),
            )
        self._full[name] = full + each
        if len(self._full) > self._most:
            del self._full[next(iter(self._full))]
        return self._told(full + each - now)

    def _told(self, until_full: float) -> list[tuple[str, str]]:
        """The fields of draft-ietf-httpapi-ratelimit-headers: what is left, and seconds until all is."""
        rate = self._rate
        left = floor((rate.seconds - until_full) * rate.requests / rate.seconds + 1e-6)
        return [
            ("RateLimit-Policy", f'"requests";q={rate.requests};w={rate.seconds}'),
            ("RateLimit", f'"requests";r={max(0, left)};t={ceil(until_full - 1e-6)}'),
        ]


# --- daily tokens --------------------------------------------------------------------------------


class Budget:
    """Tokens of a day (UTC) for each name. A reply is counted when it is over: those under way may overrun it."""

    def __init__(self, tokens: int, most: int = MOST_NAMES) -> None:
        self._tokens = tokens
        self._most = most
        self._day = 0
        self._spent: dict[str, int] = {}

    def check(self, name: str, now: float) -> None:
        """Raises BudgetSpent, with the time until midnight, where the day's tokens are used up. `now`: epoch."""
        self._turn(now)
        if self._spent.get(name, 0) >= self._tokens:
            told = "The tokens of today are used up. They are renewed at 00:00 UTC."
            raise BudgetSpent(told, retry_after=DAY - now % DAY)

    def spend(self, name: str, tokens: int, now: float) -> bool:
        """Count a reply; whether this one passed 80 % of the day's tokens."""
        self._turn(now)
        before = self._spent.pop(name, 0)
        self._spent[name] = before + tokens
        if len(self._spent) > self._most:
            del self._spent[next(iter(self._spent))]
        return before < self._tokens * WARN_AT <= before + tokens

    def _turn(self, now: float) -> None:
        day = int(now // DAY)
        if day != self._day:
            self._day = day
            self._spent.clear()


# --- addresses -----------------------------------------------------------------------------------


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


# --- all of it -----------------------------------------------------------------------------------


class Settings(NamedTuple):
    """Who may ask. `keys` None: everybody. Rates and tokens are for each key, or address where there are no keys."""

    origins: Origins = Origins()
    keys: Keys | None = None
    rate: Rate | None = None
    daily_tokens: int | None = None  # of all together
    daily_tokens_each: int | None = None


class Asker(NamedTuple):
    """Who asks: a key's label, or nothing; the name that is counted; fields that tell what is left to them."""

    label: str
    name: str
    fields: Sequence[tuple[str, str]] = ()


_ALL = ""


class Guard:
    """Lets requests in, and counts them. `keys` may be changed while it runs."""

    def __init__(self, settings: Settings = Settings()) -> None:
        self.origins = settings.origins
        self.keys = settings.keys
        self._buckets = None if settings.rate is None else Buckets(settings.rate)
        self._budget = None if settings.daily_tokens is None else Budget(settings.daily_tokens)
        self._each = None if settings.daily_tokens_each is None else Budget(settings.daily_tokens_each)

    def admit(self, label: str, address: str, now: float, epoch: float) -> Asker:
        """Count who asks, by label or else address; `now` is of any steady clock, `epoch` of the calendar's.

        Raises RateLimited, BudgetSpent.
        """
        name = f"key {label}" if label else network_of(address)
        told = [] if self._buckets is None else self._buckets.take(name, now)
        if self._budget is not None:
            self._budget.check(_ALL, epoch)
        if self._each is not None:
            self._each.check(name, epoch)
        return Asker(label, name, told)

    def identify(self, fields: Fields) -> str:
        """The label of a request's key; empty where there are none. Raises OriginNotAllowed, Unauthorized."""
        self.origins.check(fields)
        return "" if self.keys is None else self.keys.label(fields.get("authorization"))

    def spend(self, asker: Asker, tokens: int, epoch: float) -> list[str]:
        """Count the tokens of a reply; whose budget is at 80 % with it."""
        warned = []
        if self._budget is not None and self._budget.spend(_ALL, tokens, epoch):
            warned.append("all together")
        if self._each is not None and self._each.spend(asker.name, tokens, epoch):
            warned.append(asker.name)
        return warned
