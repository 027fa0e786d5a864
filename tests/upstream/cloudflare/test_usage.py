"""The usage of a reply: which one is kept, and what goes out of it."""

from __future__ import annotations

import pytest
from streams import events

from cfchat.errors import UpstreamError
from cfchat.upstream.cloudflare.reply import ReplyReader
from cfchat.upstream.cloudflare.usage import Cost, Usage, read_neurons


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


def test_a_name_that_could_be_any_text_is_left_out() -> None:
    usage = Usage()
    details = {"a_token": 1, "0123abcd": 1}
    usage.add({"total_tokens": 3, "Bearer x": 1, "details": details, "x y": {"a": 1}, "a" * 41: 1})
    assert usage.counts == {"total_tokens": 3, "details": {"a_token": 1}}


# --- the cost -------------------------------------------------------------------------------------

WORDS = {"response": "x" * 30}
TOLD = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}


@pytest.mark.parametrize(
    ("said", "cost"),
    [
        ((), Cost()),
        ((WORDS, WORDS), Cost(unreported=60)),
        (({"response": "é"}, {"response": "\ud83d"}, {"response": "\ude00"}), Cost(unreported=6)),
        (({**WORDS, "usage": TOLD},), Cost(5, 7, 12)),
        ((WORDS, {"usage": TOLD}, WORDS), Cost(5, 7, 12, unreported=30)),
        ((WORDS, {"usage": {"total_tokens": 12}}), Cost(total=12)),
        ((WORDS, {"usage": {"prompt_tokens": 5}}), Cost(5, unreported=30)),
        ((WORDS, {"usage": {"input_tokens": 5, "output_tokens": 7.0}}), Cost(5, 7)),
        (({"usage": {**TOLD, "neurons": 0.5}}, {"usage": {"neurons": 2}}), Cost(5, 7, 12, 2)),
        (({"usage": {**TOLD, "neurons": 3}}, {"usage": {"neurons": 2}}), Cost(5, 7, 12, 3)),
        (({"usage": {"neurons": 2}}, WORDS), Cost(neurons=2, unreported=30)),
        (({"choices": [{"delta": {"reasoning": "hm"}}]}, {"response": "<think>"}), Cost(unreported=9)),
        (({"tool_calls": [{"name": "f", "arguments": {"é": 1}}]},), Cost(unreported=len('f{"\\u00e9":1}'))),
    ],
)
def test_the_cost_so_far(said: tuple[object, ...], cost: Cost) -> None:
    for tools in (False, True):
        reader = ReplyReader(9, tools=tools)
        reader.read(events(*said))
        assert reader.cost == cost


def test_the_usage_of_a_whole_reply_counts_all_of_it() -> None:
    reader = ReplyReader(9)
    reader.read(events({"response": "a", "usage": TOLD}, WORDS, {"response": "", "usage": TOLD}, "[DONE]"))
    reader.close(None)
    assert reader.cost == Cost(5, 7, 12)


def test_an_error_alone_costs_nothing() -> None:
    for said, cost in (((), None), ((WORDS,), Cost(unreported=30)), (({"usage": TOLD},), Cost(5, 7, 12))):
        reader = ReplyReader(9)
        reader.read(events(*said))
        with pytest.raises(UpstreamError):
            reader.read(events({"errors": [{"code": 3040, "message": "x"}]}))
        assert reader.cost == cost


@pytest.mark.parametrize(
    ("field", "neurons"),
    [("0", 0.0), ("1.5", 1.5), ("12e-3", 0.012), ("+1", None), ("1_0", None), (" 1", None), ("inf", None), ("", None)]
    + [("9" * 16, None), ("1e99", None), ("1, 2", None), ("١", None)],
)
def test_neurons_of_a_field(field: str, neurons: float | None) -> None:
    assert read_neurons(field) == neurons
