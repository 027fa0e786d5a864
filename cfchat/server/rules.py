"""What a server is given: how it answers, how it words errors, what it allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cfchat.server.record import Record
from cfchat.server.reply import Handler, Refuse
from cfchat.server.request import Direct, Limits, Peers


class Rules(NamedTuple):
    """`handler` answers, `refuse` words errors, `note` gets the record of each request that is over."""

    handler: Handler
    refuse: Refuse
    limits: Limits = Limits()
    peers: Peers = Direct()
    note: Callable[[Record], None] = lambda record: None
