"""Header fields and trailers (RFC 9110 §5).

A field section is read once and asked several times, so its lookup table is built at once. Names are compared in
lower case. Repeated fields are kept, in order; `get` joins them as RFC 9110 §5.3 allows. Values are Latin-1 text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import overload


class Fields:
    """Header fields in their order, with names in lower case. Immutable."""

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
        """Return all values of a name, joined with commas (RFC 9110 §5.3), or the default."""
        joined = self._joined
        if name in joined:
            return joined[name]
        lowered = name.lower()
        return default if lowered == name else joined.get(lowered, default)

    def get_all(self, name: str) -> list[str]:
        """Return the values of a name, one for each field line."""
        name = name.lower()
        return [value for known, value in self._items if known == name]

    def __contains__(self, name: object) -> bool:
        return name in self._joined or str(name).lower() in self._joined

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return self._items == other._items if isinstance(other, Fields) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        # Names only: values may be secrets, and a repr ends up in a log some day.
        return f"Fields({', '.join(name for name, _ in self._items)})"


NO_FIELDS = Fields()


def members(fields: Fields, name: str) -> list[str]:
    """Split a comma-separated field (RFC 9110 §5.6.1) into its members, in lower case."""
    return [member.strip(" \t").lower() for member in (fields.get(name) or "").split(",")]
