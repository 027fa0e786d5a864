"""What an operator sees: log lines. No token, message or reply text is ever in one."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

access = logging.getLogger("cfchat.access")


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


def log_exchange(entry: Exchange) -> None:
    """Log one line: id, client, method, path, status, ms to the first byte, ms in all, bytes, notes."""
    if not access.isEnabledFor(logging.INFO):
        return
    first = "-" if entry.first is None else f"{(entry.first - entry.start) * 1000:.0f}"
    total = (time.monotonic() - entry.start) * 1000
    notes = "".join(f" {name}={value}" for name, value in entry.notes.items())
    fault = f' fault="{entry.fault}"' if entry.fault else ""
    access.info(
        "%s %s %s %s %d first_ms=%s ms=%.0f bytes=%d%s%s",
        *(entry.id, entry.client or "-", entry.method, entry.path[:200], entry.status),
        *(first, total, entry.sent, notes, fault),
    )


def set_up_logging(level: str) -> None:
    """Log to stderr, one line an event, from `level` (a name of `logging`'s) up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("cfchat")
    root.addHandler(handler)
    root.setLevel(level.upper())
    root.propagate = False
