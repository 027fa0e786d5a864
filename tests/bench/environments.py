"""The contenders, and an environment for each: versions pinned, made in a folder that is thrown away."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent / "contenders"
FLOOR, BYTES = "floor-parse", "floor-bytes"  # the second passes the events on as they are
STARLETTE = ("starlette==1.10.0", "uvicorn==0.54.0", "httpx==0.28.1", "uvloop==0.23.0", "httptools==0.9.0")
AIOHTTP = ("aiohttp==3.14.5", "uvloop==0.23.0")
UNDICI = "undici@7.30.2"


@dataclass(frozen=True)
class Contender:
    command: list[str]


class Missing(Exception):
    """What a contender needs is not on this machine."""


def _python(script: str, *arguments: str, packages: tuple[str, ...] = ()) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        python = sys.executable
        if packages:
            _do([sys.executable, "-m", "venv", str(folder)])
            python = str(folder / "bin" / "python")
            _do([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages])
        return [python, str(HERE / script), *arguments]

    return make


def _node(folder: Path) -> list[str]:
    _need("node", "npm")
    folder.mkdir()
    shutil.copy(HERE / "node_app.mjs", folder)
    _do(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), UNDICI])
    return ["node", str(folder / "node_app.mjs")]


def _go(folder: Path) -> list[str]:
    _need("go")
    folder.mkdir()
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


def prepare(names: list[str], folder: Path) -> dict[str, Contender]:
    """cfchat and these; one that this machine cannot run is left out, and said so."""
    contenders = {"cfchat": Contender([sys.executable, "cfchat_server.py"])}
    for name in names:
        try:
            contenders[name] = Contender(CONTENDERS[name](folder / name))
        except Missing as missing:
            print(f"{name} is left out: {missing}")
    return contenders
