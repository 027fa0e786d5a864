"""The usage of a reply: which one is kept, and what goes out of it."""

from __future__ import annotations

import pytest
from streams import events

from cfchat.upstream.cloudflare.reply import ReplyReader
from cfchat.upstream.cloudflare.usage import Usage


@pytest.mark.parametrize(
    ("totals", "largest"), [((1, 2, 3), 3), ((3, 1), 3), ((5, 0), 5), ((0, 0), None), ((2, 10**15), 2), ((-1,), None)]
)
def test_the_usage_with_the_largest_total_is_kept(totals: tuple[int, ...], largest: int | None) -> None:
    usage = Usage()
    for total in totals:
        usage.add({"total_tokens": total})
    assert usage.counts == (None if largest is None else {"total_tokens": largest})


def test_the_first_of_two_with_the_same_total_is_kept() -> None:
    usage = Usage()
    usage.add({"total_tokens": 3, "completion_tokens": 1})
    usage.add({"prompt_tokens": 1, "completion_tokens": 2})
    assert (usage.counts, usage.completion) == ({"total_tokens": 3, "completion_tokens": 1}, 1)


@pytest.mark.parametrize(
    "usage", [7, "x", [], {}, {"total_tokens": 0}, {"total_tokens": True}, {"total_tokens": "9"}]
)
def test_usage_that_says_nothing(usage: object) -> None:
    reader = ReplyReader(9)
    reader.read(events({"response": "x", "usage": usage}))
    assert reader.usage is None


def test_usage_goes_out_as_counts_only() -> None:
    reader = ReplyReader(9)
    reader.read(
        events(
            '{"usage":{"total_tokens":5,"neurons":1e999,"x":"y","details":{"a":1,"b":{},"c":-1},"d":1e400}}'
        )
    )
    assert reader.usage == {"total_tokens": 5, "details": {"a": 1}}
