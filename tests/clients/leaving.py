"""A client that leaves: how soon the call to the model is closed, since every token until then is paid for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

AT_ONCE = 0.1  # seconds
# Where other programs want the processors too, one may have to wait for its turn: the best counts.
TRIES = 5


async def closes_at_once(leave: Callable[[], Awaitable[float]]) -> None:
    """`leave` leaves, waits for the close, and says how many seconds lay between."""
    took = [await leave()]
    while took[-1] >= AT_ONCE and len(took) < TRIES:
        took.append(await leave())
    print("closed after", *(f"{1000 * seconds:.0f}" for seconds in took), "ms")
    assert took[-1] < AT_ONCE
