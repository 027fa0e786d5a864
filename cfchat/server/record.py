"""What became of a request, for the log line and the counters."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Record:
    """One request and its reply. Times are in seconds of `time.monotonic`, `sent` is in bytes of the body."""

    id: str
    client: str
    method: str
    path: str
    notes: Mapping[str, object]
    status: int = 0
    sent: int = 0
    fault: str = ""
    start: float = field(default_factory=time.monotonic)
    first: float | None = None  # when the first byte of the body went out

    def fail(self, gone: bool) -> None:
        """Note that the reply was not finished: the client is gone, or this server ended it."""
        self.status = 499 if gone else self.status or 503
        self.fault = "client gone" if gone else "ended by this server"
