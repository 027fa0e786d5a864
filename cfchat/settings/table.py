"""List all settings, one line each.

The flags of the command line, their help, the environment variables, the keywords of `load_config` and the table in
this folder's README.md all come from SETTINGS. Defaults that belong to a room are taken from that room's own settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cfchat.app import routes as app
from cfchat.conversation.images import MOST_IMAGES
from cfchat.conversation.prepare import DROP, MERGE, REJECT
from cfchat.guard.addresses import CLIENT_FIELDS as _NAMED
from cfchat.ops import logs
from cfchat.replies.form import HIDE, SEND
from cfchat.server.request import Limits
from cfchat.settings.values import (
    BASE_URL,
    BODY_WITH_IMAGES,
    to_address,
    to_aliases,
    to_caps,
    to_choice,
    to_count,
    to_gateway,
    to_keep_alive,
    to_keys_file,
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
    to_resume,
    to_search,
    to_seconds,
    to_source_base_url,
    to_switch,
    to_text,
    to_warm,
    to_whole,
    to_workers,
    to_zero_or_more,
)
from cfchat.upstream.answer import Deadlines
from cfchat.upstream.cloudflare.models import DEFAULT_MODEL, FALLBACK_MODELS
from cfchat.upstream.connect import STRICT, USUAL


class Setting(NamedTuple):
    """One flag, and the environment variable of the same name. `parse` raises ValueError with the reason."""

    flag: str
    metavar: str  # empty for a switch
    default: object
    parse: Callable[[str], object]
    help: str
    also: str = ""  # a second environment variable, read if the first is not set
    repeat: bool = False  # the flag may be given several times; its values are joined by commas
    file: bool = False  # NAME_FILE in the environment may hold the path of a file with the value
    unset: str = ""  # says what holds if there is no default
    path: bool = False  # the value is the path of a file

    @property
    def name(self) -> str:
        """The keyword of `load_config`."""
        return self.flag.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "CFCHAT_" + self.name.upper()


_SERVER = Limits()
_APP = app.Settings()
_WAITS = Deadlines()
_FALLBACKS = f"with the default model {','.join(FALLBACK_MODELS)}, else none"
_SYSTEM, _FORMS, _LEVELS = (MERGE, DROP, REJECT), (logs.TEXT, logs.JSON), ("debug", "info", "warning", "error")
_THOUGHTS = (HIDE, SEND)
_OWN = "the model's own"
_OPTION = "value for clients that send none"
# The first one names the file that may hold all others.
SETTINGS = (
    Setting("config", "FILE", None, to_text, "file of settings, TOML", unset="none", path=True),
    Setting("host", "ADDRESS", "127.0.0.1", to_text, "address to listen on; 0.0.0.0 for all addresses"),
    Setting("port", "N", 8787, to_port, "port to listen on; 0 takes a free one", also="PORT"),
    Setting("uds", "PATH", None, to_text, "unix socket to listen on, instead of an address", unset="none"),
    Setting("uds-mode", "MODE", "660", to_mode, "permissions of the unix socket, octal: who may connect"),
    Setting("tls-cert", "FILE", None, to_text, "certificate chain, PEM: serve HTTPS", unset="plain HTTP", path=True),
    Setting("tls-key", "FILE", None, to_text, "its key, PEM, not encrypted", unset="in the same file", path=True),
    Setting("workers", "N", 0, to_workers, "processes that share the work; 0 for this one alone"),
    Setting("model", "NAME", DEFAULT_MODEL, to_model, "model to ask first"),
    Setting("fallback-models", "NAMES", None, to_models, "models to ask if it fails: a,b or none", unset=_FALLBACKS),
    Setting("models", "NAMES", None, to_models, "models that a client may name", unset="the model and its fallbacks"),
    Setting("alias", "ALIAS=NAME", None, to_aliases, "another name for a model", repeat=True, unset="none"),
    Setting("model-options", "FILE", None, to_model_fields, "TOML: fields for each model", unset="none", path=True),
    Setting("ai-search", "NAME", None, to_search, "AI Search instance to ask first: [NAMESPACE/]NAME", unset="none"),
    Setting("source-base-url", "URL", None, to_source_base_url, "where sources that are paths lie", unset="no links"),
    Setting("system-prompt", "TEXT", _APP.system_prompt, to_text, "system message put first", file=True),
    Setting("max-tokens", "N", 2048, to_count, "longest reply, in tokens"),
    Setting("temperature", "X", None, to_number("temperature"), _OPTION, unset=_OWN),
    Setting("top-p", "X", None, to_number("top_p"), _OPTION, unset=_OWN),
    Setting("top-k", "N", None, to_number("top_k"), _OPTION, unset=_OWN),
    Setting("seed", "N", None, to_number("seed"), _OPTION, unset=_OWN),
    Setting("repetition-penalty", "X", None, to_number("repetition_penalty"), _OPTION, unset=_OWN),
    Setting("frequency-penalty", "X", None, to_number("frequency_penalty"), _OPTION, unset=_OWN),
    Setting("presence-penalty", "X", None, to_number("presence_penalty"), _OPTION, unset=_OWN),
    Setting(
        "caps", "NAME=N,...", None, to_caps, "most that a client may ask for",
        unset="max_tokens=4096, or --max-tokens if that is more",
    ),
    Setting("trim", "", False, to_switch, "leave out the oldest turns of a conversation that does not fit the model"),
    Setting("context-window", "TOKENS", None, to_count, "the models' window, for --trim", unset="as documented"),
    Setting("base-url", "URL", BASE_URL, to_origin, "URL of Cloudflare's API"),
    Setting(
        "tls-verify", "HOW", None, to_choice(STRICT, USUAL), f"look at Cloudflare's certificate: {STRICT}, {USUAL}",
        unset="strict from Python 3.13 on",
    ),
    Setting("gateway", "ID", None, to_gateway, "AI Gateway to go through", unset="none"),
    Setting("gateway-cache", "S", 0, to_zero_or_more, "seconds that the gateway may keep a reply; 0 for never"),
    Setting("warm", "N", 1, to_warm, "connections to Cloudflare kept ready"),
    Setting("connect-timeout", "S", _WAITS.connect, to_seconds, "seconds until connected to the model's server"),
    Setting("first-token-timeout", "S", _WAITS.first_delta, to_seconds, "seconds until the model's first words"),
    Setting("idle-timeout", "S", _WAITS.between_deltas, to_seconds, "seconds between two pieces of a reply"),
    Setting("reply-timeout", "S", _WAITS.whole_reply, to_seconds, "seconds for a whole reply; 0 for no limit"),
    Setting("allow-origin", "ORIGINS", "*", to_origins, "origins whose pages may ask: https://a.example", repeat=True),
    Setting("api-keys-file", "FILE", None, to_keys_file, "keys, a line LABEL KEY each", unset="none", path=True),
    Setting("rate-limit", "N/PERIOD", None, to_rate, "requests of one key or address: 20/minute", unset="no limit"),
    Setting("daily-tokens", "N", None, to_count, "tokens a day (UTC), all clients together", unset="no limit"),
    Setting("daily-tokens-each", "N", None, to_count, "tokens a day of one key or address", unset="no limit"),
    Setting("trusted-proxies", "NETWORKS", None, to_networks, "proxies that name their clients", unset="none"),
    Setting("forwarded-field", "NAME", None, to_choice(*_NAMED), f"field they set: {', '.join(_NAMED)}", unset="any"),
    Setting("client-system", "WHAT", MERGE, to_choice(*_SYSTEM), f"clients' system messages: {', '.join(_SYSTEM)}"),
    Setting("thoughts", "WHAT", HIDE, to_choice(*_THOUGHTS), f"reasoning of the model: {', '.join(_THOUGHTS)}"),
    Setting("resume", "S", _APP.keeping.seconds, to_resume, "seconds that a reply waits for a lost client; 0 for none"),
    Setting("drain-timeout", "S", _SERVER.drain, to_seconds, "seconds that replies may go on after Ctrl-C or SIGTERM"),
    Setting("images", "N", _APP.images, to_whole(0, MOST_IMAGES), "images that a conversation may hold"),
    Setting(
        "max-body", "BYTES", None, to_count, "largest request body",
        unset=f"{_APP.max_body}, with --images {BODY_WITH_IMAGES}",
    ),
    Setting("max-messages", "N", _APP.max_messages, to_count, "most messages in a conversation"),
    Setting("max-streams", "N", _APP.max_streams, to_count, "most replies at once"),
    Setting("max-streams-each", "N", None, to_count, "most of them for one key or address", unset="a quarter of them"),
    Setting("max-queue", "N", _APP.max_queue, to_zero_or_more, "conversations that may wait for one of these"),
    Setting("queue-timeout", "S", _APP.queue_timeout, to_seconds, "seconds that they may wait"),
    Setting("max-waiting", "MIB", _APP.max_waiting >> 20, to_count, "most that waits of requests, in MiB"),
    Setting("max-connections", "N", _SERVER.connections, to_count, "most client connections at once"),
    Setting(
        "max-connections-each", "N", None, to_count, "most of them from one address",
        unset=f"{_SERVER.connections_each}, or a quarter of them if that is less",
    ),
    Setting("keep-alive", "S", _SERVER.keep_alive, to_keep_alive, "seconds that a client's idle connection stays open"),
    Setting("no-page", "", False, to_switch, "no chat page at /, and no /cfchat.js"),
    Setting(
        "admin", "HOST:PORT", None, to_address, "second address: the operator's page, /metrics, probes", unset="none"
    ),
    Setting("log-format", "FORM", logs.TEXT, to_choice(*_FORMS), "form of log lines: text, or json, one object a line"),
    Setting("log-level", "LEVEL", "info", to_choice(*_LEVELS), f"least serious lines to log: {', '.join(_LEVELS)}"),
)  # fmt: skip


def add_flags(parser: argparse._ActionsContainer) -> None:
    """Add a flag for each setting. Its help names the default and the environment variable."""
    for setting in SETTINGS:
        variables = " ".join(filter(None, (setting.variable, setting.also)))
        text = f"{setting.help} (default: {default_of(setting)}) [{variables}]".replace("%", "%%")
        if setting.metavar:
            action = "append" if setting.repeat else "store"
            parser.add_argument("--" + setting.flag, metavar=setting.metavar, action=action, help=text)
        else:
            parser.add_argument("--" + setting.flag, action="store_const", const="1", help=text)


def default_of(setting: Setting) -> str:
    """Return the default in words."""
    if setting.unset:
        return setting.unset
    if isinstance(setting.default, bool):
        return "on" if setting.default else "off"
    return f"{setting.default:g}" if isinstance(setting.default, float) else str(setting.default)


# --- for README.md --------------------------------------------------------------------------------

# Rows of what is no Setting, because `load.py` takes it by itself: flag, variables, default, meaning.
_OTHERS = (
    ("", ("CLOUDFLARE_ACCOUNT_ID",), "", "32 hex digits, in the address of your dashboard"),
    ("", ("CLOUDFLARE_API_TOKEN", "_FILE"), "", "the token, or the path of a file that holds it"),
    ("", ("CF_AIG_TOKEN", "_FILE"), "", "the token of an authenticated AI Gateway, or its file"),
    ("", ("SSL_CERT_FILE",), "the system's", "authorities to trust, PEM"),
    ("", ("HTTPS_PROXY",), "", "`http://USER:PASSWORD@HOST:PORT`: the way out, by CONNECT"),
    ("", ("NO_PROXY",), "", "hosts that are reached without it: `*`, names, addresses, networks"),
    ("demo", (), "off", "answer from a stand-in model on this machine (ELIZA, 1966)"),
)
WIDTH = 120  # characters of a line


def make_table() -> str:
    """Return all settings as a table in Markdown. A default that is too long for its row stands below the table."""
    lines, long = ["| flag | environment | default | |", "|---|---|---|---|"], []
    for flag, variables, default, meaning in (*_OTHERS, *_rows()):
        names = ", ".join(f"`{name}`" for name in variables)
        flag = flag and f"`--{flag}`"
        line = _row(flag, names, default, meaning)
        if len(line) > WIDTH:
            line = _row(flag, names, "see below", meaning)
            long.append(f"- {flag}: {default}")
        lines.append(line)
    return "\n".join([*lines, "", "Defaults that are too long for the table:", *long]) + "\n"


def _rows() -> Iterator[tuple[str, tuple[str, ...], str, str]]:
    for setting in SETTINGS:
        more = filter(None, (setting.also, "_FILE" if setting.file else ""))
        default = default_of(setting)
        is_value = not setting.unset and setting.metavar
        yield setting.flag, (setting.variable, *more), f"`{default}`" if is_value else default, setting.help


def _row(*cells: str) -> str:
    return " ".join(["|", *(f"{cell} |".lstrip() for cell in cells)])
