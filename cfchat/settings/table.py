"""Config: from flags, environment and secret files; says all that is wrong at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from cfchat.app import routes as app
from cfchat.conversation.prepare import MERGE
from cfchat.ops import logs as observe
from cfchat.server.request import Limits
from cfchat.settings.values import (
    BASE_URL,
    LEVELS,
    to_address,
    to_aliases,
    to_caps,
    to_client_system,
    to_count,
    to_gateway,
    to_keys_file,
    to_level,
    to_log_format,
    to_mode,
    to_model,
    to_model_fields,
    to_models,
    to_networks,
    to_number,
    to_origin,
    to_origins,
    to_port,
    to_rate,
    to_seconds,
    to_switch,
    to_text,
    to_warm,
    to_workers,
    to_zero_or_more,
)
from cfchat.upstream.answer import Deadlines
from cfchat.upstream.cloudflare.models import DEFAULT_MODEL, FALLBACK_MODELS


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


_SERVER = Limits()
_APP = app.Settings()
_WAITS = Deadlines()
_FALLBACKS = f"with the default model {','.join(FALLBACK_MODELS)}, else none"
_OWN = "the model's own"
_CAPS = "max_tokens=4096, or what --max-tokens is where that is more"
SETTINGS = (
    Setting("host", "ADDRESS", "127.0.0.1", to_text, "address to listen on; 0.0.0.0 for every one"),
    Setting("port", "N", 8787, to_port, "port to listen on; 0 takes a free one", also="PORT"),
    Setting("uds", "PATH", None, to_text, "unix socket to listen on, instead", unset="none"),
    Setting("uds-mode", "MODE", "660", to_mode, "its permissions, octal: who may connect"),
    Setting("tls-cert", "FILE", None, to_text, "certificate chain, PEM: serve HTTPS", unset="plain HTTP", path=True),
    Setting("tls-key", "FILE", None, to_text, "its key, PEM", unset="in the same file", path=True),
    Setting("workers", "N", 0, to_workers, "processes that share the work; 0 for this one alone"),
    Setting("model", "NAME", DEFAULT_MODEL, to_model, "model to ask"),
    Setting("fallback-models", "NAMES", None, to_models, "who is asked when it fails: a,b or none", unset=_FALLBACKS),
    Setting("models", "NAMES", None, to_models, "what a client may name as `model`", unset="the model and its fallbacks"),
    Setting("alias", "ALIAS=NAME", None, to_aliases, "another name for a model", repeat=True, unset="none"),
    Setting("model-options", "FILE", None, to_model_fields, "TOML: body fields for each model", unset="none", path=True),
    Setting("system-prompt", "TEXT", _APP.system_prompt, to_text, "system message put first", file=True),
    Setting("max-tokens", "N", 2048, to_count, "longest reply, in tokens"),
    Setting("temperature", "X", None, to_number("temperature"), "where a client names none", unset=_OWN),
    Setting("top-p", "X", None, to_number("top_p"), "where a client names none", unset=_OWN),
    Setting("top-k", "N", None, to_number("top_k"), "where a client names none", unset=_OWN),
    Setting("seed", "N", None, to_number("seed"), "where a client names none", unset=_OWN),
    Setting("repetition-penalty", "X", None, to_number("repetition_penalty"), "where a client names none", unset=_OWN),
    Setting("frequency-penalty", "X", None, to_number("frequency_penalty"), "where a client names none", unset=_OWN),
    Setting("presence-penalty", "X", None, to_number("presence_penalty"), "where a client names none", unset=_OWN),
    Setting("caps", "NAME=N,...", None, to_caps, "most that a client may ask for, by option", unset=_CAPS),
    Setting("trim", "", False, to_switch, "leave out the oldest turns of a conversation that does not fit the model"),
    Setting("context-window", "TOKENS", None, to_count, "the models' window, for --trim", unset="as documented"),
    Setting("base-url", "URL", BASE_URL, to_origin, "where Cloudflare's API is; plain http only to loopback"),
    Setting("gateway", "ID", None, to_gateway, "go through this AI Gateway", unset="none"),
    Setting("gateway-cache", "S", 0, to_zero_or_more, "seconds that the gateway may keep a reply; 0 for never"),
    Setting("warm", "N", 1, to_warm, "connections to Cloudflare kept ready"),
    Setting("connect-timeout", "S", _WAITS.connect, to_seconds, "seconds until connected to the model's server"),
    Setting("first-token-timeout", "S", _WAITS.first_delta, to_seconds, "seconds until the model's first words"),
    Setting("idle-timeout", "S", _WAITS.between_deltas, to_seconds, "seconds between two pieces of a reply"),
    Setting("reply-timeout", "S", _WAITS.whole_reply, to_seconds, "seconds for a whole reply; 0 for no such limit"),
    Setting("allow-origin", "ORIGINS", "*", to_origins, "whose pages may ask, such as https://example.com", repeat=True),
    Setting("api-keys-file", "FILE", None, to_keys_file, "keys that open this, each LABEL KEY", unset="none", path=True),
    Setting("rate-limit", "N/PERIOD", None, to_rate, "requests of one key or address: 20/minute", unset="none"),
    Setting("daily-tokens", "N", None, to_count, "tokens a day (UTC), all clients together", unset="no limit"),
    Setting("daily-tokens-each", "N", None, to_count, "tokens a day of one key or address", unset="no limit"),
    Setting("trusted-proxies", "NETWORKS", None, to_networks, "whose X-Forwarded-For is believed", unset="nobody's"),
    Setting("client-system", "WHAT", MERGE, to_client_system, "clients' system messages: merge, drop, reject"),
    Setting("drain-timeout", "S", _SERVER.drain, to_seconds, "seconds that replies may go on after Ctrl-C or SIGTERM"),
    Setting("max-body", "BYTES", _APP.max_body, to_count, "largest request body"),
    Setting("max-messages", "N", _APP.max_messages, to_count, "most messages in a conversation"),
    Setting("max-streams", "N", _APP.max_streams, to_count, "most replies at once"),
    Setting("max-queue", "N", _APP.max_queue, to_zero_or_more, "conversations that may wait for one of these"),
    Setting("queue-timeout", "S", _APP.queue_timeout, to_seconds, "seconds that they may wait"),
    Setting("max-connections", "N", _SERVER.connections, to_count, "most client connections at once"),
    Setting("max-connections-each", "N", _SERVER.connections_each, to_count, "most of them from one address"),
    Setting("no-page", "", False, to_switch, "no chat page at /, and no /cfchat.js"),
    Setting("admin", "HOST:PORT", None, to_address, "where /healthz, /readyz, /metrics are served, too", unset="nowhere"),
    Setting("log-format", "FORM", observe.TEXT, to_log_format, "form of log lines: text, or json, one object a line"),
    Setting("log-level", "LEVEL", "info", to_level, "least serious log lines to print: " + ", ".join(LEVELS)),
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
