"""Counting, and the text that Prometheus reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.ops.metrics import LIMIT, Family, Histogram, Metrics, Samples, encode, lasting, lasting_today, total


def text(family: Family | Histogram) -> str:
    return encode({family.head: family.samples()})


def test_a_family_has_a_number_for_each_set_of_labels() -> None:
    family = Family("x_total", "Things.", ("route", "status"))
    family.add(1, "/a", "200")
    family.add(2, "/a", "200")
    family.add(1, "/a", "404")
    assert text(family) == (
        "# HELP x_total Things.\n# TYPE x_total counter\n"
        'x_total{route="/a",status="200"} 3\nx_total{route="/a",status="404"} 1\n'
    )


def test_a_family_without_labels_starts_at_zero() -> None:
    gauge = Family("x", "Things.", (), "gauge")
    assert text(gauge).endswith("x 0\n")
    gauge.set(2.5)
    assert text(gauge) == "# HELP x Things.\n# TYPE x gauge\nx 2.5\n"


def test_a_value_of_a_label_cannot_forge_a_line() -> None:
    family = Family("x", "Things.", ("code",))
    family.add(1, 'a"} 9\n\\')
    assert text(family).splitlines()[2:] == [r'x{code="a\"} 9\n\\"} 1']


def test_a_family_that_is_full_counts_under_other() -> None:
    family = Family("x", "Things.", ("code",))
    for number in range(LIMIT + 100):
        family.add(1, str(number))
    lines = text(family).splitlines()[2:]
    assert len(lines) == LIMIT + 1
    assert lines[-1] == 'x{code="other"} 100'


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_counts_the_values_up_to_each_bound(values: list[float]) -> None:
    histogram = Histogram("x", "Seconds.", (0.5, 1.0, 10.0))
    for value in values:
        histogram.observe(value)
    lines = text(histogram).splitlines()[2:]
    assert lines[:4] == [
        f'x_bucket{{le="{bound}"}} {sum(value <= float(bound) for value in values)}'
        for bound in ("0.5", "1", "10", "+Inf")
    ]
    assert lines[4].startswith("x_sum ")
    assert float(lines[4].split()[1]) == pytest.approx(sum(values))
    assert lines[5] == f"x_count {len(values)}"


NUMBERS = st.dictionaries(st.sampled_from(["a", 'a{b="c"}', "d"]), st.integers(0, 1000))
PARTS = st.lists(st.dictionaries(st.sampled_from(["# TYPE x counter\n", "# TYPE y gauge\n"]), NUMBERS))


@given(PARTS)
def test_a_total_sums_each_number_and_has_each_family_once(parts: list[Samples]) -> None:
    sums = total(parts)
    for head in {head for part in parts for head in part}:
        names = {name for part in parts for name in part.get(head, {})}
        assert sums[head] == {name: sum(part.get(head, {}).get(name, 0) for part in parts) for name in names}
    assert len(sums) == encode(sums).count("# TYPE")


def test_a_gauge_does_not_outlive_its_process() -> None:
    counter, gauge, histogram = Family("x", "Gauge."), Family("gauge", "Counter.", (), "gauge"), Histogram("z", "", ())
    assert list(lasting({family.head: family.samples() for family in (counter, gauge, histogram)})) == [
        counter.head,
        histogram.head,
    ]


def test_what_a_process_has_used_today_outlives_it_under_another_name() -> None:
    metrics = Metrics()
    metrics.tokens.add(9, "prompt")
    metrics.tokens_today.set(5, "71")
    metrics.budget.set(100, "71")
    left = lasting_today(metrics.samples())
    assert left[metrics.tokens_today.head] == {'cfchat_tokens_today{worker="ended"}': 5}
    assert set(left) == {metrics.tokens_today.head, metrics.neurons_today.head}
