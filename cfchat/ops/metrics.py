"""Count, and write the numbers for Prometheus (text format 0.0.4). Pure.

A family is one name with a number for each set of label values. Names of labels are ours; values may come from a
client or from Cloudflare, so they are escaped, and a family keeps at most LIMIT sets of them. Samples are the plain
form of the numbers: JSON can carry them from one process to another, and `total` adds them up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Sets of label values in one family; all further ones are counted together, as "other".
LIMIT = 200
# Bounds of histograms, in seconds: for a wait that a user notices, and for one between two tokens.
LONG = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

READY = "cfchat_ready"
ENDED = "ended"  # in place of a worker: all that have ended, together

# For each family, by its HELP and TYPE lines: its numbers, by name and labels as Prometheus writes them.
Samples = Mapping[str, Mapping[str, float]]


class Family:
    """Numbers under one name, one for each set of label values. A counter only grows; a gauge is set."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), kind: str = "counter") -> None:
        self._name = name
        self.head = _head(name, text, kind)
        self._labels = labels
        self._numbers: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, number: float, *values: str) -> None:
        """Add to the number of these label values."""
        try:
            self._numbers[values] += number
        except KeyError:
            values = self._kept(values)
            self._numbers[values] = self._numbers.get(values, 0.0) + number

    def set(self, number: float, *values: str) -> None:
        """Set the number of these label values."""
        self._numbers[self._kept(values)] = number

    def sum(self) -> float:
        """Return the sum over all label values."""
        return sum(self._numbers.values())

    def samples(self) -> dict[str, float]:
        """Return the numbers by name and labels."""
        return {self._name + _labelled(self._labels, values): number for values, number in self._numbers.items()}

    def _kept(self, values: tuple[str, ...]) -> tuple[str, ...]:
        """Return the label values to count under: these, or "other" if the family is full."""
        if values in self._numbers or len(self._numbers) < LIMIT:
            return values
        return ("other",) * len(self._labels)


class Histogram:
    """A count of observed values: for each bound, how many were at most that large."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name = name
        self.head = _head(name, text, "histogram")
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self) -> dict[str, float]:
        """Return the buckets, the sum and the count, by name and labels."""
        bounds = (*map("{:g}".format, self._bounds), "+Inf")
        counts = accumulate(self._counts)
        buckets = {f'{self._name}_bucket{{le="{bound}"}}': n for bound, n in zip(bounds, counts, strict=True)}
        return {**buckets, f"{self._name}_sum": self._sum, f"{self._name}_count": sum(self._counts)}


class Metrics:
    """Everything that one server counts."""

    def __init__(self) -> None:
        self.requests = Family("cfchat_requests_total", "Requests, by route and status.", ("route", "status"))
        self.rejected = Family("cfchat_rejected_total", "Requests refused by this server, by code.", ("reason",))
        self.replies = Family("cfchat_replies_total", "Replies that began, by how they ended.", ("end",))
        self.tokens = Family("cfchat_tokens_total", "Tokens, as Cloudflare reports them or else estimated.", ("kind",))
        self.neurons = Family("cfchat_neurons_total", "Neurons, as far as Cloudflare reports them.")
        self.first_token = Histogram(
            "cfchat_first_token_seconds", "From the whole question to the first words.", LONG
        )
        self.per_token = Histogram("cfchat_per_token_seconds", "Between tokens, a mean for each reply.", SHORT)
        self.tries = Family("cfchat_tries_total", "Requests to Cloudflare for a reply.")
        self.upstream_errors = Family(
            "cfchat_upstream_errors_total", "Tries and replies that failed, by code.", ("code",)
        )
        self.streams = Family("cfchat_streams", "Replies running, or waiting for their turn.", ("state",), "gauge")
        self.waiting = Family("cfchat_waiting_bytes", "Bytes of requests that wait.", (), "gauge")
        self.kept = Family("cfchat_kept_replies", "Replies that can be joined, or run on.", ("state",), "gauge")
        self.kept_bytes = Family("cfchat_kept_bytes", "Memory of kept replies.", (), "gauge")
        self.resumed = Family("cfchat_resumed_total", "Requests that have joined a kept reply.")
        self.clients = Family("cfchat_client_connections", "Connections of clients.", (), "gauge")
        self.pool = Family("cfchat_upstream_connections", "Connections to Cloudflare.", ("state",), "gauge")
        self.ready = Family(READY, "How many processes say yes to /readyz.", (), "gauge")
        self.dropped_lines = Family("cfchat_log_lines_dropped_total", "Log lines that stderr did not take.")
        self.lag = Histogram("cfchat_loop_lag_seconds", "How late a timer of the event loop was.", SHORT)
        # By process. A counter of each would outlive it, and processes come and go.
        self.tokens_today = _gauge("cfchat_tokens_today", "Tokens since 00:00 UTC.")
        self.neurons_today = _gauge("cfchat_neurons_today", "Neurons since 00:00 UTC.")
        self.budget = _gauge("cfchat_budget_tokens", "Tokens that a worker may use in a day.")
        self.worker_streams = _gauge("cfchat_worker_streams", "Replies that a worker runs.")
        self.worker_cpu = _gauge("cfchat_worker_cpu_seconds", "Processor time that a worker has used.")

    def samples(self) -> Samples:
        """Return the numbers of all families."""
        return {family.head: family.samples() for family in vars(self).values()}


def _gauge(name: str, text: str) -> Family:
    return Family(name, text, ("worker",), "gauge")


def encode(samples: Samples) -> str:
    """Return the text that Prometheus reads."""
    return "".join(
        head + "".join(f"{name} {number:.15g}\n" for name, number in numbers.items())
        for head, numbers in samples.items()
    )


def total(parts: Iterable[Samples]) -> Samples:
    """Return the sum of each number over all parts."""
    sums: dict[str, dict[str, float]] = {}
    for part in parts:
        for head, numbers in part.items():
            family = sums.setdefault(head, {})
            for name, number in numbers.items():
                family[name] = family.get(name, 0.0) + number
    return sums


def lasting(samples: Samples) -> Samples:
    """Return the samples that stay true when their process has ended: all but the gauges."""
    return {head: numbers for head, numbers in samples.items() if not head.endswith(" gauge\n")}


def lasting_today(samples: Samples) -> Samples:
    """Return the samples that stay true until midnight when their worker has ended, as those of `ENDED`."""
    ended = {}
    for head, numbers in samples.items():
        name = head.split()[2]
        if name.endswith("_today"):
            ended[head] = {name + _labelled(("worker",), (ENDED,)): sum(numbers.values())}
    return ended


def _head(name: str, text: str, kind: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def _labelled(names: Sequence[str], values: Sequence[str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
