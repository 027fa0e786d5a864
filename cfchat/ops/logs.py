"""Write log lines: one for each request, as text or as JSON.

The logger `cfchat.access` has one line a request. Both formats take it from the same Record: the text line is built
here, and `JSONLines` reads the Record that the log record carries as `request`. No token, no message, no text of a
reply and none of Cloudflare's own error text is ever in a line. What strangers choose (method, path, notes of a hook,
why a reply broke off) is bounded and quoted here, in one place. A thread writes the lines, so that logging never waits.
"""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Protocol

from cfchat.ops.line_writer import LineWriter

access = logging.getLogger("cfchat.access")

LONGEST_VALUE, LONGEST_MESSAGE = 200, 4000  # characters; what is longer is cut
MOST_NOTES = 32


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
    first = "-" if request.first is None else f"{(request.first - request.start) * 1000:.0f}"
    total = (time.monotonic() - request.start) * 1000
    # Fast case: words that need no quotes. Falls through to quoting each; equal by
    # tests/ops/test_logs.py::test_plain_words_are_logged_as_they_are.
    who, notes = f"{request.client or '-'} {request.method} {request.path}", request.notes
    try:
        more = "".join(map(" %s=%s".__mod__, notes.items()))
        plain = _plain_words(len(notes)).fullmatch(who + more)
    except Exception:  # a hook's own class, which cannot be written
        plain = None
    if not plain:
        who = " ".join(map(quote, (request.client or "-", request.method, request.path)))
        more = "".join([f" {name}={quote(value)}" for name, value in _notes_of(request)])
    fault = f' fault="{_escape(_bounded(request.fault))}"' if request.fault else ""
    access.log(
        level,
        "%s %s %d first_ms=%s ms=%.0f bytes=%d%s%s",
        *(request.id, who, request.status, first, total, request.sent, more, fault),
        extra={"request": request},
    )


def _notes_of(request: Record) -> Iterator[tuple[str, object]]:
    for name, value in islice(request.notes.items(), MOST_NOTES):
        yield re.sub(r"[^A-Za-z0-9_.-]", "?", _bounded(name)), value


# --- values of strangers --------------------------------------------------------------------------


_BARE = r"[!#-&(-\[\]-~]+"  # visible ASCII without quotes and backslashes


@lru_cache(MOST_NOTES)
def _plain_words(notes: int) -> re.Pattern[str]:
    """Return what three words and this number of notes look like if none needs quotes."""
    notes = min(notes, MOST_NOTES)
    word = f"{_BARE[:-1]}{{1,{LONGEST_VALUE}}}"
    return re.compile(f"{word} {word} {word}(?: [A-Za-z0-9_.-]{{1,{LONGEST_VALUE}}}={word}){{{notes}}}")


def quote(value: object) -> str:
    r"""Return a value for a line of text: one word as it is, anything else in quotes; bounded.

    >>> print(quote("gemma"), quote('say "hi"\n'), quote("\u202e"))
    gemma "say \"hi\"\n" "\u202e"
    """
    text = _bounded(value)
    return text if re.fullmatch(_BARE, text) else f'"{_escape(text)}"'


def one_line(text: str) -> str:
    """Return a text with an escape for each character that does not print: controls, line ends, directions."""
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode() for char in text])


def _escape(text: str) -> str:
    return one_line(text.replace("\\", r"\\").replace('"', r"\""))


def _plain(value: object) -> object:
    """Return a value as JSON can hold it: a number, true, false, or a bounded text."""
    is_number = type(value) in (int, float, bool) and -1e15 < value < 1e15  # type: ignore[operator]
    return value if is_number else _bounded(value)


def _bounded(value: object) -> str:
    try:
        text = str(value)
    except Exception:  # a hook's own class
        text = type(value).__name__
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."


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


class TextLines(logging.Formatter):
    """A formatter of one line of text, with a traceback in further lines."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{self.formatTime(record)} {record.levelname} {one_line(_message_of(record))}"
        return f"{line}\n{_traceback_of(record.exc_info[1])}" if record.exc_info else line


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
            for name, value in _notes_of(request):
                line.setdefault(name, _plain(value))
        else:
            line["message"] = _message_of(record)
        if record.exc_info:
            line["traceback"] = _traceback_of(record.exc_info[1])
        # ASCII alone: no control character reaches a terminal, and no viewer takes one for the end of a line.
        return json.dumps(line)


def _fields_of(request: Record) -> dict[str, object]:
    fields: dict[str, object] = {
        "id": request.id, "client": _bounded(request.client), "method": _bounded(request.method),
        "path": _bounded(request.path), "status": request.status,
        "ms": round((time.monotonic() - request.start) * 1000, 1), "bytes": request.sent,
    }  # fmt: skip
    if request.first is not None:
        fields["first_ms"] = round((request.first - request.start) * 1000, 1)
    if request.fault:
        fields["fault"] = _bounded(request.fault)
    return fields


def _message_of(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if not f"{record.name}.".startswith("cfchat."):
        # asyncio's messages go on with what a callback was called with, and what a task has raised.
        message = f"{record.name}: " + re.split(r"[(\n]", message)[0]
    return message if len(message) <= LONGEST_MESSAGE else message[:LONGEST_MESSAGE] + "..."


def _traceback_of(error: BaseException | None) -> str:
    """Return where an error and those before it were raised, without their texts: a text may be what a user wrote."""
    stacks: list[str] = []
    while error is not None and len(stacks) < 5:
        frames = "".join(traceback.format_tb(error.__traceback__))
        stacks.append(f"Traceback (most recent call last):\n{frames}{type(error).__qualname__}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\nafter:\n".join(stacks)


# --- stderr ---------------------------------------------------------------------------------------

STDERR = 2
FLUSH = 1.0  # seconds that lines may still take at the end
SHORTEST_SECRET = 8  # characters; a shorter one would be found in words, too


class _Lines(logging.Handler):
    """Writes to stderr from a thread. Each of `secrets` becomes `***`, whatever line it has got into."""

    def __init__(self, formatter: logging.Formatter, secrets: Sequence[str]) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._secrets = [form for secret in secrets if len(secret) >= SHORTEST_SECRET for form in _forms_of(secret)]
        self.writer = LineWriter(STDERR, self._tell)

    def emit(self, record: logging.LogRecord) -> None:
        self.writer.put(self._encode(record))

    def flush(self) -> None:
        self.writer.flush(FLUSH)

    def close(self) -> None:
        self.writer.close()
        super().close()

    def _encode(self, record: logging.LogRecord) -> bytes:
        try:
            line = self.format(record)
        except Exception as error:
            record.msg, record.args = "a log line could not be made: %s", (type(error).__name__,)
            record.exc_info = None
            line = self.format(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line.encode("utf-8", "backslashreplace") + b"\n"

    def _tell(self, missing: int) -> bytes:
        text = "%d log lines are missing here: stderr did not take them"
        return self._encode(logging.LogRecord("cfchat", logging.WARNING, "", 0, text, (missing,), None))


def _forms_of(secret: str) -> set[str]:
    """Return a secret as it is, and as JSON and quotes have it."""
    return {secret, json.dumps(secret)[1:-1]}


def set_up_logging(level: str, form: str = TEXT, secrets: Sequence[str] = ()) -> None:
    """Log to stderr in the form TEXT or JSON, from `level` up: a name of the `logging` module's, in lower case.

    Other libraries log there, too, asyncio among them: their warnings and errors. What still waits at the exit of the
    process is written then, as far as stderr takes it.
    """
    logging.getLogger().addHandler(_Lines(JSONLines() if form == JSON else TextLines(), secrets))
    logging.getLogger("cfchat").setLevel(level.upper())


def count_dropped_lines() -> int:
    """Return how many log lines of this process were dropped."""
    return sum(handler.writer.dropped for handler in logging.getLogger().handlers if isinstance(handler, _Lines))


def flush_logs() -> None:
    """Wait a moment until the lines so far are written."""
    for handler in logging.getLogger().handlers:
        handler.flush()
