"""Write one answer into a client's reply, in the form that the client asked for. Streams begin at once.

What an answer goes into is told three things: that it has begun, each batch of deltas, and its end. A Writer passes
them on to a client; `kept.KeptReply` keeps them for several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cfchat.conversation.model import Delta
from cfchat.errors import Stopped
from cfchat.replies.form import Form, Meta
from cfchat.server.reply import FieldLines, Pausable, Reply


class Into(Protocol):
    """What an answer goes into. `form` is that of the client that asks."""

    form: Form

    def begin(self, meta: Meta, left_out: int, source: Pausable) -> None:
        """Take what an answer says about itself, and how many messages it has not read; `source` can be paused."""

    def take(self, batch: Sequence[Delta]) -> None:
        """Take the deltas of one read."""

    def end(self, last: Sequence[Delta] = ()) -> None:
        """Take the last deltas of a whole answer."""


class Writer:
    """Writes one answer: see `Into`. `fields` are further fields of the reply's head."""

    def __init__(self, reply: Reply, form: Form, fields: FieldLines) -> None:
        self.form = form
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
            fields += self.form.source_fields(meta.sources)
        if meta.search_failed:
            fields.append(("X-Search", "failed"))
        if left_out:
            fields.append(("X-Messages-Left-Out", str(left_out)))
        if self.form.whole:
            self._fields += fields
        else:
            self._reply.late = fields
        self._start = self.form.start(meta)
        self._reply.follow(source)

    def take(self, batch: Sequence[Delta]) -> None:
        """See Into."""
        self._reply.write(self._start + self.form.encode(batch))
        self._start = b""

    def take_each(self, entries: Sequence[Delta]) -> None:
        """Take entries of a journal, each by itself: so every reader gets the same events, whenever it reads."""
        self._reply.write(self._start + b"".join([self.form.encode([entry]) for entry in entries]))
        self._start = b""

    def end(self, last: Sequence[Delta] = ()) -> None:
        """See Into."""
        form = self.form
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
        words = self.form.fail(error)
        if not words:
            raise error
        self._reply.record.fault = "stopped"
        self._reply.end(self._start + words)
