"""The origin and the contenders as processes, and the clients that measure them."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

from environments import BYTES
from load import Result, Task
from origin import text

HERE = Path(__file__).parent
CERTS = HERE.parent / "support" / "certs"
CA = CERTS / "ca.pem"


@contextmanager
def process(command: list[str], environ: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a process whose first line of output ends with its port, and perhaps a path; end it at the end."""
    # Frameworks log a traceback for each client that leaves when its time is over; ours must have nothing to say.
    errors = None if "cfchat" in " ".join(command) else subprocess.DEVNULL
    # What is installed has been compiled.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    child = subprocess.Popen(command, env={**own, **environ}, stdout=subprocess.PIPE, stderr=errors)
    try:
        yield child, _port(child.stdout)
    finally:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _port(output: IO[bytes] | None) -> int:
    assert output is not None
    line = output.readline().decode()
    if not line:
        raise SystemExit("a process did not start")
    return int(line.rpartition(":")[2].partition("/")[0])


def measure(task: Task) -> Result:
    """Run the clients. Exit if a reply was not whole, because a relay that loses tokens is quick."""
    command = [sys.executable, str(HERE / "load.py"), json.dumps(asdict(task))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=task.warm + task.seconds + 60)
    result = Result(**json.loads(done.stdout))
    if result.faults or not result.tokens:
        raise SystemExit(f"{task}: {result.faults or 'nothing came'}")
    return result


class Arena:
    """The origin, and the contenders as they are started against it."""

    def __init__(self, origin: subprocess.Popen[bytes], port: int) -> None:
        self.origin = origin
        self.port = port

    def environ(self) -> dict[str, str]:
        base = f"https://localhost:{self.port}/client/v4"
        return {
            "UPSTREAM": f"{base}/accounts/{'0' * 32}/ai/run/@cf/bench/model",
            "SSL_CERT_FILE": str(CA),
            "CLOUDFLARE_ACCOUNT_ID": "0" * 32,
            "CLOUDFLARE_API_TOKEN": "token",
            "CFCHAT_BASE_URL": base,
            "CFCHAT_MODEL": "@cf/bench/model",
            "CFCHAT_FALLBACK_MODELS": "none",
            "CFCHAT_PORT": "0",
            "CFCHAT_MAX_CONNECTIONS_EACH": "4096",
            "CFCHAT_MAX_STREAMS_EACH": "1000",
            "CFCHAT_LOG_LEVEL": "error",  # no contender logs its requests; a full processor is no news here
        }

    @contextmanager
    def run(self, command: list[str], **more: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        with process(command, {**self.environ(), **more}) as started:
            yield started


@contextmanager
def open_arena() -> Iterator[Arena]:
    with process([sys.executable, str(HERE / "origin.py")], {}) as (origin, port):
        yield Arena(origin, port)


def reply_of(port: int, task: Task) -> str:
    """Return the text of a whole reply, asked for on a connection of its own."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = f'[{{"role":"user","content":"bench {task.mode} {task.tokens} {task.pace} {task.shape}"}}]'
    client.request("POST", "/api/chatbot", body, {"Content-Type": "application/json"})
    with closing(client), client.getresponse() as reply:
        return reply.read().decode()


def check(name: str, port: int, task: Task) -> None:
    """Exit if a contender's text is not the model's. In paced modes, load.py counts the tokens."""
    if name != BYTES and task.mode != "paced" and (content := reply_of(port, task)) != text(task.tokens):
        raise SystemExit(f"{name} answers {task} with {content[:200]!r}")
