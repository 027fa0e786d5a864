"""Which models are worth asking just now. Pure: the time is handed in.

A model that failed several times in a row has an open circuit: it is left alone for some seconds, then one
request tries it again. One that is gone for good is left out as long as the process lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Settings(NamedTuple):
    """A circuit opens after so many `failures` in a row and lets a request through every `rest` seconds."""

    failures: int = 3
    rest: float = 10.0


class Circuits:
    """The health of each model. A model never heard of is healthy."""

    def __init__(self, settings: Settings = Settings()) -> None:
        self._settings = settings
        self._failures: dict[str, int] = {}  # in a row
        self._open_until: dict[str, float] = {}
        self._gone: set[str] = set()

    def order(self, models: Sequence[str], now: float) -> list[str]:
        """Those to ask, first one first. Never empty: where none is healthy, the first that is not gone."""
        if not self._gone and not self._open_until:
            return list(models)
        present = [model for model in models if model not in self._gone]
        healthy = [model for model in present if self._open_until.get(model, now) <= now]
        return healthy or (present or list(models))[:1]

    def asked(self, model: str, now: float) -> None:
        """A request goes to the model. If it tries an open circuit, the others stay away until it is known how."""
        if model in self._open_until:
            self._open_until[model] = now + self._settings.rest

    def failed(self, model: str, now: float) -> bool:
        """It failed by a fault of its own; whether that opened its circuit just now."""
        self._failures[model] = self._failures.get(model, 0) + 1
        if self._failures[model] < self._settings.failures:
            return False
        newly = model not in self._open_until
        self._open_until[model] = now + self._settings.rest
        return newly

    def succeeded(self, model: str) -> None:
        self._failures.pop(model, None)
        self._open_until.pop(model, None)

    def gone(self, model: str) -> bool:
        """It does not exist, or not for this account; whether that is news."""
        news = model not in self._gone
        self._gone.add(model)
        return news
