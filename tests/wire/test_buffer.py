"""The buffer against a plain bytes object, and how many bytes it looks at."""

from __future__ import annotations

from typing import Any

import pytest
from counting import counted
from hypothesis import example, given
from hypothesis import strategies as st

from cfchat.errors import HeadTooLarge, ProtocolError
from cfchat.wire.buffer import ReceiveBuffer

LIMIT = 6


def too_long() -> ProtocolError:
    return HeadTooLarge("too long")


def model_line(data: bytes) -> tuple[bytes | type[Exception] | None, bytes]:
    """Return what take_line(LIMIT) must return or raise, and the bytes that it must leave."""
    line, end, rest = data.partition(b"\n")
    if not end or len(line) >= LIMIT:
        return (HeadTooLarge if len(data) >= LIMIT else None), data
    return (line[:-1], rest) if line.endswith(b"\r") else (ProtocolError, data)


def real_line(buffer: ReceiveBuffer) -> bytes | type[Exception] | None:
    try:
        return buffer.take_line(LIMIT, too_long)
    except ProtocolError as error:
        return type(error)


PIECES = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"a", b"bc", b"defg"]), max_size=4).map(b"".join)
STEPS = st.lists(
    st.tuples(st.just("append"), PIECES) | st.tuples(st.just("take"), st.integers(0, 5)) | st.just("line")
)


@given(STEPS)
@example([("append", b"\n"), "line"])
def test_it_agrees_with_plain_bytes(steps: list[Any]) -> None:
    buffer, model = ReceiveBuffer(), b""
    for step in steps:
        if step == "line":
            expected, model = model_line(model)
            assert real_line(buffer) == expected
        elif step[0] == "append":
            buffer.append(step[1])
            model += step[1]
        else:
            assert buffer.take(step[1]) == model[: step[1]]
            model = model[step[1] :]
        assert buffer.size == len(model)


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_no_byte_is_searched_twice(size: int) -> None:
    data = (b"x" * 5000 + b"\r\n") * 3
    buffer = ReceiveBuffer()
    counter = counted(buffer)
    lines = []
    for start in range(0, len(data), size):
        buffer.append(data[start : start + size])
        while (line := buffer.take_line(6000, too_long)) is not None:
            lines.append(line)
    assert lines == [b"x" * 5000] * 3
    # Once to find the end, once to take it out, and the CR.
    assert counter.looked_at <= 2 * len(data)


def test_a_line_over_its_limit_is_refused_before_it_ends() -> None:
    buffer = ReceiveBuffer()
    buffer.append(b"abcd\r")
    assert buffer.take_line(LIMIT, too_long) is None
    buffer.append(b"e")
    with pytest.raises(HeadTooLarge):
        buffer.take_line(LIMIT, too_long)


def test_clear_drops_everything() -> None:
    buffer = ReceiveBuffer()
    buffer.append(b"abc\r\nd")
    buffer.take_line(LIMIT, too_long)
    buffer.clear()
    assert buffer.size == 0
    buffer.append(b"e\r\n")
    assert buffer.take_line(LIMIT, too_long) == b"e"
