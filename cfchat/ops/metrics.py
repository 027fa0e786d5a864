"""What is counted, and how Prometheus reads it (text format 0.0.4). Pure.

Names of labels are ours, their values may be a stranger's: they are escaped, and only so many are told apart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Sets of label values in one family; what comes beyond them is counted as "other".
MOST = 200
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MOMENTS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

READY = "cfchat_ready"

# By the head of each family, its numbers by name and labels: what is written, told to another process and added up.
Samples = Mapping[str, Mapping[str, float]]


class Family:
    """Numbers under one name, one for each set of label values. A counter is only added to, a gauge is set."""

    def __init__(self, name: str, told: str, labels: Sequence[str] = (), kind: str = "counter") -> None:
        self._name = name
        self.head = _head(name, told, kind)
        self._labels = labels
        self._numbers: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, number: float, *values: str) -> None:
        values = self._known(values)
        self._numbers[values] = self._numbers.get(values, 0.0) + number

    def set(self, number: float, *values: str) -> None:
        self._numbers[self._known(values)] = number

    def samples(self) -> dict[str, float]:
        return {self._name + _labelled(self._labels, values): number for values, number in self._numbers.items()}

    def _known(self, values: tuple[str, ...]) -> tuple[str, ...]:
        if values in self._numbers or len(self._numbers) < MOST:
            return values
        return ("other",) * len(self._labels)


class Histogram:
    """How many of what was observed were at most so much, for each bound."""

    def __init__(self, name: str, told: str, bounds: Sequence[float]) -> None:
        self._name = name
        self.head = _head(name, told, "histogram")
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self) -> dict[str, float]:
        bounds = (*map("{:g}".format, self._bounds), "+Inf")
        counts = accumulate(self._counts)
        buckets = {f'{self._name}_bucket{{le="{bound}"}}': n for bound, n in zip(bounds, counts, strict=True)}
        return {**buckets, f"{self._name}_sum": self._sum, f"{self._name}_count": sum(self._counts)}


class Metrics:
    """All that cfchat counts of one server."""

    def __init__(self) -> None:
        self.requests = Family("cfchat_requests_total", "Requests, by route and status.", ("route", "status"))
        self.rejected = Family("cfchat_rejected_total", "Requests refused by this server, by code.", ("reason",))
        self.replies = Family("cfchat_replies_total", "Replies that began, by how they ended.", ("end",))
        self.tokens = Family("cfchat_tokens_total", "Tokens, told by Cloudflare or else estimated.", ("kind",))
        self.first_token = Histogram(
            "cfchat_first_token_seconds", "From the whole question to the first words.", SECONDS
        )
        self.per_token = Histogram("cfchat_per_token_seconds", "Between tokens, a mean for each reply.", MOMENTS)
        self.tries = Family("cfchat_tries_total", "Requests to Cloudflare for a reply.")
        self.upstream_errors = Family(
            "cfchat_upstream_errors_total", "Tries and replies that failed, by code.", ("code",)
        )
        self.streams = Family("cfchat_streams", "Replies running, or waiting for their turn.", ("state",), "gauge")
        self.clients = Family("cfchat_client_connections", "Connections of clients.", (), "gauge")
        self.pool = Family("cfchat_upstream_connections", "Connections to Cloudflare.", ("state",), "gauge")
        self.ready = Family(READY, "How many processes say yes to /readyz.", (), "gauge")
        self.lag = Histogram("cfchat_loop_lag_seconds", "How late a timer of the event loop was.", MOMENTS)

    def samples(self) -> Samples:
        return {family.head: family.samples() for family in vars(self).values()}


def text_of(samples: Samples) -> str:
    """As Prometheus reads them."""
    return "".join(
        head + "".join(f"{name} {number:.15g}\n" for name, number in numbers.items())
        for head, numbers in samples.items()
    )


def total(parts: Iterable[Samples]) -> Samples:
    """The sum of each number, whoever has it."""
    summed: dict[str, dict[str, float]] = {}
    for part in parts:
        for head, numbers in part.items():
            family = summed.setdefault(head, {})
            for name, number in numbers.items():
                family[name] = family.get(name, 0.0) + number
    return summed


def lasting(samples: Samples) -> Samples:
    """What is still true when its process has ended: all but the gauges."""
    return {head: numbers for head, numbers in samples.items() if not head.endswith(" gauge\n")}


def _head(name: str, told: str, kind: str) -> str:
    return f"# HELP {name} {told}\n# TYPE {name} {kind}\n"


def _labelled(names: Sequence[str], values: Sequence[str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
