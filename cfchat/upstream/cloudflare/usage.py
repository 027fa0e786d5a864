"""Find the usage of a reply. Pure.

Several events of one stream may carry a usage. Some are increments, some are running totals, and the last one may be
all zeros. The one with the largest total is the usage of the reply; they are never added up. A reply that breaks off
may have gone on after its usage, so the bytes that no usage counts are counted here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from cfchat.wire.strict_json import decode

# The names of the classic dialect and of chat completions, then those of OpenAI's responses.
_PROMPT = ("prompt_tokens", "input_tokens")
_COMPLETION = ("completion_tokens", "output_tokens")
_NAME = re.compile(r"[a-z_]{1,40}")  # a longer one could be any text
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,20})?([eE]-?[0-9]{1,2})?")


class Cost(NamedTuple):
    """What one try has cost: tokens and neurons as Cloudflare reports them, None where it does not.

    `unreported` counts the bytes that the model wrote and that no usage counts, `found` those that AI Search put before
    the question.
    """

    prompt: int | None = None
    completion: int | None = None
    total: int | None = None
    neurons: float | None = None
    unreported: int = 0
    found: int = 0


class Usage:
    """The largest usage so far. What is no usage, or says nothing, changes nothing."""

    def __init__(self) -> None:
        self._counted = 0  # bytes of the reply, by the largest usage
        self._largest: Mapping[str, Any] | bytes = {}
        self._total = 0.0
        self._neurons: float | None = None  # the most that any other usage reports

    def add(self, usage: object, written: int = 0) -> None:
        """Keep the usage of one event, as JSON gave it, if its total is larger than all before.

        `written` are the bytes of the reply up to here, with that event's own: those that the usage counts.
        """
        if type(usage) is not dict:
            return
        if (total := _total(usage)) > self._total:
            self._largest, self._total, self._counted = usage, total, written
        elif "neurons" in usage:
            self._neurons = _most(self._neurons, usage)

    def add_json(self, usage: bytes, total: float, written: int = 0) -> None:
        """Keep the usage of an event, as sound JSON with this total. It is decoded if somebody asks for it."""
        if total > self._total:
            self._largest, self._total, self._counted = usage, total, written
        elif b'"neurons"' in usage:
            self._neurons = _most(self._neurons, decode(usage.decode()))

    def cost(self, written: int, whole: bool) -> Cost:
        """Return what the reply has cost, of so many bytes so far. If it is whole, its usage counts all of it."""
        if not self._total:
            return Cost(neurons=self._neurons, unreported=written)
        largest = self._read()
        prompt, completion, total = (_find(largest, *names) for names in (_PROMPT, _COMPLETION, ("total_tokens",)))
        counted = written if whole else self._counted
        if completion is None and total is None:
            counted = 0
        return Cost(
            None if prompt is None else int(prompt),
            None if completion is None else int(completion),
            None if total is None else int(total),
            _most(self._neurons, largest),
            written - counted,
        )

    @property
    def completion(self) -> float:
        """The tokens of the reply; 0 if no usage says it."""
        return (_find(self._read(), *_COMPLETION) or 0) if self._total else 0

    @property
    def wrote_nothing(self) -> bool:
        """Whether the usage says that the reply has no tokens at all."""
        return _find(self._read(), *_COMPLETION) == 0

    @property
    def counts(self) -> dict[str, object] | None:
        """The counts of the largest usage, also those one level down. Nothing else, because it is sent on as JSON."""
        if not self._total:
            return None
        largest = {name: value for name, value in self._read().items() if _NAME.fullmatch(name)}
        details = {name: _counts(value) for name, value in largest.items() if type(value) is dict}
        return {**_counts(largest), **details}

    def _read(self) -> Mapping[str, Any]:
        if isinstance(self._largest, bytes):
            read: Mapping[str, Any] = decode(self._largest.decode())
            self._largest = read
        return self._largest


def read_neurons(value: str) -> float | None:
    """Return the number in a `cf-ai-neurons` field; None if it is none."""
    neurons = float(value) if _NUMBER.fullmatch(value) else None
    return neurons if _is_count(neurons) else None


def _total(usage: Mapping[str, Any]) -> float:
    if _is_count(usage.get("total_tokens")):
        return float(usage["total_tokens"])
    return (_find(usage, *_PROMPT) or 0) + (_find(usage, *_COMPLETION) or 0)


def _most(neurons: float | None, usage: Mapping[str, Any]) -> float | None:
    """Return the larger number of neurons: this one, or the usage's."""
    reported = _find(usage, "neurons")
    return reported if neurons is None or (reported is not None and reported > neurons) else neurons


def _find(usage: Mapping[str, Any], *names: str) -> float | None:
    """Return the first of these that is a count."""
    for name in names:
        if _is_count(usage.get(name)):
            number: float = usage[name]
            return number
    return None


def _is_count(value: object) -> bool:
    # The bound leaves out `1e999` as well, which is an infinity in Python and nothing in JSON.
    return type(value) in (int, float) and 0 <= value < 1e15  # type: ignore[operator]


def _counts(usage: Mapping[str, Any]) -> dict[str, object]:
    return {name: count for name, count in usage.items() if _is_count(count) and _NAME.fullmatch(name)}
