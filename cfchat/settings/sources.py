"""Find the value of each setting, and where it comes from.

A flag wins over its variable, a variable over the file of settings, and the file over the default. A variable with the
suffix _FILE names a file with the value. Faults and `cfchat settings` name the source of a value, and `cfchat deploy`
hands on what is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from cfchat.settings.table import SETTINGS, Setting
from cfchat.settings.values import read_text

if TYPE_CHECKING:
    from cfchat.settings.file import Entry

Flags = Mapping[str, str | list[str] | None]


class Source(StrEnum):
    """What kind of place a value comes from."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


class Found(NamedTuple):
    """The value of a setting; its text, None for a default that is no value; and its `place`, by name."""

    setting: Setting
    source: Source
    place: str
    text: str | None
    value: object = None

    @property
    def called(self) -> str:
        """What a fault calls the setting: its flag, its variable, or its key in the file."""
        return f"{self.place}: {self.setting.flag}" if self.source is Source.FILE else self.place


def spell_flag(setting: Setting) -> str:
    """Return the name of a setting on the command line."""
    return "--" + setting.flag


def find_settings(
    flags: Flags,
    environ: Mapping[str, str],
    faults: list[str],
    spell: Callable[[Setting], str] = spell_flag,
) -> list[Found]:
    """Return all settings, in the order of the table. Add a line to `faults` for each that is wrong: its value is None.

    Flags go by name with underscores; None is a flag that is not given. `spell` gives the name of one in a fault.
    """
    config, *others = SETTINGS
    path = _find(config, flags, environ, faults, spell, {}, "")
    entries: Mapping[str, Entry] = {}
    if path.value is not None:
        from cfchat.settings.file import read_settings  # here, because most starts have no file

        entries = read_settings(path.place, str(path.value), faults)
    return [path, *(_find(setting, flags, environ, faults, spell, entries, path.text or "") for setting in others)]


def _find(
    setting: Setting,
    flags: Flags,
    environ: Mapping[str, str],
    faults: list[str],
    spell: Callable[[Setting], str],
    entries: Mapping[str, Entry],
    path: str,
) -> Found:
    flag = flags.get(setting.name)
    if flag is not None:
        found = Found(setting, Source.FLAG, spell(setting), ",".join(flag) if isinstance(flag, list) else flag)
    else:
        found = _from_environment(setting, environ, faults)
    if found.text is None and setting.name in entries:
        return Found(setting, Source.FILE, path, *entries[setting.name])
    if found.text is None:
        if setting.default is None:
            return Found(setting, Source.DEFAULT, "", None)
        text = "0" if setting.default is False else str(setting.default)
        found = Found(setting, Source.DEFAULT, "", text)
    assert found.text is not None
    try:
        return found._replace(value=setting.parse(found.text))
    except ValueError as error:
        faults.append(f"{found.place} {error}")
        return found


def _from_environment(setting: Setting, environ: Mapping[str, str], faults: list[str]) -> Found:
    for variable in filter(None, (setting.variable, setting.also)):
        if environ.get(variable):
            return Found(setting, Source.ENVIRONMENT, variable, environ[variable])
    variable = setting.variable + "_FILE"
    text = read_named_file(variable, environ, faults) if setting.file else None
    return Found(setting, Source.ENVIRONMENT, variable, text)


def read_named_file(variable: str, environ: Mapping[str, str], faults: list[str]) -> str | None:
    """Return the text of the file that a variable names, without the last line's end; None if there is none."""
    path = environ.get(variable)
    if not path:
        return None
    try:
        return read_text(path).rstrip("\r\n")
    except ValueError as error:
        faults.append(f"{variable}: {error}")
        return None


def export(flags: Flags, environ: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return what is set, by environment variable, for a process elsewhere: settings, and paths of files.

    No secret is among them. For each secret that is needed there is the path of its file, or else a usual path. What
    the file of settings holds stays in that file, which is one of the paths, but for paths, which may be others there.
    """
    settings, paths = {"CLOUDFLARE_ACCOUNT_ID": environ.get("CLOUDFLARE_ACCOUNT_ID", "YOUR-ACCOUNT-ID")}, {}
    paths["CLOUDFLARE_API_TOKEN_FILE"] = environ.get("CLOUDFLARE_API_TOKEN_FILE", "/etc/cfchat/cloudflare-api-token")
    if environ.get("CF_AIG_TOKEN") or environ.get("CF_AIG_TOKEN_FILE"):
        paths["CF_AIG_TOKEN_FILE"] = environ.get("CF_AIG_TOKEN_FILE", "/etc/cfchat/cf-aig-token")
    if environ.get("SSL_CERT_FILE"):
        paths["SSL_CERT_FILE"] = environ["SSL_CERT_FILE"]
    for setting, source, place, text, value in find_settings(flags, environ, []):
        if text is None or source is Source.DEFAULT:
            continue
        if place == setting.variable + "_FILE":
            paths[place] = environ[place]
        elif setting.path and isinstance(value, dict) and source is Source.FILE:
            continue  # tables, which stay in the file
        elif setting.path:
            paths[setting.variable] = text
        elif source is not Source.FILE or setting.name == "uds_mode":  # a unit has a default of its own for this one
            settings[setting.variable] = text
    return settings, paths
