"""SIGHUP: early, from a terminal that is closed, and under nohup."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from command import ask, command, ended_with, environ

COMMAND = [*command(), "--demo", "--port", "0"]
# Run the rest of its arguments with the terminal on descriptor 0 as the controlling one.
ON_A_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup themselves
fcntl.ioctl(0, termios.TIOCSCTTY)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def holds_back(pid: int) -> bool:
    """Return whether a process holds SIGHUP back."""
    match = re.search(r"SigBlk:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    assert match
    return bool(int(match[1], 16) & 1 << signal.SIGHUP - 1)


def port_of(process: subprocess.Popen[str]) -> int:
    """Return the port that its banner names, once it is printed."""
    assert process.stdout
    for line in process.stdout:
        if match := re.search(r"://127\.0\.0\.1:(\d+)/api", line):
            return int(match[1])
    raise AssertionError("it has ended")


@contextmanager
def started(*argv: str, **more: object) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, env=environ(), stdout=pipe, stderr=pipe, text=True, **more)  # type: ignore[call-overload]
    with ended_with(process):
        yield process


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what is held back")
@pytest.mark.parametrize("workers", ["0", "1"])
def test_one_that_comes_during_the_start_is_only_late(workers: str) -> None:
    with started(*COMMAND, "--workers", workers) as process:
        until = time.monotonic() + 10
        while not holds_back(process.pid):
            assert process.poll() is None and time.monotonic() < until
        process.send_signal(signal.SIGHUP)
        assert ask(port_of(process)).read()
        assert process.stderr
        assert next(line for line in process.stderr if "SIGHUP: " in line)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_it_is_held_back_before_anything_is_imported_that_takes_time() -> None:
    code = "import sys, cfchat.cli.start; print(*{'asyncio', 'argparse', 'typing', 'logging'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == "\n"


@contextmanager
def on_a_terminal(*before: str, more: tuple[str, ...] = ()) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the demo with a terminal of its own. Gives it, and the descriptor that is the terminal's far end."""
    far, near = os.openpty()
    argv = (sys.executable, "-c", ON_A_TERMINAL, *before, *COMMAND, *more)
    try:
        with started(*argv, stdin=near, start_new_session=True) as process:
            os.close(near)
            yield process, far
    finally:
        with suppress(OSError):  # the test has closed it
            os.close(far)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_terminal_that_is_closed_lets_replies_finish_and_ends_it(workers: str) -> None:
    with on_a_terminal(more=("--workers", workers)) as (process, far):
        answer = ask(port_of(process))
        os.close(far)
        assert answer.read()  # http.client raises IncompleteRead for a reply without its end
        assert process.wait(20) == 0
        assert process.stderr
        log = process.stderr.read()
    assert "SIGHUP" in log and "stopped" in log and "Traceback" not in log


@pytest.mark.parametrize("before", [[], ["nohup"]])
def test_where_there_is_a_terminal_still_or_nohup_only_files_are_read(before: list[str]) -> None:
    with on_a_terminal(*before) as (process, far):
        port = port_of(process)
        if before:
            os.close(far)
        assert process.stderr
        process.send_signal(signal.SIGHUP)
        assert next(line for line in process.stderr if "SIGHUP: there is no" in line)
        assert ask(port).read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
