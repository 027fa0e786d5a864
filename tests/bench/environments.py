"""The contenders, and an environment for each: versions pinned, made in a folder that may be kept for the next run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent / "contenders"
ROOT = Path(__file__).parents[2]
BEFORE = "before"  # another checkout of cfchat
FLOOR, BYTES = "floor-parse", "floor-bytes"  # the second passes the events on as they are
STARLETTE = ("starlette==1.10.0", "uvicorn==0.54.0", "httpx==0.28.1", "uvloop==0.23.0", "httptools==0.9.0")
AIOHTTP = ("aiohttp==3.14.5", "uvloop==0.23.0")
DONE = "installed"  # a file in the folder of an environment that is whole
UNDICI = "undici@7.30.2"


@dataclass(frozen=True)
class Contender:
    command: list[str]


class Missing(Exception):
    """A program that a contender needs is not on this machine."""


def _python(script: str, *arguments: str, packages: tuple[str, ...] = ()) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        python = sys.executable
        if packages:
            python = str(folder / "bin" / "python")
        if packages and not (folder / DONE).exists():
            _do([sys.executable, "-m", "venv", str(folder)])
            _do([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages])
            (folder / DONE).touch()
        return [python, str(HERE / script), *arguments]

    return make


def _node(folder: Path) -> list[str]:
    _need("node", "npm")
    folder.mkdir(exist_ok=True, parents=True)
    shutil.copy(HERE / "node_app.mjs", folder)
    if not (folder / DONE).exists():
        _do(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), UNDICI])
        (folder / DONE).touch()
    return ["node", str(folder / "node_app.mjs")]


def _go(folder: Path) -> list[str]:
    _need("go")
    folder.mkdir(exist_ok=True, parents=True)
    _do(["go", "build", "-o", str(folder / "relay"), str(HERE / "relay.go")])
    return [str(folder / "relay")]


def _do(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise Missing(f"there is no {program}")


CONTENDERS: dict[str, Callable[[Path], list[str]]] = {
    FLOOR: _python("floor.py", "parse"),
    BYTES: _python("floor.py", "bytes"),
    "starlette": _python("starlette_app.py", packages=STARLETTE),
    "aiohttp": _python("aiohttp_app.py", packages=AIOHTTP),
    "node": _node,
    "go": _go,
}


def cfchat_of(checkout: Path) -> Contender:
    return Contender([sys.executable, str(checkout / "cfchat_server.py")])


def prepare(names: list[str], folder: Path) -> dict[str, Contender]:
    """Return cfchat and these. What this machine cannot run is left out, which a line says."""
    contenders = {"cfchat": cfchat_of(ROOT)}
    for name in names:
        try:
            contenders[name] = Contender(CONTENDERS[name](folder / name))
        except Missing as missing:
            print(f"{name} is left out: {missing}")
    return contenders
