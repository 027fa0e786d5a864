"""Who may run, who waits, and that nobody's turn is lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.app.admission import Admission
from cfchat.errors import Overloaded


class Guest:
    """One conversation: in the queue or running until it is let go."""

    def __init__(self, admission: Admission) -> None:
        self.in_turn = False
        self.go = asyncio.Event()
        self.task = asyncio.create_task(self._run(admission))

    async def _run(self, admission: Admission) -> None:
        async with admission:
            self.in_turn = True
            try:
                await self.go.wait()
            finally:
                self.in_turn = False


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_first_run_the_next_wait_in_their_order_and_the_rest_are_refused() -> None:
    admission = Admission(2, 2, 60)
    guests = [Guest(admission) for _ in range(5)]
    await settle()
    assert [guest.in_turn for guest in guests] == [True, True, False, False, False]
    assert (admission.running, admission.waiting) == (2, 2)
    error = guests[4].task.exception()
    assert isinstance(error, Overloaded) and error.retry_after == 1
    guests[0].go.set()
    await settle()
    assert [guest.in_turn for guest in guests] == [False, True, True, False, False]
    guests[1].go.set()
    await settle()
    assert guests[3].in_turn and (admission.running, admission.waiting) == (2, 0)
    for guest in guests:
        guest.go.set()
    await asyncio.wait([guest.task for guest in guests])
    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_turn_that_does_not_come_in_time_is_refused() -> None:
    admission = Admission(1, 9, 0.02)
    running, late = Guest(admission), Guest(admission)
    await asyncio.wait([late.task])
    assert isinstance(late.task.exception(), Overloaded)
    assert (admission.running, admission.waiting) == (1, 0)
    running.go.set()
    await running.task
    async with admission:
        assert admission.running == 1


async def test_a_free_turn_is_had_without_a_turn_of_the_loop() -> None:
    admission = Admission(1, 0, 60)
    entering = admission.__aenter__()
    with pytest.raises(StopIteration):
        entering.send(None)
    assert admission.running == 1
    await admission.__aexit__()


@given(
    st.integers(1, 3), st.integers(0, 3),
    st.lists(st.tuples(st.sampled_from(["come", "go", "leave", "turn"]), st.integers(0, 9)), max_size=40),
)  # fmt: skip
async def test_no_turn_is_lost_and_none_is_given_twice(streams: int, queue: int, steps: list[tuple[str, int]]) -> None:
    """Whether a guest goes in peace or is cancelled: in the queue, in its turn, or in the moment between."""
    admission, guests = Admission(streams, queue, 60), list[Guest]()
    for step, number in steps:
        if step == "come":
            guests.append(Guest(admission))
        elif step == "turn" or not guests:
            await asyncio.sleep(0)
        elif step == "go":
            guests[number % len(guests)].go.set()
        else:
            guests[number % len(guests)].task.cancel()
        assert admission.running <= streams and admission.waiting <= queue
        assert sum(guest.in_turn for guest in guests) <= streams
    await settle()
    assert admission.running == sum(guest.in_turn for guest in guests)
    assert not admission.waiting or admission.running == streams  # nobody waits for a turn that is free
    for guest in guests:
        guest.go.set()
    await asyncio.gather(*[guest.task for guest in guests], return_exceptions=True)
    assert (admission.running, admission.waiting) == (0, 0)
    again = [Guest(admission) for _ in range(streams)]
    await asyncio.sleep(0)
    assert all(guest.in_turn for guest in again)
    for guest in again:
        guest.go.set()
    await asyncio.gather(*[guest.task for guest in again])
