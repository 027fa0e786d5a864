"""Imports point one way. The tables below are the picture in the design, checked with ast."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FACE = (
    *("CfchatError", "Config", "Conversation", "Hooks", "Message", "Options", "Reply", "Request", "Serving"),
    *("__version__", "asgi", "chat", "load_config", "serve", "stream_chat"),
)

# Who comes after all the earlier rows. Rooms of one row know nothing of each other.
ROWS = (
    {"errors"},
    {"wire", "alarm"},
    {"conversation"},
    {"completions"},
    {"upstream", "replies"},
    {"metrics"},
    {"guard", "observe", "pulse"},
    {"server", "listen", "systemd", "tally"},  # may log by observe
    {"workers", "deploy"},
    {"page", "hooks", "watch"},
    {"app"},
    {"config", "demo", "check"},
    {"api"},
    {"asgi3"},
    {"cli"},
    {"__init__", "__main__"},
)
STRANGERS = {
    "upstream": {"completions"},
    "replies": {"completions"},
    "guard": {"conversation", "completions", "upstream", "replies"},
    "observe": {"conversation", "completions", "upstream", "replies"},
    "server": {"conversation", "completions", "upstream", "replies", "guard"},
    "metrics": {"wire", "conversation", "completions", "upstream", "replies"},
    "pulse": {"wire", "conversation", "completions", "upstream", "replies"},
    "watch": {"conversation", "completions", "upstream", "replies", "guard", "observe"},
    "hooks": {"completions", "upstream", "replies", "guard", "observe"},
    "page": {"wire", "conversation", "completions", "upstream", "replies", "guard", "observe"},
    "listen": {"wire", "conversation", "completions", "upstream", "replies", "guard", "observe"},
    "systemd": {"wire", "conversation", "completions", "upstream", "replies", "guard", "observe"},
    "tally": {"wire", "conversation", "completions", "upstream", "replies", "guard", "observe", "pulse"},
    "workers": {"wire", "conversation", "completions", "upstream", "replies", "guard", "observe", "server"},
    "deploy": {"wire", "conversation", "completions", "upstream", "replies", "guard", "observe", "server", "systemd"},
}
WIRE: dict[str, set[str]] = {
    "grammar": set(),
    "buffer": {"grammar"},
    "bodies": {"grammar", "buffer"},
    "http11": {"grammar", "buffer", "bodies"},
    "sse": set(),
    "__init__": {"grammar", "buffer", "bodies", "http11", "sse"},
}
PURE = ("errors", "wire", "conversation", "completions", "replies", "metrics") + tuple(
    f"upstream.{module}" for module in ("cloudflare", "deltas", "faults", "retry", "circuits")
)
IMPURE_MODULES = {"asyncio", "socket", "ssl", "os", "time", "random", "logging"}


def imported(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Dotted names of all that is imported, wherever in the source; relative ones resolved."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            near = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*near, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_pure(module: str) -> bool:
    return any(f"{module}.".startswith(f"cfchat.{room}.") for room in PURE)


def allowed_rooms(room: str) -> set[str]:
    row = next(number for number, rooms in enumerate(ROWS) if room in rooms)
    return set().union(*ROWS[:row], {room}) - STRANGERS.get(room, set())


def wrong(source: str, module: str, is_package: bool = False) -> list[str]:
    """The imports of a module, `cfchat.wire.sse` for one, that its place in the house forbids."""
    return [name for name in imported(source, module, is_package) if not may_import(module, name)]


def may_import(module: str, name: str) -> bool:
    here, there = [*module.split("."), "__init__"], [*name.split("."), "__init__"]
    if there[0] != "cfchat":
        return not (is_pure(module) and there[0] in IMPURE_MODULES)
    if there[1] == "__version__":  # a constant, set before anything else is imported
        return True
    if there[1] not in allowed_rooms(here[1]):
        return False
    if here[1] == there[1] == "wire":
        return there[2] in WIRE[here[2]]
    return is_pure(name) or not is_pure(module)


def modules() -> list[Path]:
    return sorted((ROOT / "cfchat").rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    is_package = parts[-1] == "__init__" and len(parts) > 2
    module = ".".join(parts[:-1] if is_package else parts)
    assert wrong(path.read_text("utf-8"), module, is_package) == []


def test_every_module_has_a_room() -> None:
    rooms = {path.relative_to(ROOT / "cfchat").with_suffix("").parts[0] for path in modules()}
    assert rooms <= set().union(*ROWS)
    assert {path.stem for path in (ROOT / "cfchat" / "wire").glob("*.py")} <= set(WIRE)


def test_the_public_face_is_pinned() -> None:
    face = importlib.import_module("cfchat")
    assert tuple(face.__all__) == FACE
    assert all(hasattr(face, name) for name in FACE)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("cfchat.errors", "import cfchat.wire.sse"),
        ("cfchat.errors", "import time"),
        ("cfchat.wire.http11", "from cfchat.conversation import Message"),
        ("cfchat.wire.http11", "import os.path"),
        ("cfchat.wire.http11", "from asyncio import streams"),
        ("cfchat.wire.http11", "from cfchat.wire.sse import Event"),
        ("cfchat.wire.http11", "from cfchat.wire import sse"),
        ("cfchat.wire.http11", "from .sse import Event"),
        ("cfchat.wire.http11", "from . import sse"),
        ("cfchat.wire.http11", "from ..conversation import Message"),
        ("cfchat.wire.http11", "from .. import conversation"),
        ("cfchat.wire.http11", "def late():\n    import random"),
        ("cfchat.wire.buffer", "from cfchat.wire.bodies import LAST_CHUNK"),
        ("cfchat.wire.grammar", "import cfchat.wire.buffer"),
        ("cfchat.wire.sse", "from cfchat.wire.buffer import ReceiveBuffer"),
        ("cfchat.wire.sse", "from cfchat.wire import Fields"),
        ("cfchat.conversation", "from cfchat.upstream.client import Upstream"),
        ("cfchat.conversation", "import logging"),
        ("cfchat.conversation", "from cfchat import Config"),
        ("cfchat.replies.text", "from cfchat.upstream import cloudflare"),
        ("cfchat.replies.text", "import ssl"),
        ("cfchat.upstream.client", "from cfchat.replies.text import TextReply"),
        ("cfchat.upstream.client", "from cfchat.server import Limits"),
        ("cfchat.upstream.cloudflare", "import time"),
        ("cfchat.upstream.cloudflare", "from cfchat.upstream.connection import Connection"),
        ("cfchat.upstream.retry", "import random"),
        ("cfchat.server", "from cfchat.conversation import Message"),
        ("cfchat.server", "from cfchat.guard import Guard"),
        ("cfchat.guard", "from cfchat.server import Limits"),
        ("cfchat.observe", "import cfchat.upstream.client"),
        ("cfchat.listen", "from cfchat.server import Server"),
        ("cfchat.systemd", "from cfchat.workers import Parent"),
        ("cfchat.workers", "from cfchat.app import App"),
        ("cfchat.page", "from cfchat.upstream import cloudflare"),
        ("cfchat.app", "from cfchat.config import Config"),
        ("cfchat.config", "from cfchat.demo import Demo"),
        ("cfchat.demo", "import cfchat.cli"),
        ("cfchat.api", "from cfchat.cli import main"),
        ("cfchat.api", "import cfchat"),
    ],
)
def test_a_wrong_import_is_found(module: str, line: str) -> None:
    assert len(wrong(f"import re\n{line}\n", module)) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("cfchat.wire.http11", "from cfchat.wire.bodies import LAST_CHUNK"),
        ("cfchat.wire.http11", "from http import HTTPStatus"),
        ("cfchat.wire.http11", "from .buffer import ReceiveBuffer"),
        ("cfchat.conversation", "from cfchat import errors"),
        ("cfchat.upstream.retry", "from collections.abc import Callable"),
        ("cfchat.upstream.cloudflare", "from cfchat.conversation import Delta"),
        ("cfchat.upstream.client", "import asyncio, cfchat.upstream.pool, cfchat.wire.sse"),
        ("cfchat.upstream.client", "from cfchat import __version__"),
        ("cfchat.server", "from cfchat.wire.http11 import Fields"),
        ("cfchat.server", "from cfchat.observe import log_exchange"),
        ("cfchat.workers", "from cfchat.systemd import Notifier"),
        ("cfchat.config", "from cfchat.upstream.pool import Settings"),
        ("cfchat.config", "from cfchat.server import Limits"),
        ("cfchat.__main__", "from cfchat.cli import main"),
        ("cfchat.__init__", "from cfchat.config import Config"),
    ],
)
def test_a_right_import_passes(module: str, line: str) -> None:
    assert wrong(line, module) == []


def test_a_package_resolves_its_own_relative_imports() -> None:
    assert wrong("from .sse import Event", "cfchat.wire", is_package=True) == []
    assert wrong("from ..conversation import Limits", "cfchat.wire", is_package=True) == ["cfchat.conversation.Limits"]
