"""A server whose stdin, stdout and stderr are closed, full, or read by nobody."""

from __future__ import annotations

import fcntl
import http.client
import os
import re
import signal
import socket
import subprocess
import threading
from contextlib import suppress

import pytest
from command import ask, command, environ, free_port


def connected(port: int, process: subprocess.Popen[bytes]) -> socket.socket:
    """Return a connection as soon as the process listens."""
    while process.poll() is None:
        with suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout=20)
    raise AssertionError(f"ended with {process.returncode}")


@pytest.mark.parametrize("redirections", [">&-", ">/dev/full", "<&- >&- 2>&-", "2>/dev/full"])
def test_it_starts_whatever_stdout_and_stderr_are(redirections: str) -> None:
    port = free_port()
    shell = ["sh", "-c", f'exec "$@" {redirections}', "sh", *command(), "--demo", "--port", str(port)]
    with subprocess.Popen(shell, env=environ(), stderr=subprocess.PIPE) as process:
        connected(port, process).close()
        assert ask(port).status == 200
        files = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)]
        assert not [file for file in files if "socket" in file or "event" in file], "a socket is not for words"
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0 and b"Error" not in log


@pytest.mark.parametrize("words", ["--version", "ask --demo Hi", "deploy nginx", "deploy pyz"])
def test_a_command_says_that_its_output_is_not_taken(words: str) -> None:
    shell = ["sh", "-c", 'exec "$@" >/dev/full', "sh", *command(), *words.split()]
    own = environ(CLOUDFLARE_ACCOUNT_ID="0" * 32)
    done = subprocess.run(shell, env=own, stderr=subprocess.PIPE, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (1, b"cfchat: stdout takes no more: No space left on device\n")


def test_a_command_needs_no_stdout() -> None:
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *command(), "deploy", "pyz"]
    done = subprocess.run(shell, env=environ(), stderr=subprocess.PIPE, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_logging_waits_for_nobody() -> None:
    """Nobody reads stderr, whose pipe is full from the start. What does not fit is counted, and told in the end."""
    reading, writing = os.pipe()
    os.write(writing, b"\n" * fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096))
    long = b"%b /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"M" * 200, b"x" * 300)
    with subprocess.Popen(
        [*command(), "--demo", "--port", "0"], env=environ(), stdout=subprocess.PIPE, stderr=writing
    ) as process:
        os.close(writing)
        assert process.stdout
        until = threading.Timer(20, process.kill)  # what waits for the log answers nobody
        until.start()
        match = re.search(rb"127\.0\.0\.1:(\d+)/", process.stdout.readline())
        assert match
        port = int(match[1])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(long * 799 + long.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert b"".join(iter(lambda: client.recv(1 << 16), b"")).count(b"HTTP/1.1 501") == 800
        assert ask(port).status == 200
        text = _get(port, "/metrics").read().decode()
        dropped = re.search(r"^cfchat_log_lines_dropped_total (\d+)$", text, re.MULTILINE)
        process.send_signal(signal.SIGTERM)
        with suppress(OSError):
            while True:  # until it has heard the signal
                socket.create_connection(("127.0.0.1", port)).close()
        log = b"".join(iter(lambda: os.read(reading, 1 << 16), b"")).decode()
        os.close(reading)
    until.cancel()
    assert process.returncode == 0
    assert dropped and 100 < int(dropped[1]) < 800
    told = [int(number) for number in re.findall(r"WARNING (\d+) log lines are missing here", log)]
    assert sum(told) >= int(dropped[1]) and log.count(" 501 ") + sum(told) >= 800


def _get(port: int, path: str) -> http.client.HTTPResponse:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    client.request("GET", path, headers={"Connection": "close"})
    return client.getresponse()
