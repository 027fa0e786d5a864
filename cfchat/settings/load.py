"""Config: from flags, environment and secret files; says all that is wrong at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

from cfchat.app import routes as app
from cfchat.conversation.model import Options
from cfchat.errors import ConfigError
from cfchat.guard import guard
from cfchat.guard.cors import Origins
from cfchat.net.listen import Where
from cfchat.secret import Secret
from cfchat.server.request import Limits
from cfchat.settings.config import Config
from cfchat.settings.table import _APP, SETTINGS, Setting
from cfchat.settings.values import OPTIONS, read_text
from cfchat.upstream import client
from cfchat.upstream.answer import Deadlines
from cfchat.upstream.cloudflare.account import Gateway, is_account_id, is_token
from cfchat.upstream.cloudflare.models import DEFAULT_MODEL, FALLBACK_MODELS, MODEL_FIELDS
from cfchat.upstream.origin import Origin
from cfchat.upstream.proxy import Proxy, parse_proxy, proxy_for
from cfchat.wire.messages import ReadLimits

GATEWAY_HOST = "gateway.ai.cloudflare.com"


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
        return read_text(path).rstrip("\r\n")
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
    elif not is_account_id(account):
        faults.append("CLOUDFLARE_ACCOUNT_ID must be 32 hex digits; Cloudflare would answer 7003")
    if not token:
        if len(faults) == before or not faults[-1].startswith("CLOUDFLARE_API_TOKEN_FILE"):
            faults.append("CLOUDFLARE_API_TOKEN is not set (nor CLOUDFLARE_API_TOKEN_FILE)")
    elif not is_token(token):
        faults.append(
            "CLOUDFLARE_API_TOKEN holds a blank, a quote, a line break or another character that no token has; "
            "Cloudflare would answer 6003"
        )
    return account, token


def _gateway_token(environ: Mapping[str, str], faults: list[str]) -> str:
    token = environ.get("CF_AIG_TOKEN", "").rstrip("\r\n") or _from_file("CF_AIG_TOKEN_FILE", environ, faults) or ""
    if token and not is_token(token):
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
            defaults=Options(**{name: values[name] for name in OPTIONS if name != "max_tokens"}),
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
            origins=Origins(v.allow_origin),
            keys=v.api_keys_file[1] if v.api_keys_file else None,
            rate=v.rate_limit,
            daily_tokens=v.daily_tokens,
            daily_tokens_each=v.daily_tokens_each,
        ),
        keys_file=v.api_keys_file[0] if v.api_keys_file else None,
        trusted_proxies=v.trusted_proxies or (),
        server=Limits(
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
        fallbacks = FALLBACK_MODELS if model == DEFAULT_MODEL else ()
    return tuple(dict.fromkeys((model, *fallbacks)))


def _merged(own: Mapping[str, Mapping[str, object]]) -> dict[str, Mapping[str, object]]:
    """The built-in body fields of each model, and the operator's over them."""
    known = MODEL_FIELDS
    return {model: {**known.get(model, {}), **own.get(model, {})} for model in (*known, *own)}
