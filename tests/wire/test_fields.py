"""Header fields: lookup, order, and work that is linear in their number."""

from __future__ import annotations

from cfchat.wire.fields import Fields
from cfchat.wire.messages import RequestHead


def test_fields() -> None:
    fields = Fields([("A", "1"), ("b", "secret"), ("a", "2")])
    assert list(fields) == [("a", "1"), ("b", "secret"), ("a", "2")]
    assert fields.get("A") == "1, 2" and fields.get_all("a") == ["1", "2"]
    assert fields.get("c") is None and fields.get("c", "d") == "d" and fields.get_all("c") == []
    assert "B" in fields and "c" not in fields and 1 not in fields and len(fields) == 3
    assert fields != list(fields) and repr(Fields([("A", "x"), ("b", "y")])) == "Fields(a, b)"
    assert fields == Fields(fields) and hash(fields) == hash(Fields(fields)) and fields != Fields()
    assert "secret" not in repr(RequestHead("GET", "/", 1, fields))


class Compared(str):
    """A name that counts how often it is compared."""

    times = 0

    def lower(self) -> Compared:
        return self

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_repeated_fields_are_linear() -> None:
    """Under ASGI no reader limits the number of fields."""
    Compared.times = 0
    fields = Fields([*((Compared(f"x-{number}"), "a") for number in range(1000)), (Compared("x-1"), "b")])
    assert fields.get("x-1") == "a, b" and fields.get("x-2") == "a"
    assert Compared.times < 10_000
