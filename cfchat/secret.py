"""A value that must not be shown.

Logs, tracebacks and error messages print values by their repr. A secret is wrapped where it is read and unwrapped
only where it goes onto the wire, so no line in between can print it by accident.
"""

from __future__ import annotations


class Secret:
    """A string whose repr is `***`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._value

    def __repr__(self) -> str:
        return "***"
