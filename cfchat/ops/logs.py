"""Write log lines: one for each request, as text or as JSON.

The logger `cfchat.access` has one line a request. Both formats take it from the same Record: the text line is built
here, and `JSONLines` reads the Record that the log record carries as `request`. No token, no message and no text of a
reply is ever in a line.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Protocol

access = logging.getLogger("cfchat.access")


class Record(Protocol):
    """One request and its outcome, as far as a log line needs it. Times are in seconds of `time.monotonic`.

    `client` is an address, or empty if there is none. `sent` counts the bytes of the body. `first` is when the first of
    them was sent. `fault` says why the reply broke off. `notes` are further fields of the line.
    """

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


def log_request(request: Record, level: int = logging.INFO) -> None:
    """Log one line: id, client, method, path, status, ms to the first byte, ms in all, bytes, notes, fault."""
    if not access.isEnabledFor(level):
        return
    first = "-" if request.first is None else f"{(request.first - request.start) * 1000:.0f}"
    total = (time.monotonic() - request.start) * 1000
    notes = "".join([f" {name}={value}" for name, value in request.notes.items()])
    fault = f' fault="{request.fault}"' if request.fault else ""
    access.log(
        level,
        "%s %s %s %s %d first_ms=%s ms=%.0f bytes=%d%s%s",
        *(request.id, request.client or "-", request.method, request.path[:200], request.status),
        *(first, total, request.sent, notes, fault),
        extra={"request": request},
    )


# --- traces ---------------------------------------------------------------------------------------

_TRACEPARENT = r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?"


def read_trace(traceparent: str | None) -> dict[str, object]:
    """Return the notes of a request's trace (W3C Trace Context §3.2), or none if the field is missing or malformed.

    `trace` is the id of the trace, `parent` the caller's span. Our own span is the request's id.
    """
    match = None if traceparent is None else re.fullmatch(_TRACEPARENT, traceparent)
    # Only later versions may have more fields behind the flags.
    if match is None or (match[1] == "00" and match[4]):
        return {}
    return {"trace": match[2], "parent": match[3]}


# --- lines ----------------------------------------------------------------------------------------

TEXT, JSON = "text", "json"


class JSONLines(logging.Formatter):
    """A formatter of one JSON object a line: time (UTC), level, logger, and a message or the fields of a request."""

    def format(self, record: logging.LogRecord) -> str:
        from datetime import UTC, datetime  # here, because only JSON lines need it

        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        request: Record | None = getattr(record, "request", None)
        if request is not None:
            line |= _fields_of(request)
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _fields_of(request: Record) -> dict[str, object]:
    fields: dict[str, object] = {
        "id": request.id, "client": request.client, "method": request.method, "path": request.path[:200],
        "status": request.status, "ms": round((time.monotonic() - request.start) * 1000, 1), "bytes": request.sent,
    }
    if request.first is not None:
        fields["first_ms"] = round((request.first - request.start) * 1000, 1)
    if request.fault:
        fields["fault"] = request.fault
    return {**request.notes, **fields}


def set_up_logging(level: str, form: str = TEXT) -> None:
    """Log to stderr in the form TEXT or JSON, from `level` up: a name of the `logging` module's, in lower case."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JSONLines() if form == JSON else text)
    root = logging.getLogger("cfchat")
    root.addHandler(handler)
    root.setLevel(level.upper())
    root.propagate = False
