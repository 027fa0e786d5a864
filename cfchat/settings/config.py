"""Hold all settings, checked.

Each room declares its own small settings. A Config is their sum; it is built once, by load.py, and no room sees the
settings of another. Secrets in it are `Secret`s, whose repr shows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cfchat.app import routes as app
from cfchat.guard import guard
from cfchat.guard.addresses import CLIENT_FIELDS, Network
from cfchat.net.listen import Where
from cfchat.ops import logs
from cfchat.server.request import Limits
from cfchat.upstream import client


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, checked, a part for each room. `load_config` makes one.

    `upstream` is None for the demo, which has its own, and takes `source_base_url` from here. `given` are the names of
    the settings that come from elsewhere than their defaults.

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
    forwarded_fields: tuple[str, ...] = CLIENT_FIELDS
    server: Limits = field(default_factory=Limits)
    page: bool = True
    admin: tuple[str, int] | None = None
    log_level: str = "info"
    log_format: str = logs.TEXT
    source_base_url: str = ""
    given: frozenset[str] = frozenset()
