"""Print a file for the place where cfchat shall run, with the settings of this installation (`cfchat deploy NAME`).

A template in cfchat/deploy/ and a function of the Installation make each file. The function knows how its format quotes
a text, and refuses what the format cannot express. No secret is printed and none is needed: only the paths of files
that hold secrets. `pyz` is the whole program as one zip file, the same bytes wherever one version of Python makes it.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from cfchat import __version__
from cfchat.cli.terminal import OK, say
from cfchat.errors import ConfigError
from cfchat.net.listen import Where, url_of
from cfchat.settings.load import load
from cfchat.settings.sources import export

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

PYZ = "pyz"
WHOLE_REPLY = 240.0  # seconds until Cloudflare gives up a reply that it does not stream (its code 3046)
FOLDER = "/etc/cfchat"
ADMIN = ("127.0.0.1", 9187)  # where Prometheus asks if no --admin is set


class Installation(NamedTuple):
    """What runs here: the `command` line, `settings` by environment variable, `files` that variables name by path.

    A reply gives no byte for `queue`, `tries` and `reply` seconds at most: while it waits for its turn, until its last
    try begins, and in that try, if all of it comes at once. `drain` is the longest stop in seconds. `body` is in bytes.
    `streams` and `connections` are limits of one process. `admin` is where the metrics are.
    """

    command: Sequence[str]
    version: str
    where: Where
    workers: int
    settings: Mapping[str, str]
    files: Mapping[str, str]
    queue: float
    tries: float
    reply: float
    drain: float
    body: int
    streams: int
    connections: int
    domain: str = "chat.example.com"
    admin: str = ""

    @property
    def places(self) -> dict[str, str]:
        """File names by variable, for places that do not keep the paths of `files`."""
        return {variable: _place(variable) for variable in self.files}


def _place(variable: str) -> str:
    """Return the name of a variable's file: `api-keys-file` for CFCHAT_API_KEYS_FILE."""
    name = variable.removeprefix("CFCHAT_").lower().replace("_", "-")
    return name if name.startswith("api-keys") else name.removesuffix("-file")


def render(name: str, here: Installation) -> str:
    """Return the text of a file.

    Raises:
        ConfigError: its format cannot express a setting.
    """
    template, fill = KINDS[name]
    from importlib.resources import files
    from string import Template

    text = files("cfchat").joinpath("deploy", template).read_text("utf-8")
    return Template(text).substitute(fill(here))


def _unit(here: Installation) -> dict[str, object]:
    places = {variable: f"%d/{name}" for variable, name in here.places.items()}
    # The proxy runs as a user of its own. What may connect to a port of loopback may then open the socket, too.
    mode = {"CFCHAT_UDS_MODE": "666"} if here.where.uds else {}
    settings = [f"Environment={_word(f'{name}={value}')}" for name, value in {**mode, **here.settings}.items()]
    # %d is the folder of credentials, which systemd alone knows.
    settings += [f"Environment={variable}={place}" for variable, place in places.items()]
    loaded = [f"LoadCredential={here.places[name]}:{_plain(path)}" for name, path in here.files.items()]
    low = here.where.uds is None and 0 < here.where.port < 1024
    bind = "CAP_NET_BIND_SERVICE" if low else ""
    # A capability within a user namespace does not open the machine's ports.
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
    match = re.fullmatch(r"/run/([A-Za-z0-9_-]+)/[^/]+", where.uds)
    if match is None:
        raise ConfigError("--uds must be such as /run/cfchat/cfchat.sock: this unit may write to no other folder")
    return f"RuntimeDirectory={match[1]}\n"


def _plain(path: str) -> str:
    if re.search(r"[\s:\"'\\]", path):
        raise ConfigError(f"{path} has a blank, colon or quote in it, which LoadCredential= cannot express")
    return path.replace("%", "%%")


def _word(text: str) -> str:
    """Return a text as one word of a unit file, systemd.syntax(7). A plain `%` would begin a specifier."""
    if re.fullmatch(r"[A-Za-z0-9_./:=,@+-]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    return f'"{escaped}"'


def _inside(here: Installation) -> dict[str, str]:
    """Return the settings within a container: it listens on its own address, and finds files in FOLDER."""
    own = {name: value for name, value in here.settings.items() if name not in ("CFCHAT_UDS", "CFCHAT_UDS_MODE")}
    if here.where.uds and "CFCHAT_UDS" not in here.settings:
        raise ConfigError("take uds out of the file of settings: a container listens on an address of its own")
    places = {variable: f"{FOLDER}/{name}" for variable, name in here.places.items()}
    return {**own, "CFCHAT_HOST": "0.0.0.0", "CFCHAT_PORT": str(here.where.port or 8787), **places}


def _containerfile(here: Installation) -> dict[str, object]:
    settings = _inside(here)
    for name, value in settings.items():
        if "\n" in value:
            raise ConfigError(f"{name} has a line break, which ENV cannot express: name a file by {name}_FILE")
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
        # A plain $(NAME) would stand for another variable.
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
        # MiB of a process and of a running reply, as deploy/README.md has them under Many machines.
        "memory": f"{processes * (64 + ceil(here.streams * 0.35))}Mi",
        "streams": max(1, processes * here.streams * 6 // 10),
    }


def _scheme(where: Where) -> str:
    return "https" if where.cert else "http"


def _proxy(unix: str) -> Callable[[Installation], dict[str, object]]:
    """Return the function for a proxy. `unix` is its prefix of a unix socket's address."""

    def fill(here: Installation) -> dict[str, object]:
        where = here.where
        if where.cert:
            raise ConfigError("leave out --tls-cert: the proxy speaks HTTPS to clients, and plain HTTP to cfchat here")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(where.host, where.host)
        tcp = f"[{host}]:{where.port}" if ":" in host else f"{host}:{where.port}"
        trust = "nothing more: every peer on its unix socket is believed" if where.uds else f"--trusted-proxies {host}"
        return {
            "address": unix + where.uds if where.uds else tcp,
            "domain": here.domain,
            "trust": trust,
            "queue": ceil(here.queue),
            "tries": ceil(here.tries),
            "reply": ceil(here.reply),
            "wait": ceil(here.queue) + ceil(here.tries) + ceil(here.reply) + 15,
            "body": here.body,
            "connections": here.connections,
        }

    return fill


def _alerts(here: Installation) -> dict[str, object]:
    return {"admin": here.admin, "workers": max(1, here.workers)}


KINDS: Mapping[str, tuple[str, Callable[[Installation], dict[str, object]]]] = {
    "systemd": ("cfchat.service", _unit),
    "container": ("Containerfile", _containerfile),
    "kubernetes": ("kubernetes.yaml", _manifests),
    "nginx": ("nginx.conf", _proxy("unix:")),
    "caddy": ("Caddyfile", _proxy("unix/")),
    "haproxy": ("haproxy.cfg", _proxy("unix@")),
    "alerts": ("alerts.yaml", _alerts),
    "grafana": ("grafana.json", lambda here: {}),
}
_START = b"#!/usr/bin/env python3\n"
_MAIN = b"import sys\n\nfrom cfchat.cli.start import main\n\nsys.exit(main())\n"


def archive() -> bytes:
    """Return all of cfchat as one file that Python runs, with this Python's bytecode beside the source.

    Another version of Python finds bytecode that is not its own, and compiles the source at each start. The bytes
    depend on the files of the package and the version of Python alone.
    """
    import zipfile
    from importlib.resources import files

    out = io.BytesIO()
    out.write(_START)
    with zipfile.ZipFile(out, "w") as packed:
        for name, body in _with_bytecode([("__main__.py", _MAIN), *sorted(_contents(files("cfchat"), "cfchat"))]):
            entry = zipfile.ZipInfo(name)  # of 1980, not compressed: another zlib would write other bytes
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            packed.writestr(entry, body)
    return out.getvalue()


def _contents(folder: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    for item in folder.iterdir():
        path = f"{name}/{item.name}"
        if item.is_dir() and item.name != "__pycache__":
            yield from _contents(item, path)
        elif item.is_file() and not path.endswith(".pyc"):  # a .pyz has them here
            yield path, item.read_bytes()


def _with_bytecode(sources: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """Give each file, and behind each module its bytecode where zipimport looks for it: NAME.pyc, no __pycache__."""
    import marshal
    from importlib.util import MAGIC_NUMBER, source_hash

    for name, body in sources:
        yield name, body
        if name.endswith(".py"):
            # PEP 552: the hash of the source in place of its time, and 0b01 says that it need not be compared. The path
            # is what a traceback names; it leads to no file, so the lines come from the source in the zip.
            code = compile(body, f"cfchat.pyz/{name}", "exec", dont_inherit=True, optimize=0)
            # From version 3 on marshal also writes which strings the whole process shares: other bytes in each process.
            yield f"{name}c", MAGIC_NUMBER + b"\1\0\0\0" + source_hash(body) + marshal.dumps(code, 2)


def print_deployment(flags: Mapping[str, Any]) -> int:
    """Print the file that the flags name. Return the exit code.

    Raises:
        ConfigError: a setting is wrong, or the format of the file cannot express it.
    """
    if flags["kind"] == PYZ:
        if sys.stdout.isatty():
            raise ConfigError("this is a program and not a text: cfchat deploy pyz > cfchat.pyz")
        sys.stdout.buffer.write(archive())
        return OK
    # No secret is printed, so none need be known here.
    unneeded = {"CLOUDFLARE_ACCOUNT_ID": "0" * 32, "CLOUDFLARE_API_TOKEN": "unneeded", "CF_AIG_TOKEN": "unneeded"}
    config = load(flags, {**os.environ, **unneeded})
    assert config.upstream is not None
    waits, domain = config.upstream.deadlines, flags["domain"]
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?", domain):
        raise ConfigError("--domain must be a host's name such as chat.example.com")
    settings, paths = export(flags, os.environ)
    here = Installation(
        command=_own_command(),
        version=__version__,
        where=config.where,
        workers=config.workers,
        settings=settings,
        files={name: os.path.abspath(path) for name, path in paths.items()},
        queue=config.app.queue_timeout,
        # The last try may connect twice: a pooled connection that has died is replaced.
        tries=config.upstream.policy.budget + 2 * waits.connect,
        reply=waits.whole_reply or max(WHOLE_REPLY, waits.first_delta, waits.between_deltas),
        drain=config.server.drain,
        body=config.app.max_body,
        streams=config.app.max_streams,
        connections=config.server.connections,
        domain=domain,
        admin=url_of(config.admin or ADMIN, False).removeprefix("http://"),
    )
    print(render(flags["kind"], here), end="")
    home = [word for word in here.command if word.startswith(("/home/", "/root/", "/run/user/"))]
    if flags["kind"] == "systemd" and home:
        say(f"the unit cannot see {home[0]}, in a home folder: install cfchat elsewhere, for example in /opt")
    return OK


def _own_command() -> list[str]:
    """Return how this program was started, by absolute paths."""
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) != "__main__.py":
        return [sys.executable, script]
    # Started by `python3 -m cfchat`, from where it is installed or from the current folder.
    start = os.path.join(os.path.dirname(os.path.dirname(script)), "cfchat_server.py")
    return [sys.executable, start] if os.path.exists(start) else [sys.executable, "-m", "cfchat"]
