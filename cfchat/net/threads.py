"""Run blocking calls of the system beside the loop, without waiting for them at the end.

Python cannot stop a thread, and at its end waits for those of `asyncio.to_thread`: a resolver that hangs, or a file of
a server that is gone, would hold it up. The threads here are daemons, for which it does not wait. They take no signal:
one that the main thread holds back would come through them, and kill.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def start_daemon(run: Callable[[], None], name: str | None = None) -> None:
    """Start a thread that takes no signal, and for which the end of the process does not wait.

    Raises:
        RuntimeError: the system allows no further thread.
    """

    def run_undisturbed() -> None:
        if hasattr(signal, "pthread_sigmask"):  # Windows has none, and gives signals to the main thread anyway
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        run()

    threading.Thread(target=run_undisturbed, name=name, daemon=True).start()


def in_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """Start the call in a thread of its own. Return the future of its result, or of the Exception that it raises.

    Cancelling the future does not stop the call.

    Raises:
        OSError: the system allows no further thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            settle = partial(future.set_result, call())
        except Exception as error:
            settle = partial(future.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: future.cancelled() or settle())

    try:
        start_daemon(run)
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
    return future
