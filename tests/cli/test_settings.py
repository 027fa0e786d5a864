"""`settings` as an operator runs it: each value and where it comes from, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import run
from house import ACCOUNT, TOKEN

from cfchat.settings.table import SETTINGS

SECRETS = {
    "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
    "CLOUDFLARE_API_TOKEN": TOKEN,
    "CF_AIG_TOKEN": "gateway-s3cret",
    "HTTPS_PROXY": "http://me:pa55word@proxy.example",
}


@pytest.fixture
def config(tmp_path: Path) -> str:
    """Return the path of a file of settings."""
    path = tmp_path / "cfchat.toml"
    text = 'rate-limit = "20/minute"\nmax-streams = 7\nuds-mode = "600"\ntrim = true\n'
    path.write_text(text + '[models."@cf/a/b"]\nlora = "x"\n')
    return str(path)


def test_each_setting_and_its_source_in_a_table(config: str) -> None:
    done = run(
        *("settings", "--config", config, "--port", "9", "--system-prompt", "a\nb\x1b[2J"),
        **SECRETS, CFCHAT_MAX_BODY="5", PORT="8",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["SETTING", "VALUE", "FROM"]
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}
    assert len(rows) == len(lines) == len(SETTINGS) + 6
    for name, *cells in (
        ("config", config, "flag", "--config"),
        ("rate-limit", "20/minute", "file", config),
        ("max-streams", "7", "file", config),
        ("port", "9", "flag", "--port"),
        ("max-body", "5", "environment", "CFCHAT_MAX_BODY"),
        ("trim", "on", "file", config),
    ):
        assert rows[name].split() == cells
    assert rows["no-page"].split() == ["off", "default"] and rows["daily-tokens"].split() == ["no", "limit", "default"]
    assert rows["model-options"].split(maxsplit=3)[:2] == ['{"@cf/a/b":', '{"lora":']
    assert rows["system-prompt"].startswith(r"a\nb\x1b[2J ")
    assert rows["CLOUDFLARE_API_TOKEN"].split() == ["***", "environment", "CLOUDFLARE_API_TOKEN"]
    assert not [secret for secret in (ACCOUNT, TOKEN, "s3cret", "pa55word") if secret in done.stdout]


def test_each_setting_and_its_source_as_json(config: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    done = run("settings", "--json", "--demo", CFCHAT_CONFIG=config, CLOUDFLARE_API_TOKEN_FILE=str(tmp_path / "token"))
    rows = {row.pop("name"): row for row in json.loads(done.stdout)}
    assert rows["max-streams"] == {"value": 7, "source": "file", "place": config}
    assert rows["config"] == {"value": config, "source": "environment", "place": "CFCHAT_CONFIG"}
    assert rows["keep-alive"] == {"value": 75.0, "source": "default", "place": None}
    assert [rows[name]["value"] for name in ("trim", "no-page", "uds-mode", "uds")] == [True, False, "600", None]
    named = {"value": "***", "source": "environment", "place": "CLOUDFLARE_API_TOKEN_FILE"}
    assert rows["CLOUDFLARE_API_TOKEN"] == named and TOKEN not in done.stdout


def test_settings_that_are_wrong_are_told_and_an_account_may_be_missing(config: str) -> None:
    assert run("settings").returncode == 0
    Path(config).write_text("port = 1\nhots = 1\napi-token = 's3cret'\n")
    done = run("settings", "--config", config, "--max-body", "0", CLOUDFLARE_API_TOKEN="to ken")
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "") and "s3cret" not in done.stderr
    for word, line in zip(("hots", "api-token", "--max-body", "CLOUDFLARE_API_TOKEN"), lines, strict=False):
        assert word in line


def test_the_level_of_the_log_may_come_from_the_file(config: str) -> None:
    Path(config).write_text('log-level = "debug"\n')
    assert "INFO demo: " in run("ask", "--demo", "--config", config, "bye").stderr
