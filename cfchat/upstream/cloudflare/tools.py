"""Read the calls of tools in a reply. Pure.

The classic dialect sends whole calls, whose arguments may be an object. OpenAI's sends a call in pieces: the first
has its id and name, the others have the same index and more of its arguments. Both come out as pieces with a number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cfchat.conversation.model import ToolCall
from cfchat.conversation.parse import without_surrogates


class ToolCalls:
    """The calls of one reply, numbered from 0."""

    def __init__(self) -> None:
        self._begun = 0
        self._last: dict[object, tuple[int, str]] = {}  # by index: the number and id of the call that grows there

    def read(self, items: object) -> Iterator[ToolCall]:
        """Yield the pieces in the `tool_calls` of one event, as JSON gave them. What is no call is left out."""
        for item in items if type(items) is list else ():
            if type(item) is not dict:
                continue
            function = item.get("function")
            named: dict[str, Any] = function if type(function) is dict else item
            call_id, name, arguments = _text_of(item.get("id")), _text_of(named.get("name")), named.get("arguments")
            if arguments is not None and type(arguments) is not str:
                arguments = json.dumps(arguments, separators=(",", ":"))
            if call_id or name or arguments:
                yield ToolCall(self._number(item.get("index"), call_id, name), call_id, name, _text_of(arguments))

    def _number(self, index: object, call_id: str, name: str) -> int:
        index = index if type(index) is int else None
        number, growing = self._last.get(index, (-1, ""))
        if number < 0 or (call_id and call_id != growing) or (index is None and name):
            number, growing = self._begun, call_id
            self._begun += 1
            self._last[index] = number, growing
        return number


def _text_of(value: object) -> str:
    return without_surrogates(value) if type(value) is str else ""
