"""Templates: which events match one, and what is left in doubt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import PADS, WORDS

from cfchat.upstream.cloudflare.template import Match, Template, find

CLASSIC = Template(['{"response":"', '"}'], ["text"])
PADDED = Template(['{"choices":[{"delta":{"content":"', '"}}],"p":"', '"}'], ["text", "padding"])
USAGE = '{"completion_tokens":%d,"total_tokens":%d,"details":{"cached":0},"neurons":0.5}'
COUNTED = Template(['{"usage":', ',"choices":[{"delta":{"content":"', '"}}]}'], ["usage", "text"], USAGE % (1, 1))
TEMPLATES = (CLASSIC, PADDED, COUNTED)


def event(template: Template, text: str, padding: str = "ab", usage: str = USAGE % (1, 1)) -> bytes:
    return f"data: {template.fill(text, padding, usage)}\n\n".encode("utf-8", "surrogatepass")


def test_an_odd_event_ends_nothing() -> None:
    """A backslash of the model's own is parsed; what follows is skimmed again."""
    template = find('{"response":"a"}')
    assert template is not None
    assert template.read(b'data: {"response":"\\\\"}\n\n') is None
    assert template.read(b'data: {"response":"b"}\n\ndata: [DONE]\n\n') == Match("b", b"", b"data: [DONE]\n\n")


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
    for template in TEMPLATES:
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
    raw = b"".join(event(COUNTED, "a", usage=other) for other in (USAGE % (1, 1), usage, USAGE % (1, 1)))
    assert COUNTED.read(raw) is None
    assert COUNTED.one(event(COUNTED, "a", usage=usage)) is None


@pytest.mark.parametrize("total", ["1.5", "-1", "1e3", "1" * 16])
def test_many_events_match_only_if_their_totals_are_whole_numbers(total: str) -> None:
    raw = event(COUNTED, "a") + event(COUNTED, "b", usage=USAGE.replace("%d", total))
    assert COUNTED.read(raw) is None


def test_the_first_usage_with_the_largest_total_is_the_one_that_counts() -> None:
    usages = [USAGE % pair for pair in ((1, 1), (2, 20), (3, 20), (4, 9), (5, 0))]
    raw = b"".join(event(COUNTED, "a", usage=usage) for usage in usages)
    assert COUNTED.read(raw) == Match("aaaaa", usages[1].encode(), b"")
    assert COUNTED.one(event(COUNTED, "a", usage=usages[3])) == Match("a", usages[3].encode(), b"")


@pytest.mark.parametrize(
    "usage",
    [
        '{"completion_tokens":1}',  # its total would have to be added up
        '{"total_tokens":1.5}',
        '{"total_tokens":"1"}',
        '{"details":{"total_tokens":1}}',
        '{"total_tokens":1,"details":{"total_tokens":1}}',
        '{"total_tokens":1,"total_tokens":2}',
        '{"details":{"total_tokens":1},"total_tokens":11111111111111111}',
        '{"total_tokens":1,]}',
    ],
)
def test_a_usage_whose_total_is_not_plain_is_the_same_in_all_events(usage: str) -> None:
    template = find(f'{{"response":"a","usage":{usage}}}')
    assert template is not None and template.example_usage == ""
    assert template.one(event(template, "b")) == Match("b", b"", b"")


def test_an_event_that_lacks_a_part_does_not_match() -> None:
    raw = b'data: {"choices":[{"delta":{"content":"a"}\n\n' + event(PADDED, "b")
    assert PADDED.read(raw) is None
    for raw in (b"", b"\n\n", b'data: {"response":"a"}\n', b'data: {"response":"}\n\n', b"\xff"):
        assert CLASSIC.read(raw) is None
    assert CLASSIC.read(b'data: {"response":"\xff"}\n\n') is None  # U+FFFD is for the parser to say


@pytest.mark.parametrize("behind", [b"data: {", b'data: {"response":"', b'data: {"response":"c"}\n', b'data: {"x":1}\n\n'])
def test_events_match_up_to_one_that_is_another_or_not_whole(behind: bytes) -> None:
    for template in TEMPLATES:
        raw = event(template, "a") + event(template, "b")
        match = template.read(raw + behind)
        assert match is not None and (match.text, match.rest) == ("ab", behind)
        assert template.read(behind + raw) is None


@given(WORDS, PADS, st.sampled_from([USAGE % (1, 1), USAGE % (12, 345), "{}", ""]), st.binary(max_size=3), st.integers(0, 60))
def test_one_event_alone_matches_as_it_does_among_others(
    words: str, padding: str, usage: str, broken: bytes, place: int
) -> None:
    for template in TEMPLATES:
        raw = event(template, words, padding, usage)
        behind = raw[place:], raw[place + len(broken) :]
        for data in (raw, raw + raw, raw[:-1], *(raw[:place] + broken + rest for rest in behind)):
            match = template.one(data)
            assert match is None or template.read(data) == match


@pytest.mark.parametrize("word", [" word", "é", "это", "😀", "{}[],:'"])
def test_plain_words_match(word: str) -> None:
    for template in TEMPLATES:
        match = template.one(event(template, word))
        assert match is not None and match.text == word
