"""Config: from flags, environment and secret files; says all that is wrong at once."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from cfchat import app, server
from cfchat.errors import ConfigError
from cfchat.upstream import client, cloudflare
from cfchat.upstream.connection import Origin
from cfchat.upstream.secret import Secret
from cfchat.wire.http11 import ReadLimits

BASE_URL = "https://api.cloudflare.com/client/v4"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, checked, each room's own part apart. `upstream` is None for the demo, which has its own."""

    host: str = "127.0.0.1"
    port: int = 8787
    upstream: client.Settings | None = None
    app: app.Settings = field(default_factory=app.Settings)
    server: server.Limits = field(default_factory=server.Limits)
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class Setting:
    """One flag, and the environment variable of the same name; `parse` raises ValueError with the reason."""

    flag: str
    metavar: str
    default: object
    parse: Callable[[str], object]
    help: str
    also: str = ""  # a second environment variable, read behind the first
    file: bool = False  # NAME_FILE in the environment may hold the path of a file with the value

    @property
    def name(self) -> str:
        return self.flag.replace("-", "_")

    @property
    def variable(self) -> str:
        return "CFCHAT_" + self.name.upper()


def _port(text: str) -> int:
    return _whole(text, 0, 65535)


def _count(text: str) -> int:
    return _whole(text, 1, 10**9)


def _whole(text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= high:
        raise ValueError(f"must be a whole number from {low} to {high}")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text):
        raise ValueError("must be a number of seconds, such as 30 or 2.5")
    return float(text)


def _model(text: str) -> str:
    if not cloudflare.is_model_name(text):
        raise ValueError(f"must be a Workers AI model name such as {cloudflare.DEFAULT_MODEL}")
    return text


def _origin(text: str) -> Origin:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("must be a URL") from None
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ValueError("must be a URL such as " + BASE_URL)
    if url.username or url.password:
        raise ValueError("must not hold a user or password")
    if not re.fullmatch(r"[!-~]*", text):
        raise ValueError("must be plain ASCII without blanks")
    if url.scheme == "http" and url.hostname not in LOOPBACK:
        raise ValueError("must be https: over plain http the token could be read on the way")
    tls = url.scheme == "https"
    return Origin(url.hostname, port or (443 if tls else 80), tls, url.path.rstrip("/"))


def _level(text: str) -> str:
    if text not in LEVELS:
        raise ValueError("must be one of " + ", ".join(LEVELS))
    return text


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


_SERVER = server.Limits()
_APP = app.Settings()
_WAITS = client.Deadlines()

SETTINGS = (
    Setting("host", "ADDRESS", "127.0.0.1", _text, "address to listen on; 0.0.0.0 for every one"),
    Setting("port", "N", 8787, _port, "port to listen on; 0 takes a free one", also="PORT"),
    Setting("model", "NAME", cloudflare.DEFAULT_MODEL, _model, "model to ask"),
    Setting("system-prompt", "TEXT", _APP.system_prompt, _text, "system message put first", file=True),
    Setting("max-tokens", "N", 2048, _count, "longest reply, in tokens"),
    Setting("base-url", "URL", BASE_URL, _origin, "where Cloudflare's API is; plain http only to loopback"),
    Setting("connect-timeout", "S", _WAITS.connect, _seconds, "seconds until connected to the model's server"),
    Setting("first-token-timeout", "S", _WAITS.first_delta, _seconds, "seconds until the model's first words"),
    Setting("idle-timeout", "S", _WAITS.between_deltas, _seconds, "seconds between two pieces of a reply"),
    Setting("drain-timeout", "S", _SERVER.drain, _seconds, "seconds that replies may go on after Ctrl-C or SIGTERM"),
    Setting("max-body", "BYTES", _APP.max_body, _count, "largest request body"),
    Setting("max-messages", "N", _APP.max_messages, _count, "most messages in a conversation"),
    Setting("max-streams", "N", _APP.max_streams, _count, "most replies at once"),
    Setting("max-connections", "N", _SERVER.connections, _count, "most client connections at once"),
    Setting("log-level", "LEVEL", "info", _level, "least serious log lines to print: " + ", ".join(LEVELS)),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag a setting, its default and environment variable named in its help."""
    for setting in SETTINGS:
        variables = " ".join(filter(None, (setting.variable, setting.also)))
        parser.add_argument(
            "--" + setting.flag,
            metavar=setting.metavar,
            help=f"{setting.help} (default: {setting.default}) [{variables}]".replace("%", "%%"),
        )


def load(flags: Mapping[str, str | None], environ: Mapping[str, str], *, demo: bool = False) -> Config:
    """The Config of flags (by name with underscores; None: not given) and environment; flags win.

    Raises ConfigError, a line for every setting that is missing or wrong.
    """
    faults: list[str] = []
    values = {setting.name: _value(setting, flags.get(setting.name), environ, faults) for setting in SETTINGS}
    account = token = ""
    if not demo:
        account, token = _credentials(environ, faults)
        faults += _check_ca(environ)
    if faults:
        raise ConfigError("\n".join(faults))
    return _build(values, None if demo else (account, Secret(token)))


def _value(setting: Setting, flag: str | None, environ: Mapping[str, str], faults: list[str]) -> object:
    source, text = "--" + setting.flag, flag
    if text is None:
        source, text = _from_environment(setting, environ, faults)
    if text is None:
        text = str(setting.default)
    try:
        return setting.parse(text)
    except ValueError as error:
        faults.append(f"{source} {error}")
        return None


def _from_environment(
    setting: Setting, environ: Mapping[str, str], faults: list[str]
) -> tuple[str, str | None]:
    for variable in filter(None, (setting.variable, setting.also)):
        if environ.get(variable):
            return variable, environ[variable]
    if setting.file:
        return setting.variable + "_FILE", _from_file(setting.variable + "_FILE", environ, faults)
    return setting.variable, None


def _from_file(variable: str, environ: Mapping[str, str], faults: list[str]) -> str | None:
    path = environ.get(variable)
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        faults.append(f"{variable}: cannot read {path}: {reason}")
        return None


def _credentials(environ: Mapping[str, str], faults: list[str]) -> tuple[str, str]:
    account = environ.get("CLOUDFLARE_ACCOUNT_ID", "").strip()
    token = environ.get("CLOUDFLARE_API_TOKEN", "").rstrip("\r\n")
    before = len(faults)
    token = token or _from_file("CLOUDFLARE_API_TOKEN_FILE", environ, faults) or ""
    if not account:
        faults.append("CLOUDFLARE_ACCOUNT_ID is not set (the 32 hex digits in your dashboard's address)")
    elif not cloudflare.is_account_id(account):
        faults.append("CLOUDFLARE_ACCOUNT_ID must be 32 hex digits; Cloudflare would answer 7003")
    if not token:
        if len(faults) == before or not faults[-1].startswith("CLOUDFLARE_API_TOKEN_FILE"):
            faults.append("CLOUDFLARE_API_TOKEN is not set (nor CLOUDFLARE_API_TOKEN_FILE)")
    elif not cloudflare.is_token(token):
        faults.append(
            "CLOUDFLARE_API_TOKEN holds a blank, a quote, a line break or another character that no token has; "
            "Cloudflare would answer 6003"
        )
    return account, token


def _check_ca(environ: Mapping[str, str]) -> list[str]:
    # OpenSSL passes over a file that is not there, and then trusts nobody: say so here.
    path = environ.get("SSL_CERT_FILE")
    return [f"SSL_CERT_FILE: there is no file {path}"] if path and not os.path.isfile(path) else []


def _build(values: Mapping[str, Any], credentials: tuple[str, Secret] | None) -> Config:
    v = SimpleNamespace(**values)
    deadlines = client.Deadlines(v.connect_timeout, v.first_token_timeout, v.idle_timeout)
    upstream = None
    if credentials:
        upstream = client.Settings(v.base_url, *credentials, v.model, v.max_tokens, deadlines)
    return Config(
        host=v.host,
        port=v.port,
        upstream=upstream,
        app=app.Settings(v.system_prompt, v.max_body, v.max_messages, v.max_streams),
        server=server.Limits(
            read=ReadLimits(body=v.max_body), connections=v.max_connections, drain=v.drain_timeout
        ),
        log_level=v.log_level,
    )
