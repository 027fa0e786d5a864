"""Print each setting and where it comes from (`cfchat settings`).

The settings are checked as for a start, but for an account, which need not be there yet. Secrets are `***`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cfchat.cli.terminal import OK, show
from cfchat.settings.load import load
from cfchat.settings.sources import Found, Source, find_settings
from cfchat.settings.table import SETTINGS, default_of

HIDDEN = "***"
LONGEST = 200  # characters of a value in the table
_STAND_IN = {"CLOUDFLARE_ACCOUNT_ID": "0" * 32, "CLOUDFLARE_API_TOKEN": "unneeded"}
# What is no flag: the variables that set it, the first one first. Paths and names may be shown.
_VARIABLES = {
    "CLOUDFLARE_ACCOUNT_ID": ("CLOUDFLARE_ACCOUNT_ID",),
    "CLOUDFLARE_API_TOKEN": ("CLOUDFLARE_API_TOKEN", "CLOUDFLARE_API_TOKEN_FILE"),
    "CF_AIG_TOKEN": ("CF_AIG_TOKEN", "CF_AIG_TOKEN_FILE"),
    "HTTPS_PROXY": ("https_proxy", "HTTPS_PROXY"),
    "NO_PROXY": ("no_proxy", "NO_PROXY"),
    "SSL_CERT_FILE": ("SSL_CERT_FILE",),
}
_SHOWN = ("NO_PROXY", "SSL_CERT_FILE")


class Row(NamedTuple):
    """A setting: its flag or variable, its value, the kind of its source, and the place: a flag, a variable, a file."""

    name: str
    value: object
    source: Source
    place: str | None


def print_settings(flags: Mapping[str, Any], as_json: bool) -> int:
    """Print all settings. Return the exit code.

    Raises:
        ConfigError: a line for each setting that is wrong.
    """
    absent = {name: value for name, value in _STAND_IN.items() if not _variable_of(name)}
    load(flags, {**os.environ, **absent}, demo=flags["demo"])
    rows = [*_variables(), *map(_row, find_settings(flags, os.environ, []))]
    if as_json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
    else:
        _print_table(rows)
    return OK


def _variable_of(name: str) -> str | None:
    return next((variable for variable in _VARIABLES[name] if os.environ.get(variable)), None)


def _variables() -> Iterator[Row]:
    for name in _VARIABLES:
        variable = _variable_of(name)
        if variable is None:
            yield Row(name, None, Source.DEFAULT, None)
        else:
            yield Row(name, os.environ[variable] if name in _SHOWN else HIDDEN, Source.ENVIRONMENT, variable)


def _row(found: Found) -> Row:
    value: object = found.text
    if not found.setting.metavar or (type(found.value) in (int, float) and float(found.text or 0) == found.value):
        value = found.value
    return Row(found.setting.flag, value, found.source, found.place or None)


def _print_table(rows: Sequence[Row]) -> None:
    """Print a line for each setting: its name, its value in words, and where that comes from."""
    defaults = {setting.flag: default_of(setting) for setting in SETTINGS}
    cells = [("SETTING", "VALUE", "FROM")]
    cells += [(row.name, _words(row, defaults.get(row.name, "not set")), _origin(row)) for row in rows]
    wide = [max(len(cell[column]) for cell in cells if len(cell[column]) <= 60) for column in (0, 1)]
    for name, value, place in cells:
        show(f"{name:<{wide[0]}}  {value:<{wide[1]}}  {place}")


def _origin(row: Row) -> str:
    return str(row.source) if row.place is None else f"{row.source} {row.place}"


def _words(row: Row, default: str) -> str:
    if row.source is Source.DEFAULT:
        return default
    if isinstance(row.value, bool):
        return "on" if row.value else "off"
    text = str(row.value)
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."
