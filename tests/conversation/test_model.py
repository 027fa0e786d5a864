"""The model of a conversation: its values cannot be changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cfchat.conversation.model import Delta, Message


@pytest.mark.parametrize(
    "change",
    [lambda: setattr(Delta(), "text", "x"), lambda: setattr(Message("user", "Hi"), "role", "x")],
)
def test_values_are_frozen(change: Callable[[], None]) -> None:
    with pytest.raises(AttributeError):
        change()
