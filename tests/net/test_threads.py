"""Blocking calls beside the loop."""

from __future__ import annotations

import asyncio
import errno
import signal
import subprocess
import sys
import threading
from functools import partial

import pytest
from client import until
from places import ROOT

from cfchat.net.threads import in_thread


async def test_its_result_or_its_error_comes_back() -> None:
    assert await in_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


async def test_nobody_needs_to_wait_for_it() -> None:
    go, ended = threading.Event(), threading.Event()

    def call() -> None:
        go.wait(20)
        ended.set()

    future = in_thread(call)
    future.cancel()
    go.set()
    await until(ended.is_set)
    for _ in range(10):  # what it calls back does no harm
        await asyncio.sleep(0)
    assert future.cancelled()


async def test_a_signal_that_the_main_thread_holds_back_does_not_come_through_it() -> None:
    held = await in_thread(partial(signal.pthread_sigmask, signal.SIG_BLOCK, ()))
    assert {signal.SIGHUP, signal.SIGINT, signal.SIGTERM} <= set(held)


def test_the_end_does_not_wait_for_it() -> None:
    code = (
        "import asyncio, time\nfrom cfchat.net.threads import in_thread\n"
        "async def main(): await asyncio.wait([in_thread(lambda: time.sleep(60))], timeout=0)\n"
        "asyncio.run(main())"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=20)


async def test_a_system_without_a_further_thread_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(BlockingIOError) as caught:
        in_thread(threading.get_ident)
    assert caught.value.errno == errno.EAGAIN
