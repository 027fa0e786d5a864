"""The command line: help, flags, and what is wrong with them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from command import environ, run
from places import ROOT

from cfchat.cli.deploy import KINDS, PYZ
from cfchat.cli.main import COMMANDS, DEPLOYMENTS
from cfchat.settings.table import SETTINGS


def test_help_and_version() -> None:
    assert re.fullmatch(r"cfchat \d+\.\d+\.\d+\n", run("--version").stdout)
    text = run("--help").stdout
    assert "--demo" in text and "CFCHAT_SYSTEM_PROMPT" in text and "CLOUDFLARE_API_TOKEN_FILE" in text
    assert all(f"\n  {name} " in text for name in ("serve", "check", "ask", "models"))


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_help_and_all_settings(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0 and f"cfchat {name}" in done.stdout
    assert [setting for setting in SETTINGS if f"  --{setting.flag}" not in done.stdout] == []


def test_a_flag_counts_before_and_after_the_command() -> None:
    for flags in (["--demo", "--port", "70000", "serve"], ["serve", "--demo", "--port", "70000"]):
        done = run(*flags)
        assert done.returncode == 2 and "--port" in done.stderr and len(done.stderr.splitlines()) == 1


def test_as_a_module() -> None:
    module = [sys.executable, "-m", "cfchat", "--version"]
    done = subprocess.run(module, env=environ(), cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout.startswith("cfchat ")


def test_without_credentials_both_ways_on_are_named() -> None:
    done = run()
    assert done.returncode == 2
    assert "CLOUDFLARE_ACCOUNT_ID" in done.stderr and "CLOUDFLARE_API_TOKEN" in done.stderr and "--demo" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flags", [["--bogus"], ["--port", "many"], ["--port"], ["--port", "70000"], ["bogus"]])
def test_wrong_flag_is_one_line_and_exit_2(flags: list[str]) -> None:
    done = run("--demo", *flags)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--prot", "8080"], "'8080' is no command; or is the flag before it misspelt?"),
        (["help"], "'help' is no command"),
        (["--prot=8080"], "did you mean --port?"),
        (["settings", "--max_tokens", "5"], "did you mean --max-tokens?"),
        (["ask", "--bogus"], "unrecognized arguments: --bogus (see"),
    ],
)
def test_a_wrong_flag_is_said_so_that_it_can_be_mended(flags: list[str], words: str) -> None:
    done = run(*flags)
    assert done.returncode == 2 and words in done.stderr


def test_the_names_of_deploy_are_those_that_it_knows() -> None:
    assert (*KINDS, PYZ) == DEPLOYMENTS
