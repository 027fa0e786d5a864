"""What a run gives: figures, tables as Markdown has them, and how cfchat stands to its goals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import nan
from statistics import median

from environments import BEFORE, FLOOR
from load import Result


@dataclass(frozen=True)
class Figure:
    """One number of a result."""

    name: str
    of: Callable[[Result], float]  # nan where nothing of it fell into the time that was measured


CPU = Figure("CPU ms per 1,000 tokens", lambda result: result.cpu["it"] / max(1, result.tokens) * 1e6)
RATE = Figure("tokens/s", lambda result: result.tokens / result.seconds)
REPLIES = Figure("requests/s", lambda result: result.replies / result.seconds)
P99 = Figure("added ms per token p99", lambda result: result.latency.get("p99", nan))
PACED = (
    CPU,
    Figure("added ms per token p50", lambda result: result.latency.get("p50", nan)),
    P99,
    Figure("added ms to the first p50", lambda result: result.first.get("p50", nan)),
    Figure("added ms to the first p99", lambda result: result.first.get("p99", nan)),
)
EACH = Figure("CPU ms per reply", lambda result: result.cpu["it"] / max(1, result.replies) * 1e3)
CHATS = dict.fromkeys(("chat", "chat few", "chat one"), (REPLIES, EACH))
FIGURES = {**CHATS, "short": (REPLIES, EACH), "paced 100": PACED, "paced 300": PACED}

Numbers = dict[str, dict[str, list[float]]]  # of a figure, of each contender
START, IDLE = "ms to a first reply", "MiB idle"
FRESH, FOLDER = "ms to a first reply, fresh", "folder"  # the second stands beside the .pyz
STREAM, HTTPS = "KiB a stream at 1,000", "KiB an idle HTTPS connection"


@dataclass(frozen=True)
class Goal:
    """What a median may be at most: beside that of a contender in the same round, or by itself."""

    mode: str
    figure: str
    limit: float
    beside: str = ""

    def value(self, numbers: Numbers, name: str) -> float | None:
        """Return the median of the contender `name`, or None if it was not measured, or nothing was beside it."""
        values, others = numbers[self.figure].get(name), numbers[self.figure].get(self.beside)
        if not self.beside or not values:
            return median(values) if values else None
        return median(ours / theirs for ours, theirs in zip(values, others, strict=True)) if others else None


GOALS = (
    Goal("short", EACH.name, 1.0, "aiohttp"),
    Goal("chat", EACH.name, 0.7, FLOOR),
    Goal("chat", EACH.name, 1.0, "node"),
    Goal("chat one", EACH.name, 1.0, FLOOR),
    Goal("paced 100", CPU.name, 1.0, FLOOR),
    Goal("paced 100", P99.name, 1.5, FLOOR),
    Goal("paced 300", CPU.name, 1.0, FLOOR),
    Goal("paced 300", P99.name, 1.5, FLOOR),
    Goal("memory", STREAM, 55),
    Goal("memory", HTTPS, 60),
    Goal("start", START, 1.4, FLOOR),
    Goal("start", IDLE, 26),
    Goal("fresh", FRESH, 0.7, FOLDER),
)


def show_goals(measured: dict[str, Numbers], titles: dict[str, str]) -> None:
    """Print each goal whose mode was measured; one that has no contender beside it is left out."""
    names = ["cfchat", BEFORE]
    rows = []
    for goal in GOALS:
        values = [goal.value(measured[goal.mode], name) for name in names] if goal.mode in measured else [None]
        if values[0] is not None:
            beside = f", beside {goal.beside}" if goal.beside else ""
            cells = [f"{value:.2f}" if value is not None else "" for value in values]
            verdict = "yes" if values[0] <= goal.limit else "no"
            rows.append([f"{titles[goal.mode]}: {goal.figure}{beside}", *cells, f"{goal.limit:g}", verdict])
    if rows:
        print("### goals (medians; beside a contender: of the ratios in each round)\n")
        for row in [["", *names, "goal, at most", "met"], ["---"] * 5, *rows]:
            print("| " + " | ".join(row) + " |")


def show(title: str, numbers: Numbers) -> None:
    """Print a table in Markdown; ratios are to cfchat."""
    print(f"### {title}\n")
    print("| | " + " | ".join(numbers) + " |")
    print("|---|" + "---|" * len(numbers))
    for name in next(iter(numbers.values())):
        print(f"| {name} | " + " | ".join(_cell(own, name) for own in numbers.values()) + " |")
    print(flush=True)


def _cell(of: dict[str, list[float]], name: str) -> str:
    values, ours = of.get(name), median(of["cfchat"])
    if not values:
        return ""
    middle = median(values)
    return f"{_short(middle)} ({_short(min(values))} to {_short(max(values))}), x {middle / ours if ours else 0:.2f}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
