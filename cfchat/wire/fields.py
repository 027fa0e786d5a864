"""HTTP/1.1 messages (RFC 9112), read and written, for both roles. Sans-I/O.

A reader takes bytes (`receive_data`, `receive_eof`) and gives events (`next_event`). It is in one of four states,
each a method that gives the next event, or None to go on in another state:

    start line -> field lines -> body -> (chunked only) trailers -> start line, or ended

Every verdict depends on a prefix of all bytes that came, never on how they were cut: lines are looked at up to
their limit and no further, and data before an error is given before the error.
What is ambiguous is refused, not repaired. After an error there is nothing but that error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import overload


class Fields:
    """Header fields: in order, names in lower case, repeated ones kept. Immutable."""

    __slots__ = ("_items", "_joined")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items = tuple([(name.lower(), value) for name, value in items])
        self._joined = dict(self._items)
        if len(self._joined) != len(self._items):
            lists: dict[str, list[str]] = {}
            for name, value in self._items:
                lists.setdefault(name, []).append(value)
            self._joined = {name: ", ".join(values) for name, values in lists.items()}

    @overload
    def get(self, name: str) -> str | None: ...

    @overload
    def get(self, name: str, default: str) -> str: ...

    def get(self, name: str, default: str | None = None) -> str | None:
        """All values under a name as one list (RFC 9110 §5.2), or the default."""
        joined = self._joined
        return joined[name] if name in joined else joined.get(name.lower(), default)

    def get_all(self, name: str) -> list[str]:
        """The values under a name, one for each line it came in."""
        name = name.lower()
        return [value for known, value in self._items if known == name]

    def __contains__(self, name: object) -> bool:
        return name in self._joined or (isinstance(name, str) and name.lower() in self._joined)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return self._items == other._items if isinstance(other, Fields) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        # Values may be secrets, and whatever has a repr ends up in a log some day.
        return f"Fields({', '.join(name for name, _ in self._items)})"


NO_FIELDS = Fields()


def members(fields: Fields, name: str) -> list[str]:
    """A comma-separated field (RFC 9110 §5.6.1) as members in lower case."""
    return [member.strip(" \t").lower() for member in (fields.get(name) or "").split(",")]
