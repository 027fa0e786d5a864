"""Decide which models are worth asking now. Pure: the time is handed in.

A model that failed for several clients in a row has an open circuit: no request asks it for some seconds, then one
request tries it again. If it fails for one client alone, only that client stops asking it: the fault may lie in what
this client sends. A reply closes the circuits. A model that does not exist is left out for an hour, or until the
account's list has it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Settings(NamedTuple):
    """When a circuit opens, and how long a model is left out; times in seconds.

    It opens for all after failures of `failures` clients in a row, and for one client after as many of its own. Every
    `rest` it lets one request through. A model that is `gone` is asked again after that time.
    """

    failures: int = 3
    rest: float = 10.0
    gone: float = 3600.0


_ALL = None  # stands for the client in the circuit of all clients


class Circuits:
    """The health of each model. A model that was never asked is healthy. All times are in seconds, by one clock.

    `client` is the name that a client is counted by.
    """

    def __init__(self, settings: Settings = Settings()) -> None:
        self._settings = settings
        self._failures: dict[str, Counter[str]] = {}  # by client, since the model's last reply
        self._open_until: dict[tuple[str, str | None], float] = {}  # by model and client
        self._gone_until: dict[str, float] = {}

    def order(self, models: Sequence[str], client: str, now: float) -> list[str]:
        """Return the models that a client's request is to ask, in the given order.

        If none is healthy, return the one that will be asked again first. `models` must not be empty; neither is what
        is returned.
        """
        if not self._open_until and not self._gone_until:
            return list(models)
        until = {model: self._left_out_until(model, client, now) for model in models}
        return [model for model in models if until[model] <= now] or [min(models, key=until.__getitem__)]

    def asked(self, model: str, client: str, now: float) -> None:
        """Note that a request goes to the model. If its circuit is open, no other one tries it for `rest` seconds."""
        for circuit in ((model, _ALL), (model, client)):
            if circuit in self._open_until:
                self._open_until[circuit] = now + self._settings.rest

    def failed(self, model: str, client: str, now: float) -> bool:
        """Note a failure that is the model's own fault. Return whether it opened the circuit for all clients."""
        failures = self._failures.setdefault(model, Counter())
        if client in failures or len(failures) < self._settings.failures:  # no table grows with the clients
            failures[client] += 1
        newly = (model, _ALL) not in self._open_until
        if failures[client] >= self._settings.failures:
            self._open_until[model, client] = now + self._settings.rest
        if len(failures) < self._settings.failures:
            return False
        self._open_until[model, _ALL] = now + self._settings.rest
        return newly

    def succeeded(self, model: str) -> None:
        """Note a reply of the model: close its circuits, and count its failures from zero."""
        if self._failures or self._gone_until:
            self._failures.pop(model, None)
            self._gone_until.pop(model, None)
            self._open_until = {key: until for key, until in self._open_until.items() if key[0] != model}

    def gone(self, model: str, now: float) -> bool:
        """Note that the model does not exist, or not for this account. Return whether that was not known before."""
        newly = self._gone_until.get(model, now) <= now
        self._gone_until[model] = now + self._settings.gone
        return newly

    def listed(self, models: Iterable[str]) -> None:
        """Note which models the account's list has. They are not gone."""
        for model in models:
            self._gone_until.pop(model, None)

    def _left_out_until(self, model: str, client: str, now: float) -> float:
        circuits = (self._open_until.get(key, now) for key in ((model, _ALL), (model, client)))
        return max(self._gone_until.get(model, now), *circuits)
