"""Decide which models are worth asking now. Pure: the time is handed in.

A model that failed several times in a row has an open circuit: no request asks it for some seconds, then one request
tries it again. A success closes the circuit. A model that does not exist is left out until the process ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Settings(NamedTuple):
    """A circuit opens after this many `failures` in a row, and lets one request through every `rest` seconds."""

    failures: int = 3
    rest: float = 10.0


class Circuits:
    """The health of each model. A model that was never asked is healthy. All times are in seconds, by one clock."""

    def __init__(self, settings: Settings = Settings()) -> None:
        self._settings = settings
        self._failures: dict[str, int] = {}  # in a row
        self._open_until: dict[str, float] = {}
        self._gone: set[str] = set()

    def order(self, models: Sequence[str], now: float) -> list[str]:
        """Return the models to ask, in the given order. If none is healthy, return the first that is not gone.

        `models` must not be empty; neither is what is returned.
        """
        if not self._gone and not self._open_until:
            return list(models)
        present = [model for model in models if model not in self._gone]
        healthy = [model for model in present if self._open_until.get(model, now) <= now]
        return healthy or (present or list(models))[:1]

    def asked(self, model: str, now: float) -> None:
        """Note that a request goes to the model. If its circuit is open, no other one tries it for `rest` seconds."""
        if model in self._open_until:
            self._open_until[model] = now + self._settings.rest

    def failed(self, model: str, now: float) -> bool:
        """Note a failure that is the model's own fault. Return whether it opened the circuit."""
        self._failures[model] = self._failures.get(model, 0) + 1
        if self._failures[model] < self._settings.failures:
            return False
        newly = model not in self._open_until
        self._open_until[model] = now + self._settings.rest
        return newly

    def succeeded(self, model: str) -> None:
        """Note a reply of the model: close its circuit, and count its failures from zero."""
        if self._failures or self._open_until:
            self._failures.pop(model, None)
            self._open_until.pop(model, None)

    def gone(self, model: str) -> bool:
        """Note that the model does not exist, or not for this account. Return whether that was not known before."""
        newly = model not in self._gone
        self._gone.add(model)
        return newly
