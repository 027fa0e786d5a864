"""Turn the bytes of an event stream into deltas. Pure.

Most events of a stream differ in their text only. EventReader parses the first ones, learns from them what the rest
look like (template.py), and reads the rest without parsing them. Skimming never changes what the reply says, only
where one delta ends and the next begins.
"""

from __future__ import annotations

from cfchat.conversation.model import Delta
from cfchat.errors import EventTooLarge, UpstreamError
from cfchat.upstream.cloudflare.reply import ReplyReader
from cfchat.upstream.cloudflare.template import Match, Template, find
from cfchat.wire.sse import SSEParser

# Learning from an event costs as much as parsing some, so few are learned from: in one read, and since the last match.
# A read of so many events is worth it; shorter ones are first waited for, because most replies end before it pays.
_LESSONS_IN_READ, _LESSONS = 3, 8
_EVENTS_WORTH_IT, _READS_TO_WAIT = 8, 2
# No event in this many bytes can be over the parser's limit.
_MOST_SKIMMED = 1 << 19


class Learned:
    """What the streams of one model have taught: the last template of their events, None before there was one."""

    template: Template | None = None


class EventReader:
    """The reader of one stream: bytes in, deltas out. What the events say is kept in `reply`.

    A template that it makes is kept in `learned`, for the next stream of the model.
    """

    def __init__(self, reply: ReplyReader, learned: Learned | None = None) -> None:
        self._reply = reply
        self._parser = SSEParser()
        self._learned = learned or Learned()
        self._template = self._learned.template
        self._seen = ""  # the pattern of the last event that was learned from
        self._lessons, self._waited = 0, 0  # events learned from, and reads let pass, since the last match
        self._between = False  # no event has begun, and the next one can be more of the answer

    def feed(self, data: bytes) -> list[Delta]:
        """Return the deltas of these bytes.

        Raises:
            EventTooLarge: an event or a line is over its limit.
            UpstreamError: an event reports it. If deltas came before it, the next call or `close` raises it.
        """
        deltas: list[Delta] = []
        if self._template is not None and self._between and len(data) <= _MOST_SKIMMED:
            # Fast case: events like those before. Falls through to _skim and _parse; equal by test_skim.py.
            match = self._template.read(data)
            if match is not None:
                self._say(match, deltas)
                if match.rest:
                    self._parse(match.rest, deltas)
                return deltas
        if len(data) <= _MOST_SKIMMED:
            data = self._skim(data, deltas)
        if data:
            self._parse(data, deltas)
        return deltas

    def close(self) -> list[Delta]:
        """Return the last deltas: the body has ended, perhaps inside an event.

        Raises:
            EventTooLarge, UpstreamError: `feed` has found it, behind deltas.
            UpstreamInterrupted: the reply is not complete.
        """
        return self._reply.close(None if self._reply.done else self._parser.pending)

    def _skim(self, data: bytes, deltas: list[Delta]) -> bytes:
        """Parse the first events until a template reads those behind them. Return what is left to parse."""
        if self._lessons >= _LESSONS:
            self._template = None  # the events are not alike
            return data
        for _ in range(_LESSONS_IN_READ):
            end = data.find(b"\n\n") + 2
            if end < 2:
                break
            if self._waited < _READS_TO_WAIT and len(data) < _EVENTS_WORTH_IT * end:
                self._waited += 1
                break
            event, data = data[:end], data[end:]
            last = self._parse(event, deltas)
            if last is None:
                break
            if not self._reply.answering:
                continue  # the first event of many models has no text yet
            match = self._match(data)
            if match is None:
                self._learn(last)
                match = self._match(data)
            if match is not None:
                self._say(match, deltas)
                return match.rest
        return data

    def _match(self, data: bytes) -> Match | None:
        return self._template.read(data) if data and self._between and self._template is not None else None

    def _say(self, match: Match, deltas: list[Delta]) -> None:
        self._lessons = self._waited = 0
        delta = self._reply.say(match.text, match.usage, match.total)
        if delta is not None:
            deltas.append(delta)

    def _parse(self, data: bytes, deltas: list[Delta]) -> str | None:
        """Read event by event. Return the data of the last event, None if there is none or an error."""
        try:
            events = self._parser.feed(data)
            deltas += self._reply.read(events)
            self._between = self._parser.between and self._reply.answering
        except (EventTooLarge, UpstreamError):
            # The parser and the reply raise it again at the next call.
            self._between = False
            if not deltas:
                raise
            return None
        return events[-1].data if events else None

    def _learn(self, data: str) -> None:
        """Make a template of two events, one after the other, that are alike and say their text and no more."""
        self._lessons += 1
        shape = find(data)
        # Compiling takes as long as parsing fifty events: only for two that are alike.
        pattern = "" if shape is None else shape.pattern
        if shape is not None and pattern == self._seen and self._reply.says_only("text", shape.usage, shape.example):
            self._template = Template(shape)
            # The next stream has not read a usage that may not vary, so it must not pass over it.
            if shape.usage or '"usage"' not in pattern:
                self._learned.template = self._template
        self._seen = pattern
