"""A loop that stalls says where."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time

import pytest
from client import until

from cfchat.pulse import LATE, Pulse, place, stalls_told

SECRET = "what a user said"


def busy(until: float, caplog: pytest.LogCaptureFixture, words: str) -> None:
    while not caplog.messages and time.monotonic() < until:
        pass


async def test_a_stall_is_told_by_its_place_alone(caplog: pytest.LogCaptureFixture) -> None:
    late: list[float] = []
    pulse = Pulse(late.append)
    pulse.start()
    with stalls_told(pulse):
        busy(time.monotonic() + 10, caplog, SECRET)
        await until(lambda: bool(late))
    pulse.stop()
    (line,) = [record for record in caplog.records if record.name == "cfchat.pulse"]
    told = line.getMessage()
    assert line.levelno == logging.WARNING
    assert "tests/test_pulse.py:" in told and " busy < " in told
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
    assert place(threading.get_ident()).startswith("cfchat/pulse.py:")
