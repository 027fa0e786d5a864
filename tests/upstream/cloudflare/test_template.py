"""Templates: which events match one, and what is left in doubt."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import PADS, WORDS

from cfchat.upstream.cloudflare.template import Match, Template, find

USAGE = '{"completion_tokens":%d,"total_tokens":%d,"details":{"cached":0},"neurons":0.5}'


def templates() -> tuple[Template, Template, Template]:
    """Return a plain one, one with padding, and one with a usage, none of which has read anything."""
    return (
        Template(['{"response":"', '"}'], ["text"]),
        Template(['{"choices":[{"delta":{"content":"', '"}}],"p":"', '"}'], ["text", "padding"]),
        Template(['{"usage":', ',"choices":[{"delta":{"content":"', '"}}]}'], ["usage", "text"], USAGE % (1, 1)),
    )


CLASSIC, PADDED, _ = templates()


def counted() -> Template:
    return templates()[2]


def event(template: Template, text: str, padding: str = "ab", usage: str = USAGE % (1, 1)) -> bytes:
    return f"data: {template.fill(text, padding, usage)}\n\n".encode("utf-8", "surrogatepass")


def test_an_odd_event_ends_nothing() -> None:
    """A backslash of the model's own is parsed; what follows is skimmed again."""
    template = find('{"response":"a"}')
    assert template is not None
    assert template.read(b'data: {"response":"\\\\"}\n\n') is None
    assert template.read(b'data: {"response":"b"}\n\ndata: [DONE]\n\n') == Match("b", {}, b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    "words",
    [
        ["a\\", ',"b'],  # one string ends too late, the other too early
        ['x\\\\",', ","],  # three strings in the place of two
        ['a","response":"b'],
        ["a\nb"],
        ["a\tb"],
        ["\\u00", "41"],  # right only if they are put together
        ["\\"],
        ["\\\\"],
        ["\\x"],
        ["a", "\\"],
        ["\\", "a"],
        ["a\r"],
    ],
)
def test_text_in_doubt_does_not_match(words: list[str]) -> None:
    for template in templates():
        raw = b"".join(event(template, word) for word in words)
        assert template.read(raw) is None and template.one(raw) is None


@pytest.mark.parametrize("padding", ["\\", 'a"', '","q":"', "é", " ", "\n", '"}}],"p":"'])
def test_padding_in_doubt_does_not_match(padding: str) -> None:
    raw = b"".join(event(PADDED, "a", other) for other in ("ab", padding, "ab"))
    assert PADDED.read(raw) is None
    assert PADDED.one(event(PADDED, "a", padding)) is None


@pytest.mark.parametrize(
    "usage",
    [
        USAGE.replace("0.5", number) % (1, 1)
        for number in ("01", "1.", ".5", "1.2.3", "--1", "1e", "", '"1"', "null", "NaN", "1 ", "1" * 5000)
    ]
    + ["", "{}", USAGE[:-1] % (1, 1), USAGE[:-1] % (1, 1) + ',"more":1}', USAGE.replace("neurons", "n1") % (1, 1)],
)
def test_a_usage_in_doubt_does_not_match(usage: str) -> None:
    template = counted()
    raw = b"".join(event(template, "a", usage=other) for other in (USAGE % (1, 1), usage, USAGE % (1, 1)))
    assert template.read(raw) is None
    assert template.one(event(template, "a", usage=usage)) is None


@pytest.mark.parametrize("total", ["-1", "1e3", "null", "1" * 16, "9" * 400 + ".0"])
def test_events_of_which_one_has_a_total_that_is_no_count_do_not_match(total: str) -> None:
    template = counted()
    assert template.read(event(template, "a") + event(template, "b", usage=USAGE.replace("%d", total))) is None


def test_a_total_below_zero_does_not_match_among_others() -> None:
    template = find('{"response":"a","usage":{"completion_tokens":5,"total_tokens":-0}}')
    assert template is not None
    usages = ['{"completion_tokens":6,"total_tokens":-7}', '{"completion_tokens":9,"total_tokens":-8}']
    assert template.read(b"".join(event(template, "a", usage=usage) for usage in usages)) is None


def test_the_first_usage_with_the_largest_total_is_the_one_that_counts() -> None:
    usages = [USAGE % pair for pair in ((1, 1), (2, 20), (3, 20), (4, 9), (5, 0))]
    template = counted()
    raw = b"".join(event(template, "a", usage=usage) for usage in usages)
    assert template.read(raw) == Match("aaaaa", json.loads(usages[1]), b"")
    assert template.one(event(template, "a", usage=usages[3])) == Match("a", json.loads(usages[3]), b"")


def test_a_usage_that_was_just_read_is_not_read_again() -> None:
    template, usage = counted(), USAGE % (2, 3)
    for raw in (event(template, "a"), event(template, "a") * 2):  # of the event that the template was learned from
        match = template.read(raw)
        assert match is not None and match.usage == {}
    raw = event(template, "a", usage=usage)
    assert template.one(raw) == Match("a", json.loads(usage), b"")
    assert template.one(raw) == Match("a", {}, b"")


def test_a_usage_is_read_later_if_the_text_is_in_doubt() -> None:
    template, usage = counted(), USAGE % (2, 3)
    raw = event(template, "\\n", usage=usage)
    assert template.one(raw) is None
    assert template.read(raw + event(template, "\\x")) is None
    assert template.read(raw) == Match("\n", json.loads(usage), b"")


@pytest.mark.parametrize(
    "usage",
    [
        '{"completion_tokens":1}',  # its total would have to be added up
        '{"total_tokens":"1"}',
        '{"total_tokens":true}',
        '{"details":{"total_tokens":1}}',
        '{"total_tokens":1,]}',
        '{"a":' * 2 + "7" + "}" * 2,
    ],
)
def test_a_usage_without_a_plain_total_is_the_same_in_all_events(usage: str) -> None:
    template = find(f'{{"response":"a","usage":{usage}}}')
    assert template is not None and template.example_usage == ""
    assert template.one(event(template, "b")) == Match("b", {}, b"")


def test_an_event_that_lacks_a_part_does_not_match() -> None:
    raw = b'data: {"choices":[{"delta":{"content":"a"}\n\n' + event(PADDED, "b")
    assert PADDED.read(raw) is None
    for raw in (b"", b"\n\n", b'data: {"response":"a"}\n', b'data: {"response":"}\n\n', b"\xff"):
        assert CLASSIC.read(raw) is None
    assert CLASSIC.read(b'data: {"response":"\xff"}\n\n') is None  # U+FFFD is for the parser to say


@pytest.mark.parametrize(
    "behind", [b"data: {", b'data: {"response":"', b'data: {"response":"c"}\n', b'data: {"x":1}\n\n']
)
def test_events_match_up_to_one_that_is_another_or_not_whole(behind: bytes) -> None:
    for template in templates():
        raw = event(template, "a") + event(template, "b")
        match = template.read(raw + behind)
        assert match is not None and (match.text, match.rest) == ("ab", behind)
        assert template.read(behind + raw) is None


USAGES = st.sampled_from([USAGE % (1, 1), USAGE % (12, 345), "{}", ""])


@given(WORDS, PADS, USAGES, st.binary(max_size=3), st.integers(0, 60))
def test_one_event_alone_matches_as_it_does_among_others(
    words: str, padding: str, usage: str, broken: bytes, place: int
) -> None:
    for template, other in zip(templates(), templates(), strict=True):
        raw = event(template, words, padding, usage)
        behind = raw[place:], raw[place + len(broken) :]
        for data in (raw, raw + raw, raw[:-1], *(raw[:place] + broken + rest for rest in behind)):
            match = template.one(data)
            if match is not None and match.usage and "total_tokens" not in match.usage:
                assert other.read(data) is None
            else:
                assert match is None or other.read(data) == match


def test_a_digit_before_a_usage_makes_it_no_usage() -> None:
    *_, template = templates()
    raw = event(template, "word", usage=USAGE % (2, 2))
    assert template.one(raw.replace(b'"usage":{', b'"usage":0{')) is None
    assert template.one(raw) is not None


@pytest.mark.parametrize("word", [" word", "é", "это", "😀", "{}[],:'"])
def test_plain_words_match(word: str) -> None:
    for template in templates():
        match = template.one(event(template, word))
        assert match is not None and match.text == word
