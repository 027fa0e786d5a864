"""The body of a streamed reply: bytes -> Delta. Parsed event by event, or skimmed where events are alike. Pure."""

from __future__ import annotations

from cfchat.conversation.model import Delta
from cfchat.errors import EventTooLarge, UpstreamError
from cfchat.upstream.cloudflare.reply import ReplyReader
from cfchat.upstream.cloudflare.template import Likeness, find
from cfchat.wire.sse import SSEParser

# How many events are parsed one by one to find what the others are like: of one read, and in a row.
_TRIED_EACH, _TRIED = 3, 8
# Learning costs as much as some events: it is for where so many more are there, or so many have been.
_MORE, _BEFORE = 8, 2
# No event in so few bytes can be over its limit.
_MOST_SKIMMED = 1 << 19


class EventReader:
    """Reads a stream for its reply. Which events are skimmed does not show in what comes out, but in its joints."""

    def __init__(self, reply: ReplyReader) -> None:
        self._reply = reply
        self._parser = SSEParser()
        self._likeness: Likeness | None = None
        self._tried = 0
        self._between = False  # nothing of an event has come yet, and it can be one more of the answer

    def feed(self, data: bytes) -> list[Delta]:
        """The deltas of these bytes.

        Raises EventTooLarge, and the UpstreamError that an event reports; where deltas came before it, the next call
        or `close` does.
        """
        deltas: list[Delta] = []
        if len(data) <= _MOST_SKIMMED:
            data = self._skim(data, deltas)
        if data:
            self._parse(data, deltas)
        return deltas

    def words(self, data: bytes) -> str:
        """The words of these bytes, which are read then; none where they are not plainly events like those before."""
        if self._likeness is None or not self._between or len(data) > _MOST_SKIMMED:
            return ""
        words = self._likeness.one(data)
        if not words:
            words, rest = self._likeness.read(data)
            if rest or not words:
                return ""
        self._tried = 0
        return words

    def close(self) -> list[Delta]:
        """The body has ended, perhaps inside an event. Raises what `feed` and ReplyReader.close raise."""
        return self._reply.close(None if self._reply.done else self._parser.pending)

    def _skim(self, data: bytes, deltas: list[Delta]) -> bytes:
        """Read what is alike; what is behind it is given back, or all that is in doubt."""
        for _ in range(_TRIED_EACH):
            if self._likeness is not None and self._between:
                words, data = self._likeness.read(data)
                if words:
                    self._tried = 0
                    delta = self._reply.say(words)
                    if delta is not None:
                        deltas.append(delta)
                    break
            end = data.find(b"\n\n") + 2
            if end < 2:
                break
            if self._tried >= _TRIED:
                self._likeness = None  # they are not alike
                break
            if len(data) < _MORE * end and self._tried < _BEFORE:
                self._tried += 1
                break
            last = self._parse(data[:end], deltas)
            data = data[end:]
            if last is None or not self._reply.answering:
                break
            self._tried += 1
            self._learn(last)
        return data

    def _parse(self, data: bytes, deltas: list[Delta]) -> str | None:
        """Read event by event; the data of the last."""
        try:
            events = self._parser.feed(data)
            deltas += self._reply.read(events)
            self._between = self._parser.between and self._reply.answering
        except (EventTooLarge, UpstreamError):
            # Both readers keep it in mind.
            self._between = False
            if not deltas:
                raise
            return None
        return events[-1].data if events else None

    def _learn(self, data: str) -> None:
        """Take an event that was read for what others are like, if another such one says its words and no more."""
        likeness = find(data)
        if likeness is not None and self._reply.says_only("words", likeness.example("words", "padding")):
            self._likeness = likeness
