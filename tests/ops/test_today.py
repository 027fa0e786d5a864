"""Numbers of today, with a clock that the test sets."""

from __future__ import annotations

import pytest
from client import until

from cfchat.ops import today
from cfchat.ops.metrics import Metrics
from cfchat.ops.today import Today

NOON = 20_000 * 86_400.0 + 43_200
MIDNIGHT = 20_001 * 86_400.0


def used(metrics: Metrics) -> tuple[float, float]:
    return metrics.tokens_today.sum(), metrics.neurons_today.sum()


def test_at_midnight_the_numbers_of_today_begin_at_zero() -> None:
    metrics, now = Metrics(), [NOON]
    day = Today(metrics, "7", lambda: now[0])
    metrics.tokens.add(40, "prompt")
    metrics.tokens.add(2, "completion")
    metrics.neurons.add(1.5)
    day.update()
    assert metrics.tokens_today.samples() == {'cfchat_tokens_today{worker="7"}': 42}
    assert metrics.neurons_today.samples() == {'cfchat_neurons_today{worker="7"}': 1.5}
    now[0] = MIDNIGHT - 0.001
    day.update()
    assert used(metrics) == (42, 1.5)
    now[0] = MIDNIGHT
    day.update()
    assert used(metrics) == (0, 0)
    metrics.tokens.add(3, "prompt")
    day.update()
    assert used(metrics) == (3, 0)


async def test_midnight_is_noticed_although_nobody_reads_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(today, "OFTEN", 0.001)
    metrics, now = Metrics(), [NOON]
    day = Today(metrics, "7", lambda: now[0])
    metrics.tokens.add(40, "prompt")
    day.start()
    assert used(metrics) == (40, 0)
    now[0] = MIDNIGHT
    await until(lambda: used(metrics) == (0, 0))
    day.stop()
