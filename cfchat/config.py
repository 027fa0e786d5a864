"""Config: from flags, environment and secret files; says all that is wrong at once."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cfchat import app, guard, observe, server
from cfchat.conversation import DROP, MERGE, REJECT, Options
from cfchat.errors import ConfigError
from cfchat.guard import Network
from cfchat.listen import Where
from cfchat.upstream import client, cloudflare, pool
from cfchat.upstream.answer import Deadlines
from cfchat.upstream.api import Gateway
from cfchat.upstream.connection import Origin
from cfchat.upstream.proxy import Proxy, parse_proxy, proxy_for
from cfchat.upstream.secret import Secret
from cfchat.wire.http11 import ReadLimits

BASE_URL = "https://api.cloudflare.com/client/v4"
GATEWAY_HOST = "gateway.ai.cloudflare.com"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, checked, each room's own part apart. `upstream` is None for the demo, which has its own.

    `load_config` makes one.

    >>> import cfchat
    >>> cfchat.load_config(demo=True, port=0, max_messages=20).app.max_messages
    20
    """

    where: Where = field(default_factory=Where)
    workers: int = 0
    upstream: client.Settings | None = None
    app: app.Settings = field(default_factory=app.Settings)
    guard: guard.Settings = field(default_factory=guard.Settings)
    keys_file: str | None = None
    trusted_proxies: tuple[Network, ...] = ()
    server: server.Limits = field(default_factory=server.Limits)
    page: bool = True
    admin: tuple[str, int] | None = None
    log_level: str = "info"
    log_format: str = observe.TEXT


class Setting(NamedTuple):
    """One flag, and the environment variable of the same name; `parse` raises ValueError with the reason."""

    flag: str
    metavar: str
    default: object
    parse: Callable[[str], object]
    help: str
    also: str = ""  # a second environment variable, read behind the first
    repeat: bool = False  # the flag may be given several times; its values are joined by commas
    file: bool = False  # NAME_FILE in the environment may hold the path of a file with the value
    unset: str = ""  # what holds where there is no default
    path: bool = False  # the value is the path of a file

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


def _workers(text: str) -> int:
    return _whole(text, 0, 256)


def _mode(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError("must be three octal digits such as 660")
    return int(text, 8)


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


def _models(text: str) -> tuple[str, ...]:
    """`none` is a list, too."""
    if text == "none":
        return ()
    return tuple(dict.fromkeys(_model(name.strip()) for name in text.split(",")))


def _aliases(text: str) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for item in text.split(","):
        alias, _, model = item.strip().partition("=")
        if not re.fullmatch(r"[A-Za-z0-9@._:/-]{1,128}", alias):
            raise ValueError("must be such as gpt-4o-mini=" + cloudflare.FALLBACK_MODELS[-1])
        aliases[alias] = _model(model)
    return aliases


def _zero_or_more(text: str) -> int:
    return _whole(text, 0, 10**9)


def _warm(text: str) -> int:
    return _whole(text, 0, pool.Settings().idle)


def _switch(text: str) -> bool:
    if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise ValueError("must be 1 or 0")
    return text.lower() in ("1", "true", "yes", "on")


def _number(name: str) -> Callable[[str], float]:
    """A reader of one option of a reply, within the range that Cloudflare documents."""

    def parse(text: str) -> float:
        low, high = cloudflare.ranges(None)[name]
        whole = name in ("top_k", "seed")
        pattern = r"[0-9]{1,10}" if whole else r"-?[0-9]{1,4}(\.[0-9]{1,6})?"
        if not re.fullmatch(pattern, text) or not low <= float(text) <= high:
            raise ValueError(f"must be a {'whole ' if whole else ''}number from {low:g} to {high:g}")
        return int(text) if whole else float(text)

    return parse


def _caps(text: str) -> dict[str, float]:
    caps: dict[str, float] = {}
    for item in text.split(","):
        name, _, number = item.strip().partition("=")
        if name not in _OPTIONS:
            raise ValueError("must be such as max_tokens=4096,temperature=1.5; the names are " + ", ".join(_OPTIONS))
        if not re.fullmatch(r"-?[0-9]{1,10}(\.[0-9]{1,6})?", number):
            raise ValueError(f"must have a number behind {name}=")
        caps[name] = float(number)
    return caps


def _gateway(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError("must be the id of an AI Gateway: letters, digits, - and _")
    return text


def _read_text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _model_fields(path: str) -> dict[str, dict[str, object]]:
    """A TOML file: a table for each model, its keys further fields of the request body."""
    import tomllib  # rarely needed

    try:
        tables = tomllib.loads(_read_text(path))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    for model, fields in tables.items():
        _model_name_in_file(model, fields)
    return tables


def _model_name_in_file(model: str, fields: object) -> None:
    if not cloudflare.is_model_name(model) or not isinstance(fields, dict):
        raise ValueError(f'takes a table for each model, such as ["{cloudflare.DEFAULT_MODEL}"]; not so: {model}')
    for name, value in fields.items():
        if name in ("messages", "stream", "model", "prompt"):
            raise ValueError(f"cannot set {name} of {model}: it is cfchat's own")
        if not _is_json(value):
            raise ValueError(f"cannot send {name} of {model}: JSON has no dates and no infinite numbers")


def _is_json(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_json, value.values()))
    if isinstance(value, list):
        return all(map(_is_json, value))
    return isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value))


_ORIGIN = r"[a-z][a-z0-9+.-]*://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?"


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(dict.fromkeys(origin.strip() for origin in text.split(",")))
    if not all(origin == "*" or re.fullmatch(_ORIGIN, origin) for origin in origins):
        raise ValueError("must be * or origins such as https://example.com: lower case, and nothing behind the host")
    return origins


def read_keys(path: str) -> guard.Keys:
    """The keys in a file. Raises ValueError with the reason."""
    try:
        return guard.parse_keys(_read_text(path))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _keys_file(path: str) -> tuple[str, guard.Keys]:
    return path, read_keys(path)


_PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


def _rate(text: str) -> guard.Rate:
    match = re.fullmatch(r"([0-9]{1,6})/(second|minute|hour|day)", text)
    if match is None or not int(match[1]):
        raise ValueError("must be such as 20/minute; the words are second, minute, hour, day")
    return guard.Rate(int(match[1]), _PERIODS[match[2]])


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(item.strip()) for item in text.split(","))
    except ValueError:
        raise ValueError("must be addresses or networks such as 127.0.0.1,10.0.0.0/8,::1") from None


def _client_system(text: str) -> str:
    if text not in (MERGE, DROP, REJECT):
        raise ValueError("must be merge, drop or reject")
    return text


def _level(text: str) -> str:
    if text not in LEVELS:
        raise ValueError("must be one of " + ", ".join(LEVELS))
    return text


def _log_format(text: str) -> str:
    if text not in (observe.TEXT, observe.JSON):
        raise ValueError("must be text or json")
    return text


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"\[[0-9A-Fa-f:.%]+\]|[^:\[\]\s]+", host):
        raise ValueError("must be an address and a port, such as 127.0.0.1:9090 or [::1]:9090")
    return host.strip("[]"), _port(port)


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


_SERVER = server.Limits()
_APP = app.Settings()
_WAITS = Deadlines()
_OPTIONS = ("max_tokens", "temperature", "top_p", "top_k", "seed",
            "repetition_penalty", "frequency_penalty", "presence_penalty")  # fmt: skip
_FALLBACKS = f"with the default model {','.join(cloudflare.FALLBACK_MODELS)}, else none"
_OWN = "the model's own"
_CAPS = "max_tokens=4096, or what --max-tokens is where that is more"

SETTINGS = (
    Setting("host", "ADDRESS", "127.0.0.1", _text, "address to listen on; 0.0.0.0 for every one"),
    Setting("port", "N", 8787, _port, "port to listen on; 0 takes a free one", also="PORT"),
    Setting("uds", "PATH", None, _text, "unix socket to listen on, instead", unset="none"),
    Setting("uds-mode", "MODE", "660", _mode, "its permissions, octal: who may connect"),
    Setting("tls-cert", "FILE", None, _text, "certificate chain, PEM: serve HTTPS", unset="plain HTTP", path=True),
    Setting("tls-key", "FILE", None, _text, "its key, PEM", unset="in the same file", path=True),
    Setting("workers", "N", 0, _workers, "processes that share the work; 0 for this one alone"),
    Setting("model", "NAME", cloudflare.DEFAULT_MODEL, _model, "model to ask"),
    Setting("fallback-models", "NAMES", None, _models, "who is asked when it fails: a,b or none", unset=_FALLBACKS),
    Setting("models", "NAMES", None, _models, "what a client may name as `model`", unset="the model and its fallbacks"),
    Setting("alias", "ALIAS=NAME", None, _aliases, "another name for a model", repeat=True, unset="none"),
    Setting("model-options", "FILE", None, _model_fields, "TOML: body fields for each model", unset="none", path=True),
    Setting("system-prompt", "TEXT", _APP.system_prompt, _text, "system message put first", file=True),
    Setting("max-tokens", "N", 2048, _count, "longest reply, in tokens"),
    Setting("temperature", "X", None, _number("temperature"), "where a client names none", unset=_OWN),
    Setting("top-p", "X", None, _number("top_p"), "where a client names none", unset=_OWN),
    Setting("top-k", "N", None, _number("top_k"), "where a client names none", unset=_OWN),
    Setting("seed", "N", None, _number("seed"), "where a client names none", unset=_OWN),
    Setting("repetition-penalty", "X", None, _number("repetition_penalty"), "where a client names none", unset=_OWN),
    Setting("frequency-penalty", "X", None, _number("frequency_penalty"), "where a client names none", unset=_OWN),
    Setting("presence-penalty", "X", None, _number("presence_penalty"), "where a client names none", unset=_OWN),
    Setting("caps", "NAME=N,...", None, _caps, "most that a client may ask for, by option", unset=_CAPS),
    Setting("trim", "", False, _switch, "leave out the oldest turns of a conversation that does not fit the model"),
    Setting("context-window", "TOKENS", None, _count, "the models' window, for --trim", unset="as documented"),
    Setting("base-url", "URL", BASE_URL, _origin, "where Cloudflare's API is; plain http only to loopback"),
    Setting("gateway", "ID", None, _gateway, "go through this AI Gateway", unset="none"),
    Setting("gateway-cache", "S", 0, _zero_or_more, "seconds that the gateway may keep a reply; 0 for never"),
    Setting("warm", "N", 1, _warm, "connections to Cloudflare kept ready"),
    Setting("connect-timeout", "S", _WAITS.connect, _seconds, "seconds until connected to the model's server"),
    Setting("first-token-timeout", "S", _WAITS.first_delta, _seconds, "seconds until the model's first words"),
    Setting("idle-timeout", "S", _WAITS.between_deltas, _seconds, "seconds between two pieces of a reply"),
    Setting("reply-timeout", "S", _WAITS.whole_reply, _seconds, "seconds for a whole reply; 0 for no such limit"),
    Setting("allow-origin", "ORIGINS", "*", _origins, "whose pages may ask, such as https://example.com", repeat=True),
    Setting("api-keys-file", "FILE", None, _keys_file, "keys that open this, each LABEL KEY", unset="none", path=True),
    Setting("rate-limit", "N/PERIOD", None, _rate, "requests of one key or address: 20/minute", unset="none"),
    Setting("daily-tokens", "N", None, _count, "tokens a day (UTC), all clients together", unset="no limit"),
    Setting("daily-tokens-each", "N", None, _count, "tokens a day of one key or address", unset="no limit"),
    Setting("trusted-proxies", "NETWORKS", None, _networks, "whose X-Forwarded-For is believed", unset="nobody's"),
    Setting("client-system", "WHAT", MERGE, _client_system, "clients' system messages: merge, drop, reject"),
    Setting("drain-timeout", "S", _SERVER.drain, _seconds, "seconds that replies may go on after Ctrl-C or SIGTERM"),
    Setting("max-body", "BYTES", _APP.max_body, _count, "largest request body"),
    Setting("max-messages", "N", _APP.max_messages, _count, "most messages in a conversation"),
    Setting("max-streams", "N", _APP.max_streams, _count, "most replies at once"),
    Setting("max-queue", "N", _APP.max_queue, _zero_or_more, "conversations that may wait for one of these"),
    Setting("queue-timeout", "S", _APP.queue_timeout, _seconds, "seconds that they may wait"),
    Setting("max-connections", "N", _SERVER.connections, _count, "most client connections at once"),
    Setting("max-connections-each", "N", _SERVER.connections_each, _count, "most of them from one address"),
    Setting("no-page", "", False, _switch, "no chat page at /, and no /cfchat.js"),
    Setting("admin", "HOST:PORT", None, _address, "where /healthz, /readyz, /metrics are served, too", unset="nowhere"),
    Setting("log-format", "FORM", observe.TEXT, _log_format, "form of log lines: text, or json, one object a line"),
    Setting("log-level", "LEVEL", "info", _level, "least serious log lines to print: " + ", ".join(LEVELS)),
)


_NAMED = {setting.name: setting for setting in SETTINGS}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag a setting, its default and environment variable named in its help."""
    for setting in SETTINGS:
        variables = " ".join(filter(None, (setting.variable, setting.also)))
        default = setting.unset or ("off" if setting.default is False else setting.default)
        told = f"{setting.help} (default: {default}) [{variables}]".replace("%", "%%")
        if setting.metavar:
            action = "append" if setting.repeat else "store"
            parser.add_argument("--" + setting.flag, metavar=setting.metavar, action=action, help=told)
        else:
            parser.add_argument("--" + setting.flag, action="store_const", const="1", help=told)


def load_config(
    *,
    account_id: str = "",
    api_token: str = "",
    demo: bool = False,
    environ: Mapping[str, str] = os.environ,
    **settings: object,
) -> Config:
    """The Config of a program that embeds cfchat: settings by keyword, and the environment for all the others.

    The keywords are the names of the flags, with underscores: text, numbers and truth values, lists for flags that
    take several, mappings for those of `NAME=VALUE`; None is as if it were not there. Account and token may be given
    too. With `environ={}` the environment counts for nothing. With `demo` a stand-in model on this machine answers.
    Raises ConfigError, a line for every setting that is missing, wrong or unknown.

    >>> import cfchat
    >>> config = cfchat.load_config(account_id="0123456789abcdef" * 2, api_token="...", port=0,
    ...                             rate_limit="20/minute", allow_origin=["https://example.com"])
    >>> config.upstream.token
    ***
    >>> cfchat.load_config(demo=True, port="many", tempo=3)
    Traceback (most recent call last):
    cfchat.errors.ConfigError: there is no setting tempo
    port must be a whole number from 0 to 65535
    """
    given = {"CLOUDFLARE_ACCOUNT_ID": account_id, "CLOUDFLARE_API_TOKEN": api_token}
    environ = {**environ, **{name: value for name, value in given.items() if value}}
    flags = {name: _as_text(value) for name, value in settings.items() if value is not None}
    known = {setting.name for setting in SETTINGS}
    unknown = [f"there is no setting {name}" for name in flags if name not in known]
    return load(flags, environ, demo=demo, spell=attrgetter("name"), faults=unknown)


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, Mapping):
        value = [f"{name}={item}" for name, item in value.items()]
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "none"
    return str(value)


def load(
    flags: Mapping[str, str | list[str] | None],
    environ: Mapping[str, str],
    *,
    demo: bool = False,
    spell: Callable[[Setting], str] = lambda setting: "--" + setting.flag,
    faults: Sequence[str] = (),
) -> Config:
    """The Config of flags (by name with underscores; None: not given) and environment; flags win.

    Raises ConfigError, a line for every setting that is missing or wrong, which `spell` names, behind the `faults`
    that are known already.
    """
    faults = list(faults)
    values = {setting.name: _value(setting, spell, flags.get(setting.name), environ, faults) for setting in SETTINGS}
    if demo:
        account, token, gateway_token, proxy = "", "", "", None
    else:
        account, token = _credentials(environ, faults)
        gateway_token = _gateway_token(environ, faults)
        proxy = _proxy(values["base_url"], environ, faults)
        faults += _check_ca(environ)
        faults += _check_gateway(values)
    if values["tls_key"] and not values["tls_cert"]:
        faults.append("--tls-cert must name the certificate of --tls-key")
    if faults:
        raise ConfigError("\n".join(faults))
    values["proxy"] = proxy
    values["gateway_token"] = Secret(gateway_token) if gateway_token else None
    return _build(values, None if demo else (account, Secret(token)))


def given(
    flags: Mapping[str, str | list[str] | None], environ: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """What was set, by environment variable, for another process to be told: the settings, and the paths of files.

    No secret is among them, but the file of each that is needed, of a usual name where it has none.
    """
    settings, paths = {"CLOUDFLARE_ACCOUNT_ID": environ.get("CLOUDFLARE_ACCOUNT_ID", "YOUR-ACCOUNT-ID")}, {}
    paths["CLOUDFLARE_API_TOKEN_FILE"] = environ.get("CLOUDFLARE_API_TOKEN_FILE", "/etc/cfchat/cloudflare-api-token")
    if environ.get("CF_AIG_TOKEN") or environ.get("CF_AIG_TOKEN_FILE"):
        paths["CF_AIG_TOKEN_FILE"] = environ.get("CF_AIG_TOKEN_FILE", "/etc/cfchat/cf-aig-token")
    if environ.get("SSL_CERT_FILE"):
        paths["SSL_CERT_FILE"] = environ["SSL_CERT_FILE"]
    for setting in SETTINGS:
        flag = flags.get(setting.name)
        text = ",".join(flag) if isinstance(flag, list) else flag
        found = (environ[name] for name in (setting.variable, setting.also) if environ.get(name))
        text = next(found, None) if text is None else text
        if text is not None:
            (paths if setting.path else settings)[setting.variable] = text
        elif setting.file and environ.get(setting.variable + "_FILE"):
            paths[setting.variable + "_FILE"] = environ[setting.variable + "_FILE"]
    return settings, paths


def _value(
    setting: Setting,
    spell: Callable[[Setting], str],
    flag: str | list[str] | None,
    environ: Mapping[str, str],
    faults: list[str],
) -> object:
    source, text = spell(setting), ",".join(flag) if isinstance(flag, list) else flag
    if text is None:
        source, text = _from_environment(setting, environ, faults)
    if text is None:
        if setting.default is None:
            return None
        text = "0" if setting.default is False else str(setting.default)
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
        return _read_text(path).rstrip("\r\n")
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


def _gateway_token(environ: Mapping[str, str], faults: list[str]) -> str:
    token = environ.get("CF_AIG_TOKEN", "").rstrip("\r\n") or _from_file("CF_AIG_TOKEN_FILE", environ, faults) or ""
    if token and not cloudflare.is_token(token):
        faults.append("CF_AIG_TOKEN holds a blank, a quote, a line break or another character that no token has")
    return token


def _proxy(origin: object, environ: Mapping[str, str], faults: list[str]) -> Proxy | None:
    if not isinstance(origin, Origin) or not origin.tls:
        return None
    url = proxy_for(origin.host, origin.port, environ)
    try:
        return parse_proxy(url) if url else None
    except ValueError as error:
        faults.append(f"HTTPS_PROXY {error}")
        return None


def _check_gateway(values: Mapping[str, Any]) -> list[str]:
    """AI Gateway's own host wants to be told which gateway, and by --gateway, not in the URL."""
    origin = values["base_url"]
    if not isinstance(origin, Origin) or origin.host != GATEWAY_HOST:
        return []
    faults = [] if origin.base_path == "/v1" else [f"--base-url must be https://{GATEWAY_HOST}/v1 for AI Gateway"]
    if not values["gateway"]:
        faults.append(f"--gateway must name the gateway where --base-url is {GATEWAY_HOST}")
    return faults


def _check_ca(environ: Mapping[str, str]) -> list[str]:
    # OpenSSL passes over a file that is not there, and then trusts nobody: say so here.
    path = environ.get("SSL_CERT_FILE")
    return [f"SSL_CERT_FILE: there is no file {path}"] if path and not os.path.isfile(path) else []


def _build(values: Mapping[str, Any], credentials: tuple[str, Secret] | None) -> Config:
    v = SimpleNamespace(**values)
    models = _chain(v.model, v.fallback_models)
    aliases = v.alias or {}
    offered = models if v.models is None else v.models
    caps = {"max_tokens": max(_APP.caps["max_tokens"], v.max_tokens), **(v.caps or {})}
    upstream = None
    if credentials:
        upstream = client.Settings(
            v.base_url,
            *credentials,
            models=models,
            max_tokens=v.max_tokens,
            deadlines=Deadlines(v.connect_timeout, v.first_token_timeout, v.idle_timeout, v.reply_timeout),
            defaults=Options(**{name: values[name] for name in _OPTIONS if name != "max_tokens"}),
            fields=_merged(v.model_options or {}),
            gateway=Gateway(v.gateway, v.gateway_token, v.gateway_cache) if v.gateway else None,
            proxy=v.proxy,
            warm=v.warm,
            trim=v.trim,
            window=v.context_window,
        )
    return Config(
        where=Where(v.host, v.port, v.uds, v.uds_mode, v.tls_cert, v.tls_key),
        workers=v.workers,
        upstream=upstream,
        app=app.Settings(
            system_prompt=v.system_prompt,
            max_body=v.max_body,
            max_messages=v.max_messages,
            max_streams=v.max_streams,
            max_queue=v.max_queue,
            queue_timeout=v.queue_timeout,
            client_system=v.client_system,
            model=v.model,
            models=tuple(dict.fromkeys((*offered, *aliases.values()))),
            aliases=aliases,
            caps=caps,
        ),
        guard=guard.Settings(
            origins=guard.Origins(v.allow_origin),
            keys=v.api_keys_file[1] if v.api_keys_file else None,
            rate=v.rate_limit,
            daily_tokens=v.daily_tokens,
            daily_tokens_each=v.daily_tokens_each,
        ),
        keys_file=v.api_keys_file[0] if v.api_keys_file else None,
        trusted_proxies=v.trusted_proxies or (),
        server=server.Limits(
            read=ReadLimits(body=v.max_body),
            connections=v.max_connections,
            connections_each=v.max_connections_each,
            drain=v.drain_timeout,
        ),
        page=not v.no_page,
        admin=v.admin,
        log_level=v.log_level,
        log_format=v.log_format,
    )


def _chain(model: str, fallbacks: tuple[str, ...] | None) -> tuple[str, ...]:
    """The model, then its fallbacks: by default only where the model itself is ours."""
    if fallbacks is None:
        fallbacks = cloudflare.FALLBACK_MODELS if model == cloudflare.DEFAULT_MODEL else ()
    return tuple(dict.fromkeys((model, *fallbacks)))


def _merged(own: Mapping[str, Mapping[str, object]]) -> dict[str, Mapping[str, object]]:
    """The built-in body fields of each model, and the operator's over them."""
    known = cloudflare.MODEL_FIELDS
    return {model: {**known.get(model, {}), **own.get(model, {})} for model in (*known, *own)}
