"""What is done beside the requests: connections kept warm, and a look at the account's list of models once a day."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from cfchat.errors import DAY, UpstreamError
from cfchat.upstream.circuits import Circuits
from cfchat.upstream.cloudflare.catalogue import Model
from cfchat.upstream.connection import Connection
from cfchat.upstream.pool import Pool

log = logging.getLogger("cfchat.upstream")


class Upkeep:
    """Two chores, from `start` to `aclose`. `seeing` are the models that take images, by the list.

    `warm` connections are kept ready, which is looked at every `pause` seconds. The list that `catalogue` returns
    should have all of `models`; where there are none it is not read.
    """

    def __init__(
        self,
        pool: Pool[Connection],
        warm: int,
        pause: float,
        circuits: Circuits,
        models: Sequence[str],
        catalogue: Callable[[], Awaitable[list[Model]]],
    ) -> None:
        self.seeing: frozenset[str] = frozenset()
        self._pool = pool
        self._warm = warm
        self._pause = pause
        self._circuits = circuits
        self._models = models
        self._catalogue = catalogue
        self._chores: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin the chores."""
        loop = asyncio.get_running_loop()
        self._chores = [loop.create_task(chore) for chore in (self._keep_warm(), self._watch_models())]
        for task in self._chores:
            task.add_done_callback(_report)

    async def aclose(self) -> None:
        """End the chores."""
        for task in self._chores:
            task.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)

    async def _keep_warm(self) -> None:
        """A first user, or one after a quiet hour, does not wait for a TLS handshake."""
        said = False
        while True:
            try:
                self._pool.expire()
                await self._pool.warm(self._warm)
                said = False
            except UpstreamError as error:
                if not said:
                    log.warning("no connection to the model's server: %s; it is tried again", str(error))
                said = True
            await asyncio.sleep(self._pause)

    async def _watch_models(self) -> None:
        while self._models:
            try:
                listed = {model.name: model for model in await self._catalogue()}
            except UpstreamError as error:
                log.warning("the account's list of models could not be read: %s; `cfchat check` says more", str(error))
            else:
                self._circuits.listed(listed)
                self.seeing = frozenset(name for name, model in listed.items() if model.vision)
                for name in self._models:
                    _warn_of_model(name, listed.get(name))
            await asyncio.sleep(DAY)


def _warn_of_model(name: str, listed: Model | None) -> None:
    if listed is None:
        log.warning("model %s is not in the account's list of models", name)
    elif removal := listed.removal(time.time()):
        log.warning("model %s %s: choose another", name, removal)


def _report(task: asyncio.Task[None]) -> None:
    """A chore has no end but cancellation: any other is a fault of ours, and must be seen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("upkeep of the connections ended: %r", error, exc_info=error)
