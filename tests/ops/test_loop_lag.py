"""A loop that stalls is logged with the code that stalls it."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time

import pytest
from client import until

from cfchat.ops.loop_lag import STALL, LoopLag, locate, log_stalls

SECRET = "text of a user"


def busy(until: float, records: list[logging.LogRecord], text: str) -> None:
    while not records and time.monotonic() < until:
        pass


async def test_a_stall_is_logged_with_its_code_and_no_values(caplog: pytest.LogCaptureFixture) -> None:
    late: list[float] = []
    records = caplog.handler.records
    lag = LoopLag(late.append)
    lag.start()
    with log_stalls(lag):
        busy(time.monotonic() + 10, records, SECRET)
        await until(lambda: bool(late))
    lag.stop()
    line = next(record for record in records if record.name == "cfchat.loop_lag")
    message = line.getMessage()
    assert line.levelno == logging.WARNING
    assert "ops/test_loop_lag.py:" in message and " busy < " in message
    assert SECRET not in message
    assert late[0] >= STALL


async def test_a_thread_that_waits_in_a_selector_has_no_place() -> None:
    near, far = socket.socketpair()
    with near, far, selectors.DefaultSelector() as selector:
        selector.register(near, selectors.EVENT_READ)
        thread = threading.Thread(target=selector.select)
        thread.start()
        try:
            await until(lambda: thread.ident is not None and locate(thread.ident) == "")
        finally:
            far.send(b"wake")
            thread.join()
    assert locate(thread.ident or 0) == ""


def test_the_innermost_frame_comes_first() -> None:
    assert locate(threading.get_ident()).startswith("ops/loop_lag.py:")
