"""What several have counted, over real pairs of sockets."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from functools import partial

from client import until

from cfchat.ops.metrics import Family, Samples
from cfchat.ops.worker_metrics import Tally, member

COUNTER, GAUGE = Family("x_total", "Things."), Family("y", "Things now.", (), "gauge")


def counted(number: float) -> Samples:
    return {COUNTER.head: {"x_total": number}, GAUGE.head: {"y": 1}}


def joined(parent: Tally) -> socket.socket:
    """A worker's end of a line that the parent has."""
    ours, theirs = socket.socketpair()
    parent.join(ours)
    return theirs


async def test_all_may_ask_at_once() -> None:
    parent = Tally()
    async with AsyncExitStack() as stack:
        lines = (member(joined(parent), partial(counted, number)) for number in range(8))
        ways = [await stack.enter_async_context(line) for line in lines]
        assert await asyncio.gather(*(way() for way in ways), parent.total()) == [
            {COUNTER.head: {"x_total": 28}, GAUGE.head: {"y": 8}}
        ] * 9
    await until(lambda: not parent._lines)
    assert parent.known() == {COUNTER.head: {"x_total": 28}}


async def test_what_is_new_is_told_when_it_is_asked_for() -> None:
    parent, numbers = Tally(), [1.0]
    async with member(joined(parent), lambda: counted(sum(numbers))) as of_all:
        for number in range(3):
            numbers.append(number)
            assert (await of_all())[COUNTER.head] == (await parent.total())[COUNTER.head] == {"x_total": sum(numbers)}
        numbers.append(100)  # last words are told unasked
    await until(lambda: not parent._lines)
    assert parent.known() == {COUNTER.head: {"x_total": 104}}


async def test_what_is_new_is_told_unasked() -> None:
    parent, numbers = Tally(), [1.0]
    async with member(joined(parent), lambda: counted(sum(numbers))):
        await until(lambda: parent.known().get(COUNTER.head) == {"x_total": 1})
        numbers.append(5)
        await until(lambda: parent.known()[COUNTER.head] == {"x_total": 6})


async def test_a_parent_that_does_not_answer_leaves_ones_own() -> None:
    ours, theirs = socket.socketpair()
    async with member(theirs, lambda: counted(3)) as of_all:
        assert await of_all() == counted(3)  # it is there, and says nothing
        ours.close()
        assert await of_all() == counted(3)


async def test_a_worker_that_does_not_answer_counts_as_it_told_last() -> None:
    parent = Tally()
    theirs = joined(parent)
    theirs.sendall(b'{"# TYPE x counter\\n": {"x": 7}}\n')
    await until(lambda: bool(parent.known()))
    assert await parent.total() == {"# TYPE x counter\n": {"x": 7}}
    assert theirs.recv(8) == b"\n"
    theirs.sendall(b'{"# TYPE x counter\\n": {"x": 8')  # killed in the middle of a word
    theirs.close()
    await until(lambda: not parent._lines)
    assert parent.known() == {"# TYPE x counter\n": {"x": 7}}
