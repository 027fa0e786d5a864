"""Run the command as a process of its own, and read what it prints."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from fork_server import fork_server
from house import ACCOUNT, TOKEN
from places import CERTS, ROOT

# -S: only the standard library can be imported; -W error: the test fails if something is left open.
COMMAND = [sys.executable, "-I", "-S", "-W", "error", str(ROOT / "cfchat_server.py")]
MESSAGES = json.dumps([{"role": "user", "content": "I am unhappy"}])


def command() -> list[str]:
    """Return the words that start the command."""
    # Under coverage the process needs site-packages to measure itself.
    measured = any(name.startswith("COVERAGE_PROCESS") for name in os.environ)
    return [sys.executable, str(ROOT / "cfchat_server.py")] if measured else COMMAND


def environ(**more: str) -> dict[str, str]:
    """Return an environment without settings, and `more`."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "COVERAGE", "HOME"))}
    return kept | more


def run(*flags: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, without an account."""
    return _run(flags, environ(**more))


def _run(flags: Sequence[str], environment: dict[str, str], stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    if command() is COMMAND and sys.platform == "linux":
        done = fork_server(str(ROOT)).run([*flags], environment, stdin, timeout=20)
        return subprocess.CompletedProcess(flags, *done)
    argv = [*command(), *flags]
    ended = subprocess.run(argv, env=environment, input=stdin, capture_output=True, timeout=20, check=False)
    return subprocess.CompletedProcess(flags, ended.returncode, ended.stdout.decode(), ended.stderr.decode())


@contextmanager
def demo(*flags: str, argv: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """Run the demo within the block, by `argv` or the command. Gives the process, its port and its banner."""
    process = subprocess.Popen(
        [*(argv or command()), "--demo", "--port", "0", *flags],
        env=environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with ended_with(process):
        assert process.stdout
        banner = "".join(process.stdout.readline() for _ in range(4))
        match = re.search(r"http://127\.0\.0\.1:(\d+)/api/chatbot", banner)
        assert match, banner
        yield process, int(match[1]), banner


@contextmanager
def ended_with(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill a process with the block, or after 20 s: a test that reads what never comes must not wait for ever."""
    timer = threading.Timer(20, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


def ask(port: int, source: str = "127.0.0.1") -> http.client.HTTPResponse:
    """Post a question from an address of this machine and return the reply, unread."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20, source_address=(source, 0))
    client.request("POST", "/api/chatbot", MESSAGES, {"Connection": "close"})
    return client.getresponse()


def surroundings(base_url: str, **more: str) -> dict[str, str]:
    """Return an environment with an account whose upstream is `base_url`."""
    own = {"CLOUDFLARE_ACCOUNT_ID": ACCOUNT, "CLOUDFLARE_API_TOKEN": TOKEN, "CFCHAT_BASE_URL": base_url}
    return environ(**{"SSL_CERT_FILE": str(CERTS / "ca.pem"), **own, **more})


def free_port() -> int:
    """Return a port on which no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def deploy(name: str, *flags: str, **more: str) -> str:
    """Return the file that `deploy` prints."""
    done = run("deploy", name, *flags, **{"CLOUDFLARE_ACCOUNT_ID": ACCOUNT, **more})
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Done:
    """The exit code of the command and its output."""

    code: int | None
    out: str
    err: str

    def line(self, name: str) -> str:
        """Return the line of one step of `check`, and the line with what to do about it."""
        match = re.search(rf"^(?:ok|warn|FAIL|skip) +{name} .*\n(?:      next: .*\n)?", self.out, re.MULTILINE)
        assert match, self.out
        return match[0]


@asynccontextmanager
async def running(base_url: str, *flags: str, **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the command within the block; it is killed at the end."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command(), *flags, env=surroundings(base_url, **more), stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def finish(process: asyncio.subprocess.Process) -> Done:
    """Wait for the end of the command, and check that it has printed no secret and no traceback."""
    out, err = await process.communicate()
    return _checked(process.returncode, out.decode(), err.decode())


def _checked(code: int | None, out: str, err: str) -> Done:
    output = out + err
    assert TOKEN not in output and "Traceback" not in output and "never awaited" not in output, output
    return Done(code, out, err)


async def cfchat(base_url: str, *flags: str, stdin: bytes = b"", **more: str) -> Done:
    """Run the command to its end."""
    done = await asyncio.to_thread(_run, flags, surroundings(base_url, **more), stdin)
    return _checked(done.returncode, done.stdout, done.stderr)
