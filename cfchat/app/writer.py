"""Write one answer into a client's reply, in the form that the client asked for. Streams begin at once.

An exchange calls three methods of what its answer goes into (`Into`): one when the answer begins, one for each batch of
deltas, and one at its end. A Writer writes the answer to one client. A `kept.KeptReply` keeps it for several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cfchat.conversation.model import Delta
from cfchat.errors import Stopped
from cfchat.replies.form import Form, Meta
from cfchat.server.reply import FieldLines, Pausable, Reply


class Into(Protocol):
    """What an answer goes into. It `collects` if it keeps the reply until its end.

    If it shows `thoughts` as they come, the first words may be reasoning.
    """

    collects: bool
    thoughts: bool

    def begin(self, meta: Meta, left_out: int, source: Pausable) -> None:
        """Take what an answer says about itself, and how many messages it has not read; `source` can be paused."""

    def take(self, batch: Sequence[Delta]) -> None:
        """Take the deltas of one read."""

    def end(self, last: Sequence[Delta] = ()) -> None:
        """Take the last deltas of a whole answer."""


class Writer:
    """Writes one answer: see `Into`. `fields` are further fields of the reply's head."""

    def __init__(self, reply: Reply, form: Form, fields: FieldLines) -> None:
        self.collects = form.collects
        # A whole form shows nothing before its end, so its reasoning need not be the end of the tries.
        self.thoughts = form.thoughts and not form.whole
        self._form = form
        self._reply = reply
        self._fields = [
            ("Content-Type", form.content_type),
            ("Cache-Control", "no-cache" if form.whole else "no-cache, no-transform"),
            ("X-Accel-Buffering", "no"),
            *form.fields,
            *fields,
        ]
        self._start = b""  # what goes before the first words
        if not form.whole:
            reply.start(200, self._fields, heartbeat=form.heartbeat, fail=form.fail)

    def begin(self, meta: Meta, left_out: int, source: Pausable) -> None:
        """See Into. From here on the client sets the pace of `source`."""
        fields = [("X-Model", meta.model)]
        if meta.sources:
            fields += self._form.source_fields(meta.sources)
        if meta.search_failed:
            fields.append(("X-Search", "failed"))
        if left_out:
            fields.append(("X-Messages-Left-Out", str(left_out)))
        if self._form.whole:
            self._fields += fields
        else:
            self._reply.late = fields
        self._start = self._form.start(meta)
        self._reply.follow(source)

    def take(self, batch: Sequence[Delta]) -> None:
        """See Into."""
        self._reply.write(self._start + self._form.encode(batch))
        self._start = b""

    def take_each(self, entries: Sequence[Delta]) -> None:
        """Take entries of a journal, each by itself: so every reader gets the same events, whenever it reads."""
        self._reply.write(self._start + b"".join([self._form.encode([entry]) for entry in entries]))
        self._start = b""

    def end(self, last: Sequence[Delta] = ()) -> None:
        """See Into."""
        form = self._form
        piece = self._start + (form.encode(last) if last else b"") + form.finish()
        if form.whole:
            self._reply.send(200, self._fields, piece)
        else:
            self._reply.end(piece)

    def stop(self, error: Stopped) -> None:
        """End a reply that was stopped, as the form has it.

        Raises:
            Stopped: the form cannot say it.
        """
        words = self._form.fail(error)
        if not words:
            raise error
        self._reply.record.fault = "stopped"
        self._reply.end(self._start + words)
