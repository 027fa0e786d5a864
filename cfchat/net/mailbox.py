"""From push to pull: what one call after the other puts in, a task takes out as it likes.

Code that awaits each piece (`stream_chat`, `cfchat ask`, an ASGI server's `send`) stands behind a Mailbox. It is small:
once it holds `limit` bytes, it asks the sender to pause, and once it is empty, to go on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

LIMIT = 32 * 1024  # bytes, or characters, that may wait


class Mailbox(Generic[T]):
    """`on_pressure(True)` asks the sender to pause, `on_pressure(False)` to go on."""

    def __init__(self, on_pressure: Callable[[bool], None], limit: int = LIMIT) -> None:
        self._items: deque[T] = deque()
        self._size = 0
        self._limit = limit
        self._on_pressure = on_pressure
        self._paused = False
        self._over = False
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: T, size: int) -> None:
        """Add an item that counts as `size` bytes."""
        self._items.append(item)
        self._size += size
        if self._size > self._limit and not self._paused:
            self._paused = True
            self._on_pressure(True)
        self._wake()

    def close(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes; `error` is what the taker gets behind the last item."""
        self._over, self._error = True, error
        self._wake()

    async def take(self) -> list[T]:
        """Return all that waits, at least one item; an empty list at the end.

        Raises:
            BaseException: the error that `close` was given, once all items are taken.
        """
        while not self._items and not self._over:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        items, self._size = list(self._items), 0
        self._items.clear()
        if self._paused:
            self._paused = False
            self._on_pressure(False)
        if not items and self._error is not None:
            raise self._error
        return items

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
