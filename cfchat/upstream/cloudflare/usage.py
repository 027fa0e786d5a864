"""Find the usage of a reply. Pure.

Several events of one stream may carry a usage. Some are increments, some are running totals, and the last one may be
all zeros. The one with the largest total is the usage of the reply; they are never added up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cfchat.wire.strict_json import decode

# The names of the number of tokens in the reply.
_WRITTEN = ("completion_tokens", "output_tokens")


class Usage:
    """The largest usage so far. What is no usage, or says nothing, changes nothing."""

    def __init__(self) -> None:
        self._largest: Mapping[str, Any] | bytes = {}
        self._total = 0.0

    def add(self, usage: object) -> None:
        """Keep the usage of one event, as JSON gave it, if its total is larger than all before."""
        if type(usage) is dict and (total := _total(usage)) > self._total:
            self._largest, self._total = usage, total

    def add_json(self, usage: bytes, total: float) -> None:
        """Keep the usage of an event, as sound JSON with this total. It is decoded when somebody asks for it."""
        if total > self._total:
            self._largest, self._total = usage, total

    @property
    def completion(self) -> float:
        """The tokens of the reply; 0 if no usage says it."""
        return _count(self._read(), *_WRITTEN) if self._total else 0

    @property
    def wrote_nothing(self) -> bool:
        """Whether the usage says that the reply has no tokens at all."""
        usage = self._read()
        return any(_is_count(usage.get(name)) for name in _WRITTEN) and not self.completion

    @property
    def counts(self) -> dict[str, object] | None:
        """The counts of the largest usage, also those one level down. Nothing else, because it is sent on as JSON."""
        if not self._total:
            return None
        kept: dict[str, object] = {}
        for name, value in self._read().items():
            if type(value) is dict:
                kept[name] = {key: count for key, count in value.items() if _is_count(count)}
            elif _is_count(value):
                kept[name] = value
        return kept

    def _read(self) -> Mapping[str, Any]:
        if isinstance(self._largest, bytes):
            read: Mapping[str, Any] = decode(self._largest.decode())
            self._largest = read
        return self._largest


def _total(usage: Mapping[str, Any]) -> float:
    if _is_count(usage.get("total_tokens")):
        return float(usage["total_tokens"])
    return _count(usage, "prompt_tokens", "input_tokens") + _count(usage, *_WRITTEN)


def _count(usage: Mapping[str, Any], *names: str) -> float:
    """Return the first of these that is a count, or 0."""
    for name in names:
        if _is_count(usage.get(name)):
            return float(usage[name])
    return 0


def _is_count(value: object) -> bool:
    # The bound leaves out `1e999` as well, which is an infinity in Python and nothing in JSON.
    return type(value) in (int, float) and 0 <= value < 1e15  # type: ignore[operator]
