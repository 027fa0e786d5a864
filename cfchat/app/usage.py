"""What a reply costs in tokens: Cloudflare's own numbers, or an estimate if it reported none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cfchat.conversation.model import Conversation, Delta
from cfchat.conversation.prepare import estimate_tokens
from cfchat.upstream.answer import Lost


class Tokens(NamedTuple):
    """Tokens of the conversation and of the reply, and `total` as Cloudflare counts them."""

    prompt: int
    completion: int
    total: int


class Usage:
    """The usage of one reply, and of the tries before it that failed and are paid for all the same (`lost`)."""

    def __init__(self, conversation: Conversation) -> None:
        self.lost: list[Lost] = []
        self.began: float | None = None  # when the first words came, of time.monotonic
        self.whole = False
        self._prompt = sum([estimate_tokens(message) for message in conversation.messages])
        self._characters = 0
        self._reported: Mapping[str, object] = {}

    def add(self, batch: Sequence[Delta]) -> None:
        """Count a batch of deltas."""
        for delta in batch:
            self._characters += len(delta.text)
            if delta.reasoning or delta.tool_calls:
                self._characters += len(delta.reasoning) + sum([len(call.arguments) for call in delta.tool_calls])
        self._reported = batch[-1].usage or self._reported

    @property
    def tokens(self) -> Tokens:
        """Return what the reply and its failed tries have cost."""
        if not self.lost:
            return self._count(self._reported, self._characters)
        counts = [self._count(*attempt) for attempt in self._attempts()]
        return Tokens(*(sum(numbers) for numbers in zip(*counts, strict=True)))

    @property
    def estimated(self) -> bool:
        """Whether Cloudflare reported no numbers for some of it."""
        return not all(reported for reported, _ in self._attempts())

    def _attempts(self) -> list[Lost]:
        if self.lost and self.began is None:
            return self.lost
        return [*self.lost, (self._reported, self._characters)]

    def _count(self, reported: Mapping[str, object], characters: int) -> Tokens:
        if not reported:
            return Tokens(self._prompt, characters // 3, self._prompt + characters // 3)
        prompt = _number(reported, "prompt_tokens", self._prompt)
        completion = _number(reported, "completion_tokens", characters // 3)
        return Tokens(prompt, completion, _number(reported, "total_tokens", prompt + completion))


def _number(reported: Mapping[str, object], name: str, estimate: int) -> int:
    number = reported.get(name)
    return int(number) if isinstance(number, (int, float)) else estimate
