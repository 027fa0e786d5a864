"""Accepting when there is no file descriptor left.

asyncio tries again each second and logs a thousand lines. One exception handler for all servers of a loop says it once;
it goes with the last of them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from asyncio.constants import ACCEPT_RETRY_DELAY
from functools import partial
from math import inf
from typing import Any

log = logging.getLogger("cfchat.server")

_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class FilesRunOut:
    """The exception handler of a loop in which servers accept."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._previous = loop.get_exception_handler()
        self._servers = 0
        self._logged = -inf

    @classmethod
    def watch(cls, loop: asyncio.AbstractEventLoop) -> FilesRunOut:
        """Return the handler of the loop, which counts one server more; `release` it."""
        current = loop.get_exception_handler()
        handler = current if isinstance(current, cls) else cls(loop)
        handler._servers += 1
        loop.set_exception_handler(handler)
        return handler

    def release(self) -> None:
        """Count one server less, and give the loop its own handler back behind the last."""
        self._servers -= 1
        if self._loop.time() - self._logged > 2 * ACCEPT_RETRY_DELAY:
            self._restore()
        else:
            self._loop.call_later(2 * ACCEPT_RETRY_DELAY, self._restore)

    def _restore(self) -> None:
        if not self._servers and self._loop.get_exception_handler() is self:
            self._loop.set_exception_handler(self._previous)

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, ValueError) and "_start_serving" in context["message"]:
            return  # asyncio's retry would listen on a socket that has been closed meanwhile
        if not isinstance(error, OSError) or error.errno not in _NO_FILES or "accept" not in context["message"]:
            (loop.default_exception_handler if self._previous is None else partial(self._previous, loop))(context)
        elif loop.time() - self._logged >= ACCEPT_RETRY_DELAY:
            self._logged = loop.time()
            log.error("no connection can be accepted: %s; it is tried again each second", error.strerror)
