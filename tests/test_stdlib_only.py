"""The promise: copy the folder to a host where nothing can be installed, and it runs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
START = ROOT / "cfchat_server.py"
SOURCES = [START, *sorted((ROOT / "cfchat").rglob("*.py"))]


def foreign(source: str) -> set[str]:
    """Top-level names imported anywhere in the source that are neither ours nor the standard library's."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names - {"cfchat"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_standard_library_is_imported(path: Path) -> None:
    assert foreign(path.read_text("utf-8")) == set()


def test_a_foreign_import_is_found() -> None:
    source = "import re, yaml.nodes\nfrom . import x\ntry:\n    from orjson import loads\nexcept ImportError: ..."
    assert foreign(source) == {"yaml", "orjson"}


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_it_starts_without_site_packages(flag: str, tmp_path: Path) -> None:
    """-I: no environment, no current directory; -S: no site-packages; -W error: not even a warning."""
    command = [sys.executable, "-I", "-S", "-W", "error", str(START), flag]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
