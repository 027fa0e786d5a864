"""Who may run, who waits, and that nobody's turn is lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cfchat.app.admission import Admission
from cfchat.errors import Overloaded


class Guest:
    """One conversation: in the queue or running until it is let go."""

    def __init__(self, admission: Admission, name: str = "") -> None:
        self.name = name
        self.in_turn = False
        self.go = asyncio.Event()
        self.task = asyncio.create_task(self._run(admission))

    async def _run(self, admission: Admission) -> None:
        await admission.enter(self.name)
        self.in_turn = True
        try:
            await self.go.wait()
        finally:
            self.in_turn = False
            admission.leave(self.name)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_first_run_the_next_wait_in_their_order_and_the_rest_are_refused() -> None:
    admission = Admission(2, 2, 60, 2)
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
    admission = Admission(1, 9, 0.02, 1)
    running, late = Guest(admission), Guest(admission)
    await asyncio.wait([late.task])
    assert isinstance(late.task.exception(), Overloaded)
    assert (admission.running, admission.waiting) == (1, 0)
    running.go.set()
    await running.task
    await admission.enter("")
    assert admission.running == 1


async def test_a_free_turn_is_had_without_a_turn_of_the_loop() -> None:
    admission = Admission(1, 0, 60, 1)
    with pytest.raises(StopIteration):
        admission.enter("").send(None)
    assert admission.running == 1


async def test_one_client_has_its_share_of_turns_and_of_the_queue() -> None:
    admission = Admission(4, 4, 60, 2)
    greedy = [Guest(admission, "greedy") for _ in range(9)]
    await settle()
    assert sum(guest.in_turn for guest in greedy) == 2 and (admission.running, admission.waiting) == (2, 2)
    assert sum(isinstance(guest.task.exception(), Overloaded) for guest in greedy[4:]) == 5
    honest = [Guest(admission, "honest") for _ in range(4)]
    await settle()
    assert [guest.in_turn for guest in honest] == [True, True, False, False]
    late = Guest(admission, "late")
    await settle()
    assert isinstance(late.task.exception(), Overloaded) and admission.waiting == 4
    await dismiss([*greedy, *honest])


async def test_those_who_wait_have_their_turns_one_client_after_the_other() -> None:
    admission = Admission(1, 9, 60, 9)
    running = Guest(admission, "z")
    await settle()
    waiting = [Guest(admission, name) for name in ("a", "a", "a", "a", "b", "c", "b")]
    await settle()
    order = ""
    while order.count("a") < 4:
        running.go.set()
        await settle()
        (running,) = (guest for guest in waiting if guest.in_turn)
        order += running.name
    assert order == "abcabaa"
    await dismiss(waiting)


async def test_a_client_with_its_share_running_lets_the_next_one_pass() -> None:
    admission = Admission(2, 8, 60, 1)
    running = [Guest(admission, "a"), Guest(admission, "b")]
    await settle()
    waiting = [Guest(admission, "a"), Guest(admission, "b"), Guest(admission, "c")]
    await settle()
    running[1].go.set()
    await settle()
    assert [guest.in_turn for guest in waiting] == [False, True, False]
    waiting[1].go.set()
    await settle()
    assert [guest.in_turn for guest in waiting] == [False, False, True]
    await dismiss([*running, *waiting])


async def dismiss(guests: list[Guest]) -> None:
    for guest in guests:
        guest.go.set()
    await asyncio.gather(*(guest.task for guest in guests), return_exceptions=True)


@given(
    st.integers(1, 3), st.integers(0, 4), st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(["come", "go", "leave", "turn"]), st.integers(0, 9)), max_size=40),
)  # fmt: skip
@example(1, 1, 1, [("come", 0), ("come", 0), ("turn", 0), ("go", 0), ("turn", 0), ("leave", 1)])  # just given its turn
async def test_no_turn_is_lost_and_none_is_given_twice(
    streams: int, queue: int, each: int, steps: list[tuple[str, int]]
) -> None:
    """Whether a guest goes in peace or is cancelled: in the queue, in its turn, or in the moment between."""
    admission, guests = Admission(streams, queue, 60, each), list[Guest]()

    def of(name: str) -> int:
        return sum(guest.in_turn for guest in guests if guest.name == name)

    for step, number in steps:
        if step == "come":
            guests.append(Guest(admission, "abc"[number % 3]))
        elif step == "turn" or not guests:
            await asyncio.sleep(0)
        elif step == "go":
            guests[number % len(guests)].go.set()
        else:
            guests[number % len(guests)].task.cancel()
        assert admission.running <= streams and admission.waiting <= queue
        assert sum(guest.in_turn for guest in guests) <= streams and max(map(of, "abc")) <= each
    await settle()
    assert admission.running == sum(guest.in_turn for guest in guests)
    # Nobody waits for a turn that is free, unless its share is running.
    waiting = {guest.name for guest in guests if not guest.task.done() and not guest.in_turn}
    assert admission.running == streams or all(of(name) == each for name in waiting)
    await dismiss(guests)
    assert (admission.running, admission.waiting) == (0, 0)
    assert not admission._running and not admission._waiting
