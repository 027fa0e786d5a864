"""Throw-away environments with what npm and PyPI have of a client, and processes in them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TRIES = 3


def venv(folder: Path, *packages: str) -> Path:
    """A virtual environment with these packages, each `NAME==VERSION`; its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    _install([str(folder / "bin/pip"), "install", "--quiet", "--no-compile", "--disable-pip-version-check", *packages])
    return folder / "bin"


def node_modules(folder: Path, *packages: str) -> Path:
    """A folder with these packages, each `NAME@VERSION`, and our scripts beside them: there they find each other."""
    quiet = ["--silent", "--no-audit", "--no-fund"]
    _install([shutil.which("npm") or "npm", "install", *quiet, "--prefix", str(folder), *packages])
    for script in (*HERE.glob("*.mjs"), *HERE.glob("*.html")):
        shutil.copy(script, folder)
    return folder


def _install(command: list[str]) -> None:
    """Registries have bad minutes, so more than once."""
    done = [subprocess.run(command, timeout=300, check=False).returncode]
    while done[-1] and len(done) < TRIES:
        done.append(subprocess.run(command, timeout=300, check=False).returncode)
    assert done[-1] == 0, f"{TRIES} tries have not installed {command[-1]}"


class Process:
    """A client in a process of its own: takes jobs and tells what it sees, each a line of JSON."""

    def __init__(self, *command: str | Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._received = b""
        assert self._process.stdin and self._process.stdout
        self._jobs, self._told = self._process.stdin, self._process.stdout.fileno()

    def ask(self, **job: object) -> None:
        self._jobs.write(json.dumps(job).encode() + b"\n")
        self._jobs.flush()

    async def told(self) -> dict[str, Any]:
        """The next line. Raises EOFError where the process has ended."""
        while b"\n" not in self._received:
            await _readable(self._told)
            data = os.read(self._told, 65536)
            if not data:
                raise EOFError(f"the client has ended with {self._process.wait()}")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
