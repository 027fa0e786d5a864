"""What became of a request, for whoever logs and counts it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Exchange:
    """One request and what became of it, for its log line. Times are in seconds of `time.monotonic`."""

    id: str
    client: str
    method: str
    path: str
    notes: Mapping[str, object]
    status: int = 0
    sent: int = 0
    fault: str = ""
    start: float = field(default_factory=time.monotonic)
    first: float | None = None

    def began(self) -> None:
        """The first byte of the body goes out."""
        self.first = time.monotonic()
