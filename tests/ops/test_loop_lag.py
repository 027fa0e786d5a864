"""A loop that stalls says where."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time

import pytest
from client import until

from cfchat.ops.loop_lag import LATE, Pulse, place, stalls_told

SECRET = "what a user said"


def busy(until: float, told: list[logging.LogRecord], words: str) -> None:
    while not told and time.monotonic() < until:
        pass


async def test_a_stall_is_told_by_its_place_alone(caplog: pytest.LogCaptureFixture) -> None:
    late: list[float] = []
    records = caplog.handler.records
    pulse = Pulse(late.append)
    pulse.start()
    with stalls_told(pulse):
        busy(time.monotonic() + 10, records, SECRET)
        await until(lambda: bool(late))
    pulse.stop()
    line = next(record for record in records if record.name == "cfchat.pulse")
    told = line.getMessage()
    assert line.levelno == logging.WARNING
    assert "ops/test_loop_lag.py:" in told and " busy < " in told
    assert SECRET not in told
    assert late[0] >= LATE


async def test_a_loop_that_waits_is_nowhere() -> None:
    near, far = socket.socketpair()
    with near, far, selectors.DefaultSelector() as selector:
        selector.register(near, selectors.EVENT_READ)
        thread = threading.Thread(target=selector.select)
        thread.start()
        try:
            await until(lambda: thread.ident is not None and place(thread.ident) == "")
        finally:
            far.send(b"wake")
            thread.join()
    assert place(thread.ident or 0) == ""


def test_a_place_is_the_innermost_first() -> None:
    assert place(threading.get_ident()).startswith("ops/loop_lag.py:")
