"""A loop that stalls says where."""

from __future__ import annotations

import logging
import time

import pytest
from client import until

from cfchat.pulse import LATE, Pulse, stalls_told

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


async def test_a_loop_that_waits_is_no_stall(caplog: pytest.LogCaptureFixture) -> None:
    late: list[float] = []
    pulse = Pulse(late.append)
    pulse.start()
    with stalls_told(pulse):
        pulse.due -= 10  # as after a sleep of the machine
        await until(lambda: len(late) > 2)
    pulse.stop()
    assert [record for record in caplog.records if record.name == "cfchat.pulse"] == []
