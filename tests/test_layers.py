"""Imports point one way: the floors of the house, checked with ast."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

# Every room may import the rooms of the floors before its own. Rooms of one floor know nothing of each other.
FLOORS = (
    {"errors", "secret", "files"},
    {"wire", "net"},
    {"conversation"},
    {"upstream", "replies", "guard"},
    {"server", "ops"},
    {"app"},
    {"settings", "demo"},
    {"api"},
    {"asgi3"},
    {"cli"},
    {"__init__", "__main__"},
)
# Inside two rooms the files stand on floors, too.
INSIDE = {
    "cfchat.wire": (
        *("grammar", "fields buffer sse strict_json"),
        *("bodies field_section framing messages start_lines", "reader writer"),
    ),
    "cfchat.upstream.cloudflare": (
        *("models faults event sources thoughts tools usage template", "account request catalogue reply", "skim"),
    ),
}
# These do no input and no output, and have no clock and no chance of their own.
PURE: tuple[str, ...] = ("errors", "secret", "wire", "conversation", "replies", "upstream.cloudflare", "upstream.retry")
PURE += ("upstream.circuits", "upstream.origin")
IMPURE_MODULES = {"asyncio", "socket", "ssl", "os", "time", "random", "logging"}
FACE = (
    *("CfchatError", "Config", "ConfigError", "Conversation", "Hooks", "Image", "Message", "Options", "Reply"),
    *("Request", "Serving", "__version__", "asgi", "chat", "load_config", "serve", "stream_chat"),
)


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


def floor(name: str, floors: tuple[set[str], ...] = FLOORS) -> int:
    return next(number for number, rooms in enumerate(floors) if name in rooms)


def is_pure(module: str) -> bool:
    return any(f"{module}.".startswith(f"cfchat.{room}.") for room in PURE)


def may_import(module: str, name: str) -> bool:
    here, there = module.split("."), name.split(".")
    if there[0] != "cfchat":
        return not (is_pure(module) and there[0] in IMPURE_MODULES)
    if name == "cfchat.__version__":  # a constant, set before anything else is imported
        return True
    if is_pure(module) and not is_pure(name):
        return False
    room, other = (here + ["__init__"])[1], (there + ["__init__"])[1]
    if room != other:
        return floor(other) < floor(room)
    for package, rows in INSIDE.items():
        depth = package.count(".") + 1
        if module.startswith(package + ".") and name.startswith(package + "."):
            floors = tuple(set(row.split()) for row in rows)
            return there[depth] == here[depth] or floor(there[depth], floors) < floor(here[depth], floors)
    return True


def wrong(source: str, module: str, is_package: bool = False) -> list[str]:
    """The imports of a module, `cfchat.wire.sse` for one, that its place in the house forbids."""
    return [name for name in imported(source, module, is_package) if not may_import(module, name)]


def modules() -> list[Path]:
    return sorted((ROOT / "cfchat").rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    is_package = parts[-1] == "__init__" and len(parts) > 2
    module = ".".join(parts[:-1] if is_package else parts)
    assert wrong(path.read_text("utf-8"), module, is_package) == []


def test_every_module_has_a_floor() -> None:
    rooms = {path.relative_to(ROOT / "cfchat").with_suffix("").parts[0] for path in modules()}
    assert rooms == set().union(*FLOORS)
    for package, rows in INSIDE.items():
        files = {path.stem for path in (ROOT / package.replace(".", "/")).glob("*.py")}
        assert files == {"__init__", *" ".join(rows).split()}


def test_the_public_face_is_pinned() -> None:
    face = importlib.import_module("cfchat")
    assert tuple(face.__all__) == FACE
    assert all(hasattr(face, name) for name in FACE)


@pytest.mark.parametrize(
    ("module", "line", "allowed"),
    [
        ("cfchat.errors", "import cfchat.wire.sse", False),
        ("cfchat.errors", "import time", False),
        ("cfchat.wire.reader", "from cfchat.conversation.model import Message", False),
        ("cfchat.wire.reader", "import os.path", False),
        ("cfchat.wire.reader", "from .sse import Event", True),
        ("cfchat.wire.sse", "from .reader import RequestReader", False),
        ("cfchat.wire.reader", "from ..conversation import model", False),
        ("cfchat.wire.reader", "def late():\n    import random", False),
        ("cfchat.wire.reader", "from http import HTTPStatus", True),
        ("cfchat.net.stream", "from cfchat.wire.reader import RequestReader", False),
        ("cfchat.net.stream", "import asyncio", True),
        ("cfchat.conversation.parse", "import logging", False),
        ("cfchat.replies.text", "from cfchat.upstream.cloudflare import models", False),
        ("cfchat.upstream.client", "from cfchat.replies.text import Text", False),
        ("cfchat.upstream.client", "import cfchat.upstream.pool, cfchat.wire.sse", True),
        ("cfchat.upstream.cloudflare.reply", "from cfchat.upstream.cloudflare.event import Content", True),
        ("cfchat.upstream.cloudflare.event", "from cfchat.upstream.cloudflare.reply import ReplyReader", False),
        ("cfchat.upstream.cloudflare.request", "from cfchat.upstream.pool import Pool", False),
        ("cfchat.upstream.retry", "import random", False),
        ("cfchat.server.server", "from cfchat.ops.logs import log_request", False),
        ("cfchat.server.server", "from cfchat.net.deadline import Alarm", True),
        ("cfchat.app.routes", "from cfchat.settings.config import Config", False),
        ("cfchat.settings.load", "from cfchat.demo.server import Demo", False),
        ("cfchat.api", "from cfchat.cli.main import main", False),
        ("cfchat.cli.serve", "from cfchat import __version__", True),
    ],
)
def test_the_floors_tell_right_from_wrong(module: str, line: str, allowed: bool) -> None:
    assert (wrong(f"import re\n{line}\n", module) == []) is allowed


def test_a_package_resolves_its_own_relative_imports() -> None:
    assert wrong("from .sse import Event", "cfchat.wire", is_package=True) == []
    assert wrong("from ..conversation import Limits", "cfchat.wire", is_package=True) == ["cfchat.conversation.Limits"]
