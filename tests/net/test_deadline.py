"""One timer for all waits of a connection: what is late, and which wait it was."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest

from cfchat.net.deadline import Deadline


class Clock:
    """A deadline, and the moments in a real loop when it expired."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.expired = asyncio.Event()
        self.deadline = Deadline(self.expired.set)
        self.began = self.loop.time()

    async def lasted(self) -> float:
        await self.expired.wait()
        return self.loop.time() - self.began

    def timers(self) -> int:
        """How many timers the loop holds for the deadline."""
        scheduled = self.loop._scheduled  # type: ignore[attr-defined]
        return sum(not handle.cancelled() and "_fire" in repr(handle) for handle in scheduled)


@pytest.mark.parametrize(
    ("steps", "at_least", "missed"),
    [
        ([lambda d: d.move(0.05, "first")], 0.05, (0.05, "first")),
        ([lambda d: d.move(9, "first"), lambda d: d.move(0.05, "first")], 0.05, (0.05, "first")),
        ([lambda d: d.move(0.01, "first"), lambda d: d.move(0.1, "first")], 0.1, (0.1, "first")),
        ([lambda d: d.bound(0.05, "whole"), lambda d: d.move(9, "first")], 0.05, (0.05, "whole")),
        ([lambda d: d.bound(9, "whole"), lambda d: d.move(0.05, "first")], 0.05, (0.05, "first")),
        ([lambda d: d.bound(0.05, "whole"), lambda d: d.pause()], 0.05, (0.05, "whole")),
        (
            [lambda d: d.move(0.01, "first"), lambda d: d.bound(0.1, "whole"), lambda d: d.pause()],
            0.1,
            (0.1, "whole"),
        ),
        ([lambda d: d.bound(0, "whole"), lambda d: d.move(0.05, "first")], 0.05, (0.05, "first")),
    ],
)
async def test_what_comes_first_ends_it(
    steps: list[Callable[[Deadline], None]], at_least: float, missed: tuple[float, str]
) -> None:
    clock = Clock()
    for step in steps:
        step(clock.deadline)
        assert clock.timers() <= 1
    assert at_least <= await clock.lasted() + 0.002
    assert clock.deadline.expired and clock.deadline.missed == missed


async def test_what_was_late_is_told_though_the_deadline_is_moved_again() -> None:
    clock = Clock()
    clock.deadline.bound(0.01, "whole")
    await clock.lasted()
    clock.deadline.move(30.0, "first")
    assert clock.deadline.missed == (0.01, "whole")
    clock.deadline.cancel()


async def test_one_timer_however_often_it_is_moved() -> None:
    clock = Clock()
    for _ in range(1000):
        clock.deadline.move(30.0, "first")
        clock.deadline.pause()
    assert clock.timers() == 1
    clock.deadline.bound(60.0, "whole")
    assert clock.timers() == 1
    clock.deadline.cancel()
    assert clock.timers() == 0


async def test_paused_or_cancelled_it_never_ends() -> None:
    clock = Clock()
    clock.deadline.move(0.01, "first")
    clock.deadline.pause()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await clock.lasted()
    clock.deadline.bound(0.01, "whole")
    clock.deadline.cancel()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await clock.lasted()
    assert not clock.deadline.expired


async def test_stopped_it_forgets_its_bound_and_may_be_moved_again() -> None:
    clock = Clock()
    clock.deadline.bound(0.01, "whole")
    clock.deadline.stop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await clock.lasted()
    assert clock.timers() == 0  # it has fired, and was set for nothing
    clock.deadline.move(0.01, "first")
    await clock.lasted()
    assert clock.deadline.missed == (0.01, "first")


async def test_it_expires_once_and_a_further_wait_once_more() -> None:
    times: list[tuple[float, object]] = []
    deadline = Deadline(lambda: times.append(deadline.missed))
    deadline.move(0.01, "one")
    await asyncio.sleep(0.05)
    assert times == [(0.01, "one")]
    deadline.move(0.02, "two")
    await asyncio.sleep(0.05)
    assert times == [(0.01, "one"), (0.02, "two")]


async def test_a_timer_that_is_set_serves_a_later_wait() -> None:
    """It looks when it fires, and sets itself again."""
    clock = Clock()
    clock.deadline.move(0.02)
    handle = clock.deadline._timer
    clock.deadline.move(0.08)
    assert clock.deadline._timer is handle
    await asyncio.sleep(0.04)
    assert not clock.deadline.expired and clock.deadline._timer is not handle
    assert await clock.lasted() >= 0.078


async def test_cancelled_it_holds_its_owner_no_longer() -> None:
    class Owner:
        def __init__(self) -> None:
            self.deadline = Deadline(self.expire)

        def expire(self) -> None: ...

    gc.disable()
    try:
        owner = Owner()
        gone = weakref.ref(owner)
        owner.deadline.move(30.0)
        owner.deadline.cancel()
        del owner
        assert gone() is None
    finally:
        gc.enable()
