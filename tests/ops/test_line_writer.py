"""Lines written from a thread, to real pipes and devices."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cfchat.ops.line_writer import LineWriter

SIZE = 4096  # the smallest pipe of Linux
LINE = b"x" * 99 + b"\n"


@contextmanager
def small_pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, SIZE)
    try:
        yield reading, writing
    finally:
        for file in (reading, writing):
            os.close(file)


def tell(missing: int) -> bytes:
    return b"%d missing\n" % missing


def read_until(file: int, end: bytes) -> list[bytes]:
    text = b""
    while not text.endswith(end):
        text += os.read(file, 65536)
    return text.splitlines()


@pytest.mark.parametrize("blocking", [True, False])
def test_lines_that_nobody_reads_are_counted_and_told_where_they_are_missing(blocking: bool) -> None:
    with small_pipe() as (reading, writing):
        os.set_blocking(writing, blocking)
        writer = LineWriter(writing, tell, limit=10 * len(LINE))
        for number in range(200):
            writer.put(b"%99d\n" % number)
        writer.flush(0.01)  # has an end
        dropped = writer.dropped
        assert 0 < dropped < 200
        before = read_until(reading, b" missing\n")
        writer.put(b"last\n")
        after = read_until(reading, b"last\n")
        writer.close()
    numbers = [int(line) for line in before[:-1]]
    assert numbers == list(range(len(numbers))) and before[-1] == b"%d missing" % (200 - len(numbers))
    assert (writer.dropped, after) == (dropped, [b"last"])


def test_a_gap_is_told_before_the_lines_behind_it() -> None:
    with small_pipe() as (reading, writing):
        os.write(writing, b"\n" * SIZE)
        writer = LineWriter(writing, tell, limit=2 * len(LINE))
        for _ in range(5):
            writer.put(LINE)
        writer.put(b"")  # fits still: it stands behind the gap
        assert writer.dropped == 3
        assert read_until(reading, b" missing\n")[SIZE:] == [LINE[:-1], LINE[:-1], b"3 missing"]
        writer.close()


@pytest.mark.parametrize("full", [True, False], ids=["full", "reader gone"])
def test_what_the_system_refuses_is_dropped(full: bool) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    refusing = os.open("/dev/full", os.O_WRONLY) if full else writing
    writer = LineWriter(refusing, tell)
    for _ in range(3):
        writer.put(LINE)
    writer.flush(5.0)
    assert writer.dropped == 3
    with small_pipe() as (reading, takes):
        os.dup2(takes, refusing)  # the disk has room again
        writer.put(LINE)
        assert read_until(reading, LINE) == [b"3 missing", LINE[:-1]]
    writer.close()
    for file in {refusing, writing}:
        os.close(file)


def test_what_is_flushed_is_written() -> None:
    with small_pipe() as (reading, writing):
        writer = LineWriter(writing)
        for number in range(20):
            writer.put(b"%d\n" % number)
        writer.flush(5.0)
        assert os.read(reading, SIZE).splitlines() == [b"%d" % number for number in range(20)]
        writer.close()


def test_its_thread_takes_no_signal() -> None:
    """A signal that the main thread has blocked waits until it is unblocked."""
    with small_pipe() as (_, writing):
        others = threading.enumerate()  # the thread of a writer that was closed may take a moment to end
        writer = LineWriter(writing)
        writer.flush(5.0)  # the thread runs
        (thread,) = (new for new in threading.enumerate() if new not in others and new.name == "cfchat-lines")
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        writer.close()
    blocked = re.search(r"^SigBlk:\s*(\w+)$", status, re.MULTILINE)
    assert blocked and int(blocked[1], 16) >> (signal.SIGTERM - 1) & 1
