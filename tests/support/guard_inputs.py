"""Keys, header fields and a time, for tests of the guard."""

from __future__ import annotations

from cfchat.wire.fields import Fields

NOON = 86400.0 * 20000 + 43200  # UTC, in seconds since the epoch
KEY, OTHER = "k" * 16, "o" * 16 + "=="


def fields(**named: str) -> Fields:
    """Return header fields; `_` stands for `-`."""
    return Fields([(name.replace("_", "-"), value) for name, value in named.items()])

