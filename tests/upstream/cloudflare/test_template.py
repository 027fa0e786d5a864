"""Templates: which events match one, and what is left in doubt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import PADS, WORDS

from cfchat.upstream.cloudflare.template import _COUNTS, Match, Template, find
from cfchat.wire.strict_json import decode

USAGE = '{"completion_tokens":%d,"total_tokens":%d,"details":{"cached":0},"neurons":0.5}'
CLASSIC = '{"response":"%(text)s"}'
PADDED = '{"choices":[{"delta":{"content":"%(text)s"}}],"p":"%(padding)s"}'
COUNTED = '{"usage":%(usage)s,"choices":[{"delta":{"content":"%(text)s"}}]}'
SHAPES = (CLASSIC, PADDED, COUNTED)


def event(shape: str, text: str, padding: str = "ab", usage: str = USAGE % (1, 1)) -> bytes:
    data = shape % {"text": text, "padding": padding, "usage": usage}
    return f"data: {data}\n\n".encode("utf-8", "surrogatepass")


def learn(shape: str) -> Template:
    """Return the template of an event of this shape."""
    found = find(event(shape, "a")[6:-2].decode())
    assert found is not None
    return Template(found)


def check(shape: str, raw: bytes) -> Match | None:
    """Return what the template reads, if it is what the events in front of the rest say, one parsed after the other."""
    match = learn(shape).read(raw)
    if match is not None:
        read = raw.removesuffix(match.rest)
        events = [decode(data.removeprefix("data: ")) for data in read.decode().split("\n\n")[:-1]]
        deltas = [found["choices"][0]["delta"] if "choices" in found else found for found in events]
        assert match.text == "".join(delta.get("content", delta.get("response")) for delta in deltas)
        usages = [found.get("usage", {"total_tokens": 0}) for found in events]
        largest = max(usages, key=lambda usage: usage["total_tokens"])
        assert match.total == largest["total_tokens"]
        assert (decode(match.usage.decode()) if match.usage else {"total_tokens": 0}) == largest
    return match


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
        ["\\x"],
        ["\\", "a"],
        ["a\r"],
        ["\ud800"],  # no UTF-8
    ],
)
def test_text_in_doubt_does_not_match(words: list[str]) -> None:
    for shape in SHAPES:
        assert learn(shape).read(b"".join(event(shape, word) for word in words)) is None


def test_bytes_that_are_right_only_if_they_are_put_together_do_not_match() -> None:
    euro = "\u20ac".encode()
    for cut in (1, 2):
        halves = (event(CLASSIC, "#").replace(b"#", half) for half in (euro[:cut], euro[cut:]))
        assert learn(CLASSIC).read(b"".join(halves)) is None


@pytest.mark.parametrize("padding", ["\\", 'a"', '","q":"', "é", " ", "\n", '"}}],"p":"'])
def test_padding_in_doubt_does_not_match(padding: str) -> None:
    assert learn(PADDED).read(b"".join(event(PADDED, "a", other) for other in ("ab", padding, "ab"))) is None
    assert learn(PADDED).read(event(PADDED, "a", padding)) is None


@pytest.mark.parametrize(
    "usage",
    [
        USAGE.replace("0.5", number) % (1, 1)
        for number in ("01", "1.", ".5", "1.2.3", "--1", "1e", "", '"1"', "null", "NaN", "1 ", "1" * 5000)
    ]
    + ["", "{}", USAGE[:-1] % (1, 1), USAGE[:-1] % (1, 1) + ',"more":1}', USAGE.replace("neurons", "n1") % (1, 1)]
    + [USAGE.replace("%d", total) for total in ("-1", "1e3", "null", "1" * 16, "9" * 400 + ".0")],
)
def test_a_usage_in_doubt_does_not_match(usage: str) -> None:
    usages = USAGE % (1, 1), usage, USAGE % (1, 1)
    assert learn(COUNTED).read(b"".join(event(COUNTED, "a", usage=other) for other in usages)) is None
    assert learn(COUNTED).read(event(COUNTED, "a", usage=usage)) is None


@pytest.mark.parametrize(
    ("totals", "counts"),
    [((1, 2, 30), True), ((0, 4.5), True), ((4, 4), True), ((9,), True)]
    + [((4, 3), False), ((1, 20, 20), False), ((1, 1, 2), False), ((2, 1, 3), False)],
)
def test_usages_match_if_the_last_one_is_all_that_counts(totals: tuple[float, ...], counts: bool) -> None:
    usages = [USAGE.replace("%d", str(total)) for total in totals]
    match = check(COUNTED, b"".join(event(COUNTED, "a", usage=usage) for usage in usages))
    assert match == (Match("a" * len(totals), usages[-1].encode(), totals[-1], b"") if counts else None)


@pytest.mark.parametrize(
    "usage",
    [
        '{"completion_tokens":1}',  # its total would have to be added up
        '{"total_tokens":"1"}',
        '{"total_tokens":true}',
        '{"total_tokens":-0}',
        '{"details":{"total_tokens":1}}',
        '{"total_tokens":1,"details":{"total_tokens":2}}',  # which of them?
        '{"total_tokens":1e3,"details":{"total_tokens":2}}',
        '{"total_tokens":1e3}',
        '{"total_tokens":1,]}',
        '{"a":' * 2 + "7" + "}" * 2,
    ],
)
def test_a_usage_without_a_plain_total_is_the_same_in_all_events(usage: str) -> None:
    shape = f'{{"response":"%(text)s","usage":{usage}}}'
    assert learn(shape).read(event(shape, "a") + event(shape, "b")) == Match("ab", b"", 0, b"")
    found = find(event(shape, "a")[6:-2].decode())
    assert found is not None and found.usage == ""


def test_streams_of_one_model_have_one_pattern() -> None:
    shape = '{"id":"%(padding)s","created":%(usage)s,"response":"%(text)s"}'
    found = [find(event(shape, text, *rest)[6:-2].decode()) for text, *rest in (("a", "1f", "17"), ("b", "2-e", "18"))]
    assert found[0] is not None and found[1] is not None
    assert found[0].pattern == found[1].pattern


def test_a_long_event_has_no_template() -> None:
    assert find('{"response":"a","more":"%s"}' % ("a" * 900)) is not None
    assert find('{"response":"a","more":"%s"}' % ("a" * 1000)) is None


@pytest.mark.parametrize("data", ['"content":"a"', '"usage":{"total_tokens":1}'])
def test_two_parts_of_a_kind_that_may_be_one_only_have_no_template(data: str) -> None:
    assert find(f'{{"response":"a","usage":{{"total_tokens":2}},{data}}}') is None


@pytest.mark.parametrize(
    "usage", ['{"total_tokens":1%s}' % (" " * (1 << 20)), '{"total_tokens":1%s}' % (',"a":1 ' * (1 << 18))]
)
def test_no_usage_is_searched_quadratically(usage: str) -> None:
    """A search from each of a million blanks to the last would take hours."""
    for number in _COUNTS.finditer(usage):
        assert number["number"] == "1"
    assert find(f'{{"response":"a","usage":{usage}}}') is None


def test_an_event_that_lacks_a_part_does_not_match() -> None:
    raw = b'data: {"choices":[{"delta":{"content":"a"}\n\n' + event(PADDED, "b")
    assert learn(PADDED).read(raw) is None
    for raw in (b"", b"\n\n", b'data: {"response":"a"}\n', b'data: {"response":"}\n\n', b"\xff"):
        assert learn(CLASSIC).read(raw) is None
    assert learn(CLASSIC).read(b'data: {"response":"\xff"}\n\n') is None  # U+FFFD is for the parser to say


@pytest.mark.parametrize(
    "behind",
    [
        b"data: {",
        b'data: {"response":"',
        b'data: {"response":"c"}\n',
        b'data: {"x":1}\n\n',
        b'data: {"x":1}\n\ndata: {"response":"","usage":{}}\n\ndata: [DONE]\n\n: end\n\n',
    ],
)
def test_events_match_up_to_one_that_is_another_or_not_whole(behind: bytes) -> None:
    for shape in SHAPES:
        raw = event(shape, "a") + event(shape, "b")
        match = check(shape, raw + behind)
        assert match is not None and (match.text, match.rest) == ("ab", behind)
        assert learn(shape).read(behind + raw) is None


USAGES = st.sampled_from([USAGE % (1, 1), USAGE % (12, 345), "{}", ""])


@given(st.lists(st.tuples(WORDS, PADS, USAGES), min_size=1, max_size=4), st.binary(max_size=3), st.integers(0, 200))
def test_what_matches_is_what_is_parsed(parts: list[tuple[str, str, str]], broken: bytes, place: int) -> None:
    """Whole, with some bytes put in at any place, or in the place of others."""
    for shape in SHAPES:
        raw = b"".join(event(shape, *part) for part in parts)
        check(shape, raw)
        for rest in (raw[place:], raw[place + len(broken) :]):
            check(shape, raw[:place] + broken + rest)


def test_a_digit_before_a_usage_makes_it_no_usage() -> None:
    raw = event(COUNTED, "word", usage=USAGE % (2, 2))
    assert learn(COUNTED).read(raw.replace(b'"usage":{', b'"usage":0{')) is None
    assert check(COUNTED, raw) is not None


@pytest.mark.parametrize("word", [" word", "é", "это", "😀", "{}[],:'", "\\n", '\\"so\\"', "\\\\"])
def test_words_match(word: str) -> None:
    for shape in SHAPES:
        assert check(shape, event(shape, word)) is not None
        assert check(shape, event(shape, word) * 3) is not None
