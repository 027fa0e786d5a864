"""What a reply costs in tokens: Cloudflare's own numbers, and an estimate where it reported none.

Cloudflare's numbers are believed up to what is possible, so that a wrong one cannot spend everybody's budget.
"""

from __future__ import annotations

from operator import add
from typing import NamedTuple

from cfchat.conversation.prepare import BYTES_OF_TOKEN
from cfchat.upstream.cloudflare.usage import Cost


class Tokens(NamedTuple):
    """Tokens of the conversation and of the reply, and `total` as Cloudflare counts them."""

    prompt: int
    completion: int
    total: int


class ReplyUsage:
    """The usage of one reply: of the try that gave it, and of those before it that are paid for all the same.

    `prompt` estimates the tokens of the conversation, and a reply may have `max_tokens`. Until a try is added, `tokens`
    are those of the conversation: it was asked. `estimated` says that Cloudflare reported no numbers for some of it,
    `impossible` that it reported more than was asked for. `neurons` is None if it reported none.
    """

    def __init__(self, prompt: int, max_tokens: int) -> None:
        self.began: float | None = None  # when the first words came, of time.monotonic
        self.whole = False
        self.tries = 0
        self.tokens = Tokens(prompt, 0, prompt)
        self.estimated = True
        self.impossible = False
        self.neurons: float | None = None
        self._prompt = prompt
        # The estimate counts a token for three bytes, and a token is one byte at least.
        longest = BYTES_OF_TOKEN * prompt
        self._most = Tokens(longest, max_tokens, longest + max_tokens)

    def add(self, cost: Cost) -> None:
        """Add a try that is over."""
        reported, most = self._complete(cost), self._most
        if cost.found:
            most = most._replace(prompt=most.prompt + cost.found, total=most.total + cost.found)
        counted = Tokens(*map(min, reported, most))
        self.impossible |= counted != reported
        more = min(cost.unreported // BYTES_OF_TOKEN, most.completion - counted.completion)
        total = min(counted.total + more, most.total)
        tokens = Tokens(counted.prompt, counted.completion + more, total)
        estimated = (cost.total is None and cost.completion is None) or cost.unreported > 0
        self.tokens = Tokens(*map(add, self.tokens, tokens)) if self.tries else tokens
        self.estimated = estimated or (self.estimated and self.tries > 0)
        if cost.neurons is not None:
            self.neurons = (self.neurons or 0) + cost.neurons
        self.tries += 1

    def _complete(self, cost: Cost) -> Tokens:
        """Return the reported numbers, and what follows from them or from the estimate for those that are missing."""
        prompt, completion, total = cost.prompt, cost.completion, cost.total
        if prompt is None:
            estimate = self._prompt + cost.found // BYTES_OF_TOKEN
            prompt = estimate if total is None or completion is None else max(0, total - completion)
        if completion is None:
            completion = 0 if total is None else max(0, total - prompt)
        return Tokens(prompt, completion, prompt + completion if total is None else total)
