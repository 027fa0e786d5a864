"""Read the file of settings that --config names: TOML, with the names of the flags.

A value is a text as the flag takes it, or what TOML has for it: a number, true or false, a list, or a table for a flag
of `NAME=VALUE`. Each goes as text through the parser of its setting, as all settings do, and must come back as what
TOML has read. The tables `[models."@cf/..."]` stand for the file that --model-options names. Faults name the line.
tomllib keeps no lines, so they are looked up only if there is a fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cfchat.ops.logs import one_line
from cfchat.settings.table import SETTINGS, Setting
from cfchat.settings.values import (
    OPTIONS,
    faults_in_tables,
    parse_toml,
    read_text,
    to_aliases,
    to_caps,
    to_models,
    to_networks,
    to_origins,
)

_PAIRS = (to_aliases, to_caps)  # what may be a table
_LISTS = (to_models, to_networks, to_origins, *_PAIRS)  # what may be a list
_TABLES = "model_options"
_BY_KEY = {setting.flag: setting for setting in SETTINGS}
# What is no setting of the file, by its key in lower case, and where it goes instead.
_TOKEN = "is a secret, which no file of settings may hold: set CLOUDFLARE_API_TOKEN, or CLOUDFLARE_API_TOKEN_FILE"
_GATEWAY_TOKEN = "is a secret, which no file of settings may hold: set CF_AIG_TOKEN, or CF_AIG_TOKEN_FILE"
_ACCOUNT = "does not belong here: set CLOUDFLARE_ACCOUNT_ID in the environment"
_KEYS = "is a secret, which no file of settings may hold: api-keys-file names the file of keys"
_SECRET = "looks like a secret, which no file of settings may hold: secrets come from the environment"
_ELSEWHERE = {
    "config": "names this file, and cannot stand in it",
    "demo": "is a flag of the command line alone",
    **dict.fromkeys(("account", "account-id", "cloudflare-account-id"), _ACCOUNT),
    **dict.fromkeys(("token", "api-token", "cloudflare-token", "cloudflare-api-token"), _TOKEN),
    **dict.fromkeys(("aig-token", "cf-aig-token", "gateway-token"), _GATEWAY_TOKEN),
    **dict.fromkeys(("key", "keys", "api-key", "api-keys"), _KEYS),
    **{
        name.lower().replace("_", "-"): f"does not belong here: set {name} in the environment"
        for name in ("HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "CLOUDFLARE_API_TOKEN_FILE", "CF_AIG_TOKEN_FILE")
    },
}
_SECRET_WORDS = re.compile(r"(.*-)?(tokens?|keys?|secrets?|passwords?|credentials?)(-.*)?")
# Lines are looked up in files of so many characters, up to a statement of more lines than this.
MOST_CHARACTERS, MOST_LINES = 64 * 1024, 200

Key = tuple[str, ...]  # of a value within tables


class Entry(NamedTuple):
    """One setting of the file: its text, as a flag would have it, and its value."""

    text: str
    value: object


def read_settings(source: str, path: str, faults: list[str]) -> dict[str, Entry]:
    """Return the settings in a file that are right, by name with underscores; add a line to `faults` for each other.

    `source` is what names the file: a flag or a variable.
    """
    try:
        text = read_text(path)
    except ValueError as error:
        faults.append(one_line(f"{source} {error}"))
        return {}
    try:
        document = parse_toml(text)
    except ValueError as error:
        faults.append(one_line(_say_no_toml(path, str(error))))
        return {}
    entries: dict[str, Entry] = {}
    wrong: list[tuple[Key, str]] = []
    for key, value in document.items():
        name = _TABLES if key == "models" and isinstance(value, dict) else key.replace("-", "_")
        reasons = list(_faults_of(key, value))
        if name in entries:
            reasons.append(((key,), "stands for what model-options has set already"))
        if not reasons:
            try:
                entries[name] = _read_entry(_BY_KEY[name.replace("_", "-")], value)
            except ValueError as error:
                reasons.append(((key,), str(error)))
        wrong += reasons
    if wrong:
        lines = lines_of(text) if len(text) <= MOST_CHARACTERS else {}
        faults += [one_line(f"{_place(path, key, lines)} {reason}") for key, reason in wrong]
    return entries


def _faults_of(key: str, value: object) -> Iterator[tuple[Key, str]]:
    """Give what is wrong with a key at the top, and with those in the tables below it."""
    if key in ("models", "model-options") and isinstance(value, dict):
        yield from (((key, *inner), reason) for inner, reason in (*faults_in_tables(value), *_settings_in(value)))
    elif key not in _BY_KEY or key in _ELSEWHERE:
        yield (key,), _misplaced(key) or _say_unknown(key)
        if isinstance(value, dict):
            # A secret should be out of the file before anything else.
            yield from (((key, *inner), reason) for inner in _keys_in(value) if (reason := _misplaced(inner[-1])))


def _settings_in(tables: Mapping[str, object]) -> Iterator[tuple[Key, str]]:
    """Give the settings among the fields of models: TOML takes what stands below a table for a part of it."""
    for model, fields in tables.items():
        for name in fields if isinstance(fields, dict) else ():
            if name in _BY_KEY and name not in OPTIONS:
                yield (model, name), "is a setting, and not a field of a model: settings stand above the first table"
            elif _plain(name) in _ELSEWHERE:
                yield (model, name), _ELSEWHERE[_plain(name)]


def _misplaced(key: str) -> str:
    """Return where a key belongs that is no setting; empty if it is unknown."""
    plain = _plain(key)
    if plain not in _ELSEWHERE and _SECRET_WORDS.fullmatch(plain) and not closest(plain):
        return _SECRET
    return _ELSEWHERE.get(plain, "")


def _say_unknown(key: str) -> str:
    match = closest(key)
    return f"is no setting: did you mean {match}?" if match else "is no setting"


def _plain(key: str) -> str:
    return key.lower().replace("_", "-").removeprefix("--").removeprefix("cfchat-")


def closest(key: str) -> str:
    """Return the setting that a misspelt key or flag is closest to; empty if it is close to none."""
    from difflib import get_close_matches  # here, because few starts have a fault

    return next(iter(get_close_matches(_plain(key), _BY_KEY, 1, 0.75)), "")


def _read_entry(setting: Setting, value: Any) -> Entry:
    """Return the setting's text and value.

    Raises:
        ValueError: the value is wrong, with the reason.
    """
    if not setting.metavar and not isinstance(value, bool):
        raise ValueError("must be true or false")
    if setting.name == _TABLES and isinstance(value, dict):
        return Entry(json.dumps(value, ensure_ascii=False), value)
    if isinstance(value, list) and setting.parse in _LISTS:
        if not all(isinstance(item, str) for item in value):
            raise ValueError("must be a list of texts")
        text = ",".join(value) or "none"
    elif isinstance(value, dict) and setting.parse in _PAIRS:
        text = ",".join(f"{name}={_text_of(item)}" for name, item in value.items())
    else:
        text = _text_of(value)
    parsed = setting.parse(text)
    # The texts of `host = true` and `uds-mode = 0o660` mean something else.
    if isinstance(value, (bool, int, float)) and (type(parsed) is bool, parsed) != (type(value) is bool, value):
        raise ValueError("must be a text, in quotes")
    return Entry(text, parsed)


def _text_of(value: object) -> str:
    """Return one value of TOML as the flag would have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and "\0" in value:
        raise ValueError("must not hold U+0000")
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, (list, dict)):
        raise ValueError(f"must be one value and not a {'list' if isinstance(value, list) else 'table'}")
    raise ValueError("must be a text, in quotes")  # it is a date or a time


# --- places ---------------------------------------------------------------------------------------


def _say_no_toml(path: str, reason: str) -> str:
    """Return the fault of a file that is no TOML. What tomllib says ends with the line, if it knows one."""
    match = re.fullmatch(r"(?s)(.*) \(at line ([0-9]+), column [0-9]+\)", reason)
    return f"{path}: this is no TOML: {reason}" if match is None else f"{path}:{match[2]}: this is no TOML: {match[1]}"


def _place(path: str, key: Key, lines: Mapping[Key, int]) -> str:
    """Return where a key stands: its line, if that is known, and its path."""
    line = next((lines[key[:size]] for size in range(len(key), 0, -1) if key[:size] in lines), None)
    dotted = ".".join(name if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name) else json.dumps(name[:80]) for name in key)
    return f"{path}: {dotted}" if line is None else f"{path}:{line}: {dotted}"


def lines_of(text: str) -> dict[Key, int]:
    """Return the first line of each key in a text that is TOML.

    The fewest lines that are TOML by themselves are one statement, because the beginning of a value over several lines
    is none: its quotes or brackets are still open.
    """
    lines: dict[Key, int] = {}
    table: Key = ()
    first, statement = 1, ""
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        if number - first > MOST_LINES:
            break
        try:
            keys = list(_keys_in(parse_toml(statement)))
        except ValueError:
            continue
        begins_table = statement.lstrip().startswith("[")
        for key in keys:
            lines.setdefault(key if begins_table else (*table, *key), first)
        if begins_table:
            table = max(keys, key=len)
        first, statement = number + 1, ""
    return lines


def _keys_in(content: Mapping[str, Any]) -> Iterator[Key]:
    """Give the key of each value, also of those in tables."""
    for name, value in content.items():
        yield (name,)
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict):
            yield from ((name, *key) for key in _keys_in(inner))
