"""From push to pull: the same items in their order, the sender paused and asked to go on in turns."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.net.mailbox import LIMIT, Mailbox


@given(st.lists(st.one_of(st.integers(0, 30), st.just("take"), st.just("turn")), max_size=40), st.booleans())
async def test_any_schedule_gives_all_items_in_their_order_and_one_end(steps: list[object], breaks: bool) -> None:
    pressed: list[bool] = []
    mailbox: Mailbox[int] = Mailbox(pressed.append, limit=40)
    items: list[int] = []
    waiting = put = 0

    async def take() -> None:
        nonlocal waiting
        taken = await mailbox.take()
        assert taken
        items.extend(taken)

    for step in steps:
        if step == "turn":
            await asyncio.sleep(0)
        elif step == "take":
            if put > len(items):
                await take()
                waiting = 0
        else:
            assert isinstance(step, int)
            mailbox.put(put, step)
            put, waiting = put + 1, waiting + step
        # The sender is asked once for each change, and is never left paused by an empty mailbox.
        assert pressed == [number % 2 == 0 for number in range(len(pressed))]
        assert (len(pressed) % 2 == 1) == (waiting > 40)
    mailbox.close(ZeroDivisionError() if breaks else None)
    if put > len(items):
        await take()
    assert items == list(range(put)) and len(pressed) % 2 == 0
    for _ in range(2):
        if breaks:
            with pytest.raises(ZeroDivisionError):
                await mailbox.take()
        else:
            assert await mailbox.take() == []


async def test_a_taker_that_waits_is_woken_by_an_item_and_by_the_end() -> None:
    mailbox: Mailbox[str] = Mailbox(lambda full: None)
    taking = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.put("a", 1)
    mailbox.put("b", 1)
    assert await taking == ["a", "b"]
    taking = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.close()
    assert await taking == []


async def test_a_taker_that_is_cancelled_loses_nothing() -> None:
    mailbox: Mailbox[str] = Mailbox(lambda full: None)
    taking = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.put("a", 1)
    taking.cancel()
    await asyncio.wait([taking])
    assert taking.cancelled() and await mailbox.take() == ["a"]


def test_the_limit_where_none_is_named() -> None:
    assert inspect.signature(Mailbox.__init__).parameters["limit"].default == LIMIT == 32 * 1024
