"""A buffer that counts the bytes that its reader looks at."""

from __future__ import annotations

from typing import Any

from cfchat.wire.buffer import ReceiveBuffer


class Counting(bytearray):
    """Counts the bytes that are searched or copied out."""

    looked_at = 0

    def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        at = super().find(sub, start, end)
        stop = at + 1 if at >= 0 else min(end, len(self))
        self.looked_at += max(0, stop - start)
        return at

    def __getitem__(self, index: Any) -> Any:
        taken = super().__getitem__(index)
        self.looked_at += len(taken) if isinstance(index, slice) else 1
        return taken


def counted(buffer: ReceiveBuffer) -> Counting:
    """Make a fresh buffer count; return the counter."""
    buffer._data = Counting()
    return buffer._data
