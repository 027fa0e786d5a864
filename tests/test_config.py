"""Settings from flags, environment and files, and all that is wrong with them at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfchat.config import SETTINGS, load
from cfchat.errors import ConfigError

ACCOUNT = "0123456789abcdef0123456789abcdef"
ENVIRON = {"CLOUDFLARE_ACCOUNT_ID": ACCOUNT, "CLOUDFLARE_API_TOKEN": "abc-DEF_123"}


def faults(flags: dict[str, str | None], environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(flags, environ)
    return caught.value.message.split("\n")


def test_defaults() -> None:
    config = load({}, ENVIRON)
    assert (config.host, config.port, config.server.drain) == ("127.0.0.1", 8787, 30.0)
    assert config.upstream is not None
    assert (config.upstream.account, config.upstream.token.reveal()) == (ACCOUNT, "abc-DEF_123")
    assert (config.upstream.origin.authority, config.upstream.origin.base_path) == (
        "api.cloudflare.com",
        "/client/v4",
    )


def test_flag_wins_over_environment_and_own_name_over_port() -> None:
    environ = {**ENVIRON, "PORT": "1", "CFCHAT_PORT": "2"}
    assert load({"port": "3"}, environ).port == 3
    assert load({}, environ).port == 2
    assert load({}, {**ENVIRON, "PORT": "1"}).port == 1


def test_secret_and_prompt_from_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    (tmp_path / "prompt").write_text("Be brief.\nBe kind.\n")
    environ = {
        "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
        "CLOUDFLARE_API_TOKEN_FILE": str(tmp_path / "token"),
        "CFCHAT_SYSTEM_PROMPT_FILE": str(tmp_path / "prompt"),
    }
    config = load({}, environ)
    assert config.upstream is not None
    assert config.upstream.token.reveal() == "from-file"
    assert config.app.system_prompt == "Be brief.\nBe kind."


def test_no_repr_shows_the_token() -> None:
    assert "abc-DEF_123" not in repr(load({}, ENVIRON))


def test_all_that_is_wrong_is_said_at_once() -> None:
    said = faults(
        {"port": "99999", "model": "../../evil"},
        {"CLOUDFLARE_ACCOUNT_ID": "your-account-id", "CLOUDFLARE_API_TOKEN": 'a"b', "CFCHAT_MAX_TOKENS": "many"},
    )
    for name in ("--port", "--model", "CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_API_TOKEN", "CFCHAT_MAX_TOKENS"):
        assert sum(line.startswith(name) for line in said) == 1
    assert not any('a"b' in line for line in said)


def test_missing_credentials_are_both_named() -> None:
    assert [line.split()[0] for line in faults({}, {})] == ["CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_API_TOKEN"]


@pytest.mark.parametrize("token", ["xy zt", "xy\nzt", "'xyzt'", "\u00fcber", "xy\tzt"])
def test_token_of_impossible_form(token: str) -> None:
    (line,) = faults({}, {**ENVIRON, "CLOUDFLARE_API_TOKEN": token})
    assert "6003" in line and token not in line


@pytest.mark.parametrize("variable", ["CLOUDFLARE_API_TOKEN_FILE", "CFCHAT_SYSTEM_PROMPT_FILE", "SSL_CERT_FILE"])
def test_file_that_is_not_there(variable: str) -> None:
    environ = {**ENVIRON, variable: "/no/such/file"}
    if variable == "CLOUDFLARE_API_TOKEN_FILE":
        del environ["CLOUDFLARE_API_TOKEN"]
    (line,) = faults({}, environ)
    assert line.startswith(variable) and "/no/such/file" in line


@pytest.mark.parametrize(
    "url",
    ["http://api.example", "ftp://x", "https://", "https://u:p@x/", "https://x:99999/", "https://x/?q", "https://x/ y"],
)
def test_base_url_that_is_refused(url: str) -> None:
    (line,) = faults({"base_url": url}, ENVIRON)
    assert line.startswith("--base-url must")


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://127.0.0.1:9/v4/", "127.0.0.1:9"),
        ("http://[::1]:9", "[::1]:9"),
        ("https://gateway.example:443", "gateway.example"),
    ],
)
def test_base_url_that_is_taken(url: str, authority: str) -> None:
    config = load({"base_url": url}, ENVIRON)
    assert config.upstream is not None
    assert config.upstream.origin.authority == authority


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_readme_names_each_setting(setting: object) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    assert f"`--{setting.flag}` | `{setting.variable}`" in readme  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("flag", "value"),
    [("log_level", "loud"), ("connect_timeout", "soon"), ("host", " "), ("max_streams", "0"), ("max_body", "1e6")],
)
def test_values_that_make_no_sense(flag: str, value: str) -> None:
    (line,) = faults({flag: value}, ENVIRON)
    assert line.startswith("--" + flag.replace("_", "-"))


def test_demo_needs_no_account() -> None:
    assert load({}, {}, demo=True).upstream is None
