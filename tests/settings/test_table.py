"""The table of settings in README.md."""

from __future__ import annotations

import subprocess
import sys

import pytest
from command import environ
from places import ROOT

from cfchat.settings.table import SETTINGS, WIDTH, Setting

README = (ROOT / "cfchat/settings/README.md").read_text()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_readme_names_each_setting(setting: Setting) -> None:
    assert f"`--{setting.flag}` | `{setting.variable}`" in README


def test_readme_has_the_table_that_the_command_prints() -> None:
    command = [sys.executable, "-W", "error", "-m", "cfchat.settings"]
    done = subprocess.run(command, env=environ(), cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    assert f"\n\n{done.stdout}\n" in README
    assert len(README.splitlines()) <= 150 and max(map(len, README.splitlines())) <= WIDTH
