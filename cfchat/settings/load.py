"""Make a Config of settings and secrets, whatever place they come from.

Nothing stops at the first fault: all faults are collected, and one ConfigError has a line for each, so that an operator
can mend them in one go.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

from cfchat.app import routes as app
from cfchat.app.kept.replies import Keeping
from cfchat.conversation.model import Options
from cfchat.errors import ConfigError
from cfchat.guard import guard
from cfchat.guard.addresses import CLIENT_FIELDS
from cfchat.guard.cors import Origins
from cfchat.net.listen import Where
from cfchat.replies.form import SEND
from cfchat.secret import Secret
from cfchat.server.files import share_of
from cfchat.server.request import Limits
from cfchat.settings.config import Config
from cfchat.settings.sources import Flags, Found, Source, find_settings, read_named_file, spell_flag
from cfchat.settings.table import SETTINGS, Setting
from cfchat.settings.values import BODY_WITH_IMAGES, OPTIONS, to_aliases, to_model, to_models
from cfchat.upstream import client
from cfchat.upstream.answer import Deadlines
from cfchat.upstream.cloudflare.account import Gateway, is_account_id, is_token
from cfchat.upstream.cloudflare.models import DEFAULT_MODEL, FALLBACK_MODELS, MODEL_FIELDS, SEARCH, is_route, is_search
from cfchat.upstream.origin import Origin
from cfchat.upstream.proxy import Proxy, find_proxy
from cfchat.wire.messages import ReadLimits

GATEWAY_HOST = "gateway.ai.cloudflare.com"
DEMO_SEARCH = SEARCH + "demo"


def load_config(
    *,
    account_id: str = "",
    api_token: str = "",
    demo: bool = False,
    environ: Mapping[str, str] | None = None,
    **settings: object,
) -> Config:
    """Return the Config of a program that embeds cfchat: settings by keyword, all others from the environment.

    The keywords are the names of the flags, with underscores. Values are texts, numbers or truth values, lists for
    flags that take several, mappings for flags of `NAME=VALUE`. None is the same as leaving the keyword out. `config`
    is the path of a file of settings, which count if neither a keyword nor the environment has them. `environ={}`
    ignores the environment. With `demo` a stand-in model on this machine answers.

    Raises:
        ConfigError: a line for each setting that is missing, wrong or unknown.

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
    credentials = {"CLOUDFLARE_ACCOUNT_ID": account_id, "CLOUDFLARE_API_TOKEN": api_token}
    # Not a default of the signature: `help` would print it, and the token in it.
    environ = os.environ if environ is None else environ
    environ = {**environ, **{name: value for name, value in credentials.items() if value}}
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
    flags: Flags,
    environ: Mapping[str, str],
    *,
    demo: bool = False,
    spell: Callable[[Setting], str] = spell_flag,
    faults: Sequence[str] = (),
) -> Config:
    """Return the Config of flags, environment and the file of settings that one of them names.

    Flags go by name with underscores; None is a flag that is not given. `spell` gives the name of a setting in a fault;
    `faults` are those that the caller has found already.

    Raises:
        ConfigError: a line for each setting that is missing or wrong.
    """
    faults = list(faults)
    found = find_settings(flags, environ, faults, spell)
    values = {it.setting.name: it.value for it in found}
    if demo:
        account, token, gateway_token, proxy = "", "", "", None
    else:
        account, token = _account(environ, faults), _api_token(environ, faults)
        gateway_token = _token("CF_AIG_TOKEN", environ, faults)
        proxy = _proxy(values["base_url"], environ, faults)
        faults += _check_ca(environ)
        faults += _check_gateway(values)
        faults += _check_routes(found)
    faults += _check_search(values, demo)
    if values["tls_key"] and not values["tls_cert"]:
        faults.append("--tls-cert must name the certificate of --tls-key")
    if values["resume"] and values["workers"] not in (None, 0, 1):
        faults.append("--resume cannot go with --workers above 1: a reply is kept in the one process that asked for it")
    if faults:
        raise ConfigError("\n".join(faults))
    values["given"] = frozenset(it.setting.name for it in found if it.source is not Source.DEFAULT)
    values["proxy"] = proxy
    values["gateway_token"] = Secret(gateway_token) if gateway_token else None
    return _build(values, None if demo else (account, Secret(token)))


def _account(environ: Mapping[str, str], faults: list[str]) -> str:
    account = environ.get("CLOUDFLARE_ACCOUNT_ID", "").strip()
    if not account:
        faults.append("CLOUDFLARE_ACCOUNT_ID is not set (the 32 hex digits in your dashboard's address)")
    elif not is_account_id(account):
        faults.append("CLOUDFLARE_ACCOUNT_ID must be 32 hex digits; Cloudflare would answer 7003")
    return account


def _api_token(environ: Mapping[str, str], faults: list[str]) -> str:
    before = len(faults)
    token = _token("CLOUDFLARE_API_TOKEN", environ, faults, "; Cloudflare would answer 6003")
    if not token and len(faults) == before:
        faults.append("CLOUDFLARE_API_TOKEN is not set (nor CLOUDFLARE_API_TOKEN_FILE)")
    return token


def _token(name: str, environ: Mapping[str, str], faults: list[str], consequence: str = "") -> str:
    """Return a token from its variable or file, or an empty text if there is none."""
    token = environ.get(name, "").rstrip("\r\n") or read_named_file(f"{name}_FILE", environ, faults) or ""
    if token and not is_token(token):
        character = "a blank, a quote, a line break or another character that no token has"
        faults.append(f"{name} holds {character}{consequence}")
    return token


def _proxy(origin: object, environ: Mapping[str, str], faults: list[str]) -> Proxy | None:
    if not isinstance(origin, Origin):
        return None
    try:
        return find_proxy(origin, environ)
    except ValueError as error:
        faults.append(str(error))
        return None


def _check_gateway(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong for AI Gateway's own host: --gateway names the gateway there, not the URL."""
    origin = values["base_url"]
    if not isinstance(origin, Origin) or origin.host != GATEWAY_HOST:
        return []
    faults = [] if origin.base_path == "/v1" else [f"--base-url must be https://{GATEWAY_HOST}/v1 for AI Gateway"]
    if not values["gateway"]:
        faults.append(f"--gateway must name the gateway if --base-url is {GATEWAY_HOST}")
    return faults


def _check_search(values: Mapping[str, Any], demo: bool) -> list[str]:
    """Return what is wrong with where the instance of AI Search is to be found."""
    search, origin, aliases = values["ai_search"], values["base_url"], values["alias"] or {}
    if any(is_search(name) and name != search for name in aliases.values()):
        return ["--alias names another instance of AI Search than --ai-search"]
    if search and demo and search != DEMO_SEARCH:
        return [f"--ai-search must be {DEMO_SEARCH.removeprefix(SEARCH)} with --demo: there is no other instance"]
    if search and not demo and isinstance(origin, Origin) and origin.host == GATEWAY_HOST:
        return [f"--ai-search cannot be asked at {GATEWAY_HOST}: leave --base-url out"]
    return []


def _check_routes(settings: Sequence[Found]) -> list[str]:
    """Return a fault for each route of AI Gateway that is named although no gateway is."""
    if any(found.setting.name == "gateway" and found.text for found in settings):
        return []
    named = [
        (found, name.rpartition("=")[2].strip())
        for found in settings
        if found.setting.parse in (to_model, to_models, to_aliases)
        for name in (found.text or "").split(",")
    ]
    what = "is a route of an AI Gateway, which --gateway must name"
    return [f"{found.called} {name} {what}" for found, name in named if is_route(name)]


def _check_ca(environ: Mapping[str, str]) -> list[str]:
    # OpenSSL ignores a file that is missing, and then trusts no authority.
    path = environ.get("SSL_CERT_FILE")
    return [f"SSL_CERT_FILE: there is no file {path}"] if path and not os.path.isfile(path) else []


def _build(values: Mapping[str, Any], credentials: tuple[str, Secret] | None) -> Config:
    v = SimpleNamespace(**values)
    models = _chain(v.ai_search or v.model, v.fallback_models)
    aliases = v.alias or {}
    offered = (v.model, *models) if v.models is None else v.models
    if v.ai_search:
        offered = (v.ai_search, *offered)
    caps = {"max_tokens": max(app.Settings().caps["max_tokens"], v.max_tokens), **(v.caps or {})}
    max_body = v.max_body or (BODY_WITH_IMAGES if v.images else app.Settings().max_body)
    upstream = None
    if credentials:
        upstream = client.Settings(
            v.base_url,
            *credentials,
            models=models,
            max_tokens=v.max_tokens,
            deadlines=Deadlines(v.connect_timeout, v.first_token_timeout, v.idle_timeout, v.reply_timeout),
            defaults=Options(**{name: values[name] for name in OPTIONS if name != "max_tokens"}),
            fields=_merged(v.model_options or {}, _search_fields(values)),
            gateway=Gateway(v.gateway, v.gateway_token, v.gateway_cache) if v.gateway else None,
            proxy=v.proxy,
            tls_verify=v.tls_verify,
            warm=v.warm,
            trim=v.trim,
            window=v.context_window,
            source_base_url=v.source_base_url or "",
        )
    return Config(
        where=Where(v.host, v.port, v.uds, v.uds_mode, v.tls_cert, v.tls_key),
        workers=v.workers,
        upstream=upstream,
        app=app.Settings(
            # The default would replace the system prompt that the instance of AI Search has.
            system_prompt="" if v.ai_search and "system_prompt" not in v.given else v.system_prompt,
            max_body=max_body,
            max_messages=v.max_messages,
            max_streams=v.max_streams,
            max_streams_each=v.max_streams_each,
            max_queue=v.max_queue,
            queue_timeout=v.queue_timeout,
            max_waiting=v.max_waiting << 20,
            client_system=v.client_system,
            thoughts=v.thoughts == SEND,
            keeping=Keeping(v.resume),
            model=models[0],
            models=tuple(dict.fromkeys((*offered, *aliases.values()))),
            aliases=aliases,
            caps=caps,
            images=v.images,
        ),
        guard=guard.Settings(
            origins=Origins(v.allow_origin, (v.host.lower(),)),
            keys=v.api_keys_file[1] if v.api_keys_file else None,
            rate=v.rate_limit,
            daily_tokens=v.daily_tokens,
            daily_tokens_each=v.daily_tokens_each,
        ),
        keys_file=v.api_keys_file[0] if v.api_keys_file else None,
        trusted_proxies=v.trusted_proxies or (),
        forwarded_fields=(v.forwarded_field,) if v.forwarded_field else CLIENT_FIELDS,
        server=Limits(
            read=ReadLimits(body=max_body),
            connections=v.max_connections,
            connections_each=v.max_connections_each or min(Limits().connections_each, share_of(v.max_connections)),
            keep_alive=v.keep_alive,
            drain=v.drain_timeout,
        ),
        page=not v.no_page,
        admin=v.admin,
        log_level=v.log_level,
        log_format=v.log_format,
        source_base_url=v.source_base_url or "",
        given=v.given,
    )


def _chain(model: str, fallbacks: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the model and its fallbacks. By default only the default model has fallbacks."""
    if fallbacks is None:
        fallbacks = FALLBACK_MODELS if model == DEFAULT_MODEL else ()
    return tuple(dict.fromkeys((model, *fallbacks)))


def _search_fields(values: Mapping[str, Any]) -> dict[str, Mapping[str, object]]:
    """Return the body fields of the search: only what the operator sets, because the instance has its own settings."""
    if not values["ai_search"]:
        return {}
    return {values["ai_search"]: {name: values[name] for name in ("model", *OPTIONS) if name in values["given"]}}


def _merged(
    own: Mapping[str, Mapping[str, object]], search: Mapping[str, Mapping[str, object]]
) -> dict[str, Mapping[str, object]]:
    """Return the body fields of each model: those of cfchat and of the flags, and over them those of the file."""
    flags = {**MODEL_FIELDS, **search}
    return {model: {**flags.get(model, {}), **own.get(model, {})} for model in (*flags, *own)}
