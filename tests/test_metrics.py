"""Numbers, and the text that Prometheus reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.metrics import MOST, Family, Histogram


def test_a_family_tells_each_set_of_labels() -> None:
    family = Family("x_total", "Things.", ("route", "status"))
    family.add(1, "/a", "200")
    family.add(2, "/a", "200")
    family.add(1, "/a", "404")
    assert family.text() == (
        "# HELP x_total Things.\n# TYPE x_total counter\n"
        'x_total{route="/a",status="200"} 3\nx_total{route="/a",status="404"} 1\n'
    )


def test_one_number_without_labels_is_there_from_the_start() -> None:
    gauge = Family("x", "Things.", (), "gauge")
    assert gauge.text().endswith("x 0\n")
    gauge.set(2.5)
    assert gauge.text() == "# HELP x Things.\n# TYPE x gauge\nx 2.5\n"


def test_a_value_of_a_label_cannot_forge_a_line() -> None:
    family = Family("x", "Things.", ("code",))
    family.add(1, 'a"} 9\n\\')
    assert family.text().splitlines()[2:] == [r'x{code="a\"} 9\n\\"} 1']


def test_labels_do_not_grow_for_ever() -> None:
    family = Family("x", "Things.", ("code",))
    for number in range(MOST + 100):
        family.add(1, str(number))
    lines = family.text().splitlines()[2:]
    assert len(lines) == MOST + 1
    assert lines[-1] == 'x{code="other"} 100'


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_counts_what_is_at_most_each_bound(values: list[float]) -> None:
    histogram = Histogram("x", "Seconds.", (0.5, 1.0, 10.0))
    for value in values:
        histogram.observe(value)
    lines = histogram.text().splitlines()[2:]
    assert lines[:4] == [
        f'x_bucket{{le="{bound}"}} {sum(value <= float(bound) for value in values)}'
        for bound in ("0.5", "1", "10", "+Inf")
    ]
    assert lines[4].startswith("x_sum ")
    assert float(lines[4].split()[1]) == pytest.approx(sum(values))
    assert lines[5] == f"x_count {len(values)}"
