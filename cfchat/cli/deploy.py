"""`cfchat deploy NAME`: a file for the place where cfchat shall run, this installation's settings filled in.

What only this command needs is imported where it is needed: the names of the kinds are part of every start.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from cfchat.cli.terminal import OK, say
from cfchat.errors import ConfigError
from cfchat.net.listen import Where

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable
import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from cfchat import __version__
from cfchat.settings.load import export, load

PYZ = "pyz"
TOKEN = "CLOUDFLARE_API_TOKEN_FILE"
ACCOUNT = "CLOUDFLARE_ACCOUNT_ID"
FOLDER = "/etc/cfchat"


class Installation(NamedTuple):
    """What runs here: `command` line, `settings` by environment variable, `files` that variables name by path.

    `wait` is the longest silence of a reply and `drain` that of a stop, in seconds; the rest are limits of one process.
    """

    command: Sequence[str]
    version: str
    where: Where
    workers: int
    settings: Mapping[str, str]
    files: Mapping[str, str]
    wait: float
    drain: float
    body: int
    streams: int
    connections: int
    domain: str = "chat.example.com"

    @property
    def places(self) -> dict[str, str]:
        """Of the files, by name, where their own paths are not kept."""
        return {variable: _place(variable) for variable in self.files}


def _place(variable: str) -> str:
    """A file's name: `api-keys-file` for CFCHAT_API_KEYS_FILE."""
    name = variable.removeprefix("CFCHAT_").lower().replace("_", "-")
    return name if name.startswith("api-keys") else name.removesuffix("-file")


def render(name: str, here: Installation) -> str:
    """The file, text. Raises ConfigError where the settings cannot be told in it."""
    template, fill = KINDS[name]
    from importlib.resources import files
    from string import Template

    text = files("cfchat").joinpath("deploy", template).read_text("utf-8")
    return Template(text).substitute(fill(here))


def _unit(here: Installation) -> dict[str, object]:
    places = {variable: f"%d/{name}" for variable, name in here.places.items()}
    settings = [f"Environment={_word(f'{name}={value}')}" for name, value in here.settings.items()]
    # The credentials' folder is known to systemd alone: its %d must stay as it is.
    settings += [f"Environment={variable}={place}" for variable, place in places.items()]
    loaded = [f"LoadCredential={here.places[name]}:{_plain(path)}" for name, path in here.files.items()]
    low = here.where.uds is None and 0 < here.where.port < 1024
    bind = "CAP_NET_BIND_SERVICE" if low else ""
    # In a user namespace of its own a capability would not reach the machine's ports.
    apart = "no" if low else "yes"
    return {
        "command": " ".join(_word(word).replace("$", "$$") for word in here.command),
        "settings": "\n".join(settings),
        "credentials": "\n".join(loaded),
        "capabilities": f"PrivateUsers={apart}\nCapabilityBoundingSet={bind}\nAmbientCapabilities={bind}",
        "runtime": _runtime(here.where),
        "stop": ceil(here.drain) + 15,
        "files": 2 * here.connections + 64,
    }


def _runtime(where: Where) -> str:
    if where.uds is None:
        return ""
    found = re.fullmatch(r"/run/([A-Za-z0-9_-]+)/[^/]+", where.uds)
    if found is None:
        raise ConfigError("--uds must be such as /run/cfchat/cfchat.sock: nothing else may be written to in this unit")
    return f"RuntimeDirectory={found[1]}\n"


def _plain(path: str) -> str:
    if re.search(r"[\s:\"'\\]", path):
        raise ConfigError(f"{path} has a blank, colon or quote in it, which LoadCredential= cannot tell")
    return path.replace("%", "%%")


def _word(text: str) -> str:
    """One word of a unit file, systemd.syntax(7); `%` would name a specifier."""
    if re.fullmatch(r"[A-Za-z0-9_./:=,@+-]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    return f'"{escaped}"'


def _inside(here: Installation) -> dict[str, str]:
    """The settings within a container, whose only address is its own."""
    own = {name: value for name, value in here.settings.items() if name not in ("CFCHAT_UDS", "CFCHAT_UDS_MODE")}
    places = {variable: f"{FOLDER}/{name}" for variable, name in here.places.items()}
    return {**own, "CFCHAT_HOST": "0.0.0.0", "CFCHAT_PORT": str(here.where.port or 8787), **places}


def _containerfile(here: Installation) -> dict[str, object]:
    settings = _inside(here)
    for name, value in settings.items():
        if "\n" in value:
            raise ConfigError(f"{name} has a line break, which ENV cannot tell: name a file by {name}_FILE")
    mounts = [f"--volume {path}:{settings[name]}:ro" for name, path in here.files.items()]
    return {
        "version": here.version,
        "port": settings["CFCHAT_PORT"],
        "scheme": _scheme(here.where),
        "mounts": " ".join(mounts),
        "settings": " \\\n    ".join(f"{name}={_env(value)}" for name, value in settings.items()),
    }


def _env(text: str) -> str:
    return '"' + re.sub(r'([\\"$])', r"\\\1", text) + '"'


def _manifests(here: Installation) -> dict[str, object]:
    settings = _inside(here)
    processes = max(1, here.workers)
    secret = [f"--from-file={here.places[name]}={path}" for name, path in here.files.items()]
    lines = [
        # $(NAME) would stand for another variable.
        f"            - {{ name: {name}, value: {json.dumps(value.replace('$', '$$'))} }}"
        for name, value in settings.items()
    ]
    return {
        "version": here.version,
        "port": settings["CFCHAT_PORT"],
        "scheme": _scheme(here.where).upper(),
        "secret": " ".join(secret),
        "settings": "\n".join(lines),
        "grace": ceil(here.drain) + 15,
        # README, Limits: what a process and a running reply cost.
        "memory": f"{processes * (64 + ceil(here.streams * 0.35))}Mi",
        "streams": max(1, processes * here.streams * 6 // 10),
    }


def _scheme(where: Where) -> str:
    return "https" if where.cert else "http"


def _proxy(unix: str) -> Callable[[Installation], dict[str, object]]:
    """`unix` is how the proxy writes the address of a unix socket."""

    def fill(here: Installation) -> dict[str, object]:
        where = here.where
        if where.cert:
            raise ConfigError("leave --tls-cert out: the proxy speaks HTTPS, and to cfchat plain HTTP on this machine")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(where.host, where.host)
        tcp = f"[{host}]:{where.port}" if ":" in host else f"{host}:{where.port}"
        trust = "nothing more: the peers of its unix socket are believed" if where.uds else f"--trusted-proxies {host}"
        return {
            "address": unix + where.uds if where.uds else tcp,
            "domain": here.domain,
            "trust": trust,
            "wait": ceil(here.wait) + 15,
            "body": here.body,
            "connections": here.connections,
        }

    return fill


KINDS: Mapping[str, tuple[str, Callable[[Installation], dict[str, object]]]] = {
    "systemd": ("cfchat.service", _unit),
    "container": ("Containerfile", _containerfile),
    "kubernetes": ("kubernetes.yaml", _manifests),
    "nginx": ("nginx.conf", _proxy("unix:")),
    "caddy": ("Caddyfile", _proxy("unix/")),
    "haproxy": ("haproxy.cfg", _proxy("unix@")),
}
_START = b"#!/usr/bin/env python3\n"
_MAIN = b"import sys\n\nfrom cfchat.cli.main import main\n\nsys.exit(main())\n"


def archive() -> bytes:
    """The whole of cfchat as one file that Python runs: the same bytes whoever makes it, wherever and whenever."""
    import zipfile
    from importlib.resources import files

    out = io.BytesIO()
    out.write(_START)
    with zipfile.ZipFile(out, "w") as packed:
        for name, body in (("__main__.py", _MAIN), *sorted(_contents(files("cfchat"), "cfchat"))):
            entry = zipfile.ZipInfo(name)  # of 1980, not compressed: another zlib would write other bytes
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            packed.writestr(entry, body)
    return out.getvalue()


def _contents(folder: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    for item in folder.iterdir():
        path = f"{name}/{item.name}"
        if item.is_file():
            yield path, item.read_bytes()
        elif item.name != "__pycache__":
            yield from _contents(item, path)


def print_deployment(flags: Mapping[str, Any]) -> int:
    """Print the file that was asked for. No secret is in it, and none is needed to make it."""
    if flags["kind"] == PYZ:
        if sys.stdout.isatty():
            raise ConfigError("this is a program, not a text: cfchat deploy pyz > cfchat.pyz")
        sys.stdout.buffer.write(archive())
        return OK
    # Neither is written down: whoever makes the file need not have them.
    unneeded = {"CLOUDFLARE_ACCOUNT_ID": "0" * 32, "CLOUDFLARE_API_TOKEN": "unneeded", "CF_AIG_TOKEN": "unneeded"}
    config = load(flags, {**os.environ, **unneeded})
    assert config.upstream is not None
    waits = config.upstream.deadlines
    settings, paths = export(flags, os.environ)
    here = Installation(
        command=_own_command(),
        version=__version__,
        where=config.where,
        workers=config.workers,
        settings=settings,
        files={name: os.path.abspath(path) for name, path in paths.items()},
        wait=max(waits.first_delta, waits.between_deltas),
        drain=config.server.drain,
        body=config.app.max_body,
        streams=config.app.max_streams,
        connections=config.server.connections,
        domain=flags["domain"],
    )
    print(render(flags["kind"], here), end="")
    home = [word for word in here.command if word.startswith(("/home/", "/root/", "/run/user/"))]
    if flags["kind"] == "systemd" and home:
        say(f"the unit will not see {home[0]}, in somebody's home: install cfchat elsewhere, in /opt for one")
    return OK


def _own_command() -> list[str]:
    """How this program was started, by absolute paths."""
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) != "__main__.py":
        return [sys.executable, script]
    # By `python3 -m cfchat`, which finds it where it is installed, or else in the current folder.
    start = os.path.join(os.path.dirname(os.path.dirname(script)), "cfchat_server.py")
    return [sys.executable, start] if os.path.exists(start) else [sys.executable, "-m", "cfchat"]


def domain(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?", text):
        raise argparse.ArgumentTypeError("must be a host's name such as chat.example.com")
    return text
