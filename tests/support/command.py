"""The command as a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from house import ACCOUNT, TOKEN
from places import CERTS, ROOT

# -S: nothing outside the standard library can be imported; -W error: nothing is left open.
COMMAND = [sys.executable, "-I", "-S", "-W", "error", str(ROOT / "cfchat_server.py")]


MESSAGES = json.dumps([{"role": "user", "content": "I am unhappy"}])


def command() -> list[str]:
    # Under coverage the child needs site-packages to measure itself.
    measured = any(name.startswith("COVERAGE_PROCESS") for name in os.environ)
    return [sys.executable, str(ROOT / "cfchat_server.py")] if measured else COMMAND


def environ(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "COVERAGE", "HOME"))}
    return kept | more


def run(*flags: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command(), *flags], env=environ(**more), capture_output=True, text=True, timeout=20, check=False
    )


@contextmanager
def demo(*flags: str) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """A running demo: the process, its port and its banner."""
    process = subprocess.Popen(
        [*command(), "--demo", "--port", "0", *flags],
        env=environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        banner = "".join(process.stdout.readline() for _ in range(4))
        found = re.search(r"http://127\.0\.0\.1:(\d+)/api/chatbot", banner)
        assert found, banner
        yield process, int(found[1]), banner
    finally:
        process.kill()
        process.communicate()


def ask(port: int) -> http.client.HTTPResponse:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    client.request("POST", "/api/chatbot", MESSAGES, {"Connection": "close"})
    return client.getresponse()


def surroundings(base_url: str, **more: str) -> dict[str, str]:
    own = {"CLOUDFLARE_ACCOUNT_ID": ACCOUNT, "CLOUDFLARE_API_TOKEN": TOKEN, "CFCHAT_BASE_URL": base_url}
    return environ(**{"SSL_CERT_FILE": str(CERTS / "ca.pem"), **own, **more})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])




def deploy(name: str, *flags: str, **more: str) -> str:
    done = run("deploy", name, *flags, **{"CLOUDFLARE_ACCOUNT_ID": ACCOUNT, **more})
    assert done.returncode == 0, done.stderr
    return done.stdout
