"""axe-core, which looks for what keeps people out of a page."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

AXE = "axe-core@4.14.1"
# To run in a page with the source of axe-core: the faults, each a rule and the elements that break it.
FAULTS = """
if (!window.axe) (0, eval)(arguments[0]);
const told = (node) => node.html + node.failureSummary;
return axe.run().then(({ violations }) => violations.map((it) => [it.id, it.nodes.map(told)]));
"""


def install_axe(folder: Path) -> str:
    """Return the source of axe-core, from npm. Skip the test if it cannot be had; on CI that fails."""
    npm = shutil.which("npm")
    command = [npm or "npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), AXE]
    if not (npm and any(subprocess.run(command, timeout=120, check=False).returncode == 0 for _ in range(3))):
        assert "CI" not in os.environ, f"{AXE} cannot be installed"
        pytest.skip(f"{AXE} cannot be installed: npm or the network is missing")
    return (folder / "node_modules/axe-core/axe.min.js").read_text("utf-8")
