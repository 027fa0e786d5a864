"""What an operator sees: log lines. No token, message or reply text is ever in one."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Protocol

access = logging.getLogger("cfchat.access")


class Exchange(Protocol):
    """One request and what became of it: what a log line says of it. Times are in seconds of `time.monotonic`."""

    id: str
    client: str
    method: str
    path: str
    notes: Mapping[str, object]
    status: int
    sent: int
    fault: str
    start: float
    first: float | None


def log_exchange(entry: Exchange, level: int = logging.INFO) -> None:
    """Log one line: id, client, method, path, status, ms to the first byte, ms in all, bytes, notes."""
    if not access.isEnabledFor(level):
        return
    first = "-" if entry.first is None else f"{(entry.first - entry.start) * 1000:.0f}"
    total = (time.monotonic() - entry.start) * 1000
    notes = "".join(f" {name}={value}" for name, value in entry.notes.items())
    fault = f' fault="{entry.fault}"' if entry.fault else ""
    access.log(
        level,
        "%s %s %s %s %d first_ms=%s ms=%.0f bytes=%d%s%s",
        *(entry.id, entry.client or "-", entry.method, entry.path[:200], entry.status),
        *(first, total, entry.sent, notes, fault),
        extra={"exchange": entry},
    )


# --- traces ---------------------------------------------------------------------------------------

_TRACEPARENT = r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?"


def traced(traceparent: str | None) -> dict[str, object]:
    """Notes of the trace that a request belongs to (W3C Trace Context §3.2); none where the field is malformed.

    `trace` is its id, `parent` the caller's span; ours has the request's id.
    """
    found = None if traceparent is None else re.fullmatch(_TRACEPARENT, traceparent)
    if found is None or (found[1] == "00" and found[4]):
        return {}
    return {"trace": found[2], "parent": found[3]}


# --- lines ----------------------------------------------------------------------------------------

TEXT, JSON = "text", "json"


class JSONLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message; of a request its parts, too."""

    def format(self, record: logging.LogRecord) -> str:
        from datetime import UTC, datetime  # for these lines alone

        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        entry: Exchange | None = getattr(record, "exchange", None)
        if entry is not None:
            line |= _parts(entry)
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _parts(entry: Exchange) -> dict[str, object]:
    parts: dict[str, object] = {
        "id": entry.id, "client": entry.client, "method": entry.method, "path": entry.path[:200],
        "status": entry.status, "ms": round((time.monotonic() - entry.start) * 1000, 1), "bytes": entry.sent,
    }
    if entry.first is not None:
        parts["first_ms"] = round((entry.first - entry.start) * 1000, 1)
    if entry.fault:
        parts["fault"] = entry.fault
    return {**entry.notes, **parts}


def set_up_logging(level: str, form: str = TEXT) -> None:
    """Log to stderr, one line an event, as text or JSON, from `level` (a name of `logging`'s) up."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JSONLines() if form == JSON else text)
    root = logging.getLogger("cfchat")
    root.addHandler(handler)
    root.setLevel(level.upper())
    root.propagate = False
