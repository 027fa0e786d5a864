"""What the operator's page makes of /metrics: the text as cfchat writes it, rates, quantiles, and a bounded history."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from cfchat.ops.metrics import LONG, Family, Histogram, Metrics, encode

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(not NODE and "CI" not in os.environ, reason="node is not installed")
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Give a function that asks the module about texts of /metrics."""
    assert NODE
    script = Path(__file__).parents[1] / "support" / "readings.mjs"
    module = str(ROOT / "cfchat/web/readings.js")
    command = [NODE, "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON", str(script), module]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        stdin, stdout = process.stdin, process.stdout

        def put(what: str, texts: list[str], *given: object) -> Any:
            stdin.write(json.dumps({"texts": texts, "what": what, "given": given}) + "\n")
            stdin.flush()
            return json.loads(stdout.readline())

        yield put
        stdin.close()


def text(*families: Family | Histogram) -> str:
    return encode({family.head: family.samples() for family in families})


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.floats(0, 1e15), max_size=4))
def test_each_label_and_number_is_read_as_it_was_written(ask: Ask, numbers: dict[str, float]) -> None:
    family = Family("x_total", "Things.", ("kind", "code"))
    for code, number in numbers.items():
        family.add(number, "a", code)
    written = text(Family("w", "More."), family)
    read = dict(ask("by", [written], "x_total", "code"))
    assert read == {code: float(f"{number:.15g}") for code, number in numbers.items()}
    assert ask("sum", [written], "x_total", {"kind": "a"}) == pytest.approx(math.fsum(numbers.values()))
    assert ask("sum", [written], "x_total", {"kind": "b"}) == 0


def test_what_is_no_sample_is_skipped(ask: Ask) -> None:
    written = '# TYPE x gauge\nx{a="1"} +Inf 1700000000\nx{a="2"} NaN\n<html>\nx\nx {a="3"} 1\n\n'
    assert ask("by", [written], "x", "a") == [["1", "Infinity"], ["2", "NaN"]]


def slow_quantile(q: float, values: list[float]) -> float:
    """Return the quantile as Prometheus defines it, from the values themselves."""
    ends = [0.0, *LONG, math.inf]
    for low, bound in pairwise(ends):
        below = sum(it <= low for it in values) if low else 0  # a zero is in the first bucket
        inside = sum(it <= bound for it in values) - below
        if inside and below + inside >= q * len(values):
            return math.inf if bound == math.inf else low + (bound - low) * (q * len(values) - below) / inside
    return math.nan


VALUES = st.lists(st.floats(0, 100), max_size=20)


@given(VALUES, VALUES, st.sampled_from([0.5, 0.95]))
def test_a_quantile_is_of_what_came_between_two_readings(
    ask: Ask, old: list[float], new: list[float], q: float
) -> None:
    texts, histogram = [], Histogram("x", "Seconds.", LONG)
    for values in (old, new):
        for value in values:
            histogram.observe(value)
        texts.append(text(histogram))
    assert float(ask("quantile", texts, q, "x")) == pytest.approx(slow_quantile(q, new), nan_ok=True)
    assert ask("growth", texts, "x_count") == len(new)


def test_a_history_is_bounded_and_begins_again_with_the_server(ask: Ask) -> None:
    def counted(number: int) -> str:
        family = Family("cfchat_requests_total", "Requests.")
        family.add(number)
        return text(family)

    assert ask("kept", list(map(counted, range(10))), 1000, 4) == [6, 7, 8, 9]
    assert ask("kept", list(map(counted, range(10))), 2, 100) == [7, 8, 9]
    assert ask("kept", list(map(counted, (5, 6, 0, 1))), 1000, 100) == [2, 3]


def test_the_page_asks_for_no_other_metrics_than_there_are() -> None:
    named = set(re.findall(r'"(cfchat_\w+)"', (ROOT / "cfchat/web/admin.js").read_text()))
    shown = {head.split()[2] for head in Metrics().samples()}
    assert len(named) > 10 and {name.removesuffix("_count") for name in named} <= shown
