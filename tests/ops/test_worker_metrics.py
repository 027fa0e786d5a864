"""Metrics of several workers, over real socket pairs."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from functools import partial

import pytest
from client import until

from cfchat.ops import worker_metrics
from cfchat.ops.metrics import Family, Samples, encode
from cfchat.ops.worker_metrics import WorkerMetrics, share_metrics

COUNTER, GAUGE = Family("x_total", "Things."), Family("y", "Things now.", (), "gauge")


def counted(number: float) -> Samples:
    return {COUNTER.head: {"x_total": number}, GAUGE.head: {"y": 1}}


def joined(parent: WorkerMetrics) -> socket.socket:
    """Return a worker's end of a link to the parent."""
    ours, theirs = socket.socketpair()
    parent.add(ours)
    return theirs


async def test_what_the_parent_counts_itself_is_added() -> None:
    parent = WorkerMetrics(partial(counted, 5))
    async with share_metrics(joined(parent), partial(counted, 2)) as collect:
        assert await collect() == await parent.total() == {COUNTER.head: {"x_total": 7}, GAUGE.head: {"y": 2}}


async def test_all_workers_and_the_parent_ask_at_once() -> None:
    parent = WorkerMetrics(dict)
    async with AsyncExitStack() as stack:
        links = (share_metrics(joined(parent), partial(counted, number)) for number in range(8))
        collects = [await stack.enter_async_context(link) for link in links]
        assert await asyncio.gather(*(collect() for collect in collects), parent.total()) == [
            {COUNTER.head: {"x_total": 28}, GAUGE.head: {"y": 8}}
        ] * 9
    await until(lambda: not parent._links)
    assert parent.known() == {COUNTER.head: {"x_total": 28}}


async def test_an_answer_has_the_newest_numbers() -> None:
    parent, numbers = WorkerMetrics(dict), [1.0]
    async with share_metrics(joined(parent), lambda: counted(sum(numbers))) as collect_all:
        for number in range(3):
            numbers.append(number)
            for samples in (await collect_all(), await parent.total()):
                assert samples[COUNTER.head] == {"x_total": sum(numbers)}
        numbers.append(100)  # it reports once more at its end
    await until(lambda: not parent._links)
    assert parent.known() == {COUNTER.head: {"x_total": 104}}


async def test_a_worker_reports_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_metrics, "INTERVAL", 0.01)
    parent, numbers = WorkerMetrics(dict), [1.0]
    async with share_metrics(joined(parent), lambda: counted(sum(numbers))):
        await until(lambda: parent.known().get(COUNTER.head) == {"x_total": 1})
        numbers.append(5)
        await until(lambda: parent.known()[COUNTER.head] == {"x_total": 6})


async def test_without_an_answer_from_the_parent_a_worker_has_its_own_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_metrics, "PATIENCE", 0.01)
    ours, theirs = socket.socketpair()
    async with share_metrics(theirs, lambda: counted(3)) as collect_all:
        assert await collect_all() == counted(3)  # it is connected, and does not answer
        ours.close()
        assert await collect_all() == counted(3)


async def test_a_worker_that_does_not_answer_counts_with_its_last_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_metrics, "PATIENCE", 0.01)
    parent = WorkerMetrics(dict)
    theirs = joined(parent)
    theirs.sendall(b'{"# TYPE x counter\\n": {"x": 7}}\n')
    await until(lambda: bool(parent.known()))
    assert await parent.total() == {"# TYPE x counter\n": {"x": 7}}
    assert theirs.recv(8) == b"\n"
    theirs.sendall(b'{"# TYPE x counter\\n": {"x": 8')  # killed in the middle of a line
    theirs.close()
    await until(lambda: not parent._links)
    assert parent.known() == {"# TYPE x counter\n": {"x": 7}}


async def test_what_ended_workers_have_used_counts_until_midnight() -> None:
    now, today = [86_400.0 - 1], Family("z_today", "Tokens.", ("worker",), "gauge")
    parent = WorkerMetrics(dict, lambda: now[0])
    today.set(5, "71")
    for _ in range(2):
        async with share_metrics(joined(parent), lambda: {today.head: today.samples()}):
            await until(lambda: 'z_today{worker="71"}' in parent.known().get(today.head, {}))
        await until(lambda: not parent._links)
    assert parent.known() == {today.head: {'z_today{worker="ended"}': 10}}
    now[0] += 1
    assert parent.known() == {}


async def test_without_a_worker_none_is_ready() -> None:
    parent = WorkerMetrics()
    assert "\ncfchat_ready 0\n" in encode(parent.known()) and not parent.ready()
