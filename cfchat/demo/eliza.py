"""Answer as ELIZA does (J. Weizenbaum, CACM 9:1, 1966).

The conversation is data: eliza.txt holds the rules and says how to read them. It is read at the first answer, because
its regular expressions take a while to compile and only the demo needs them. Nothing is random: the same conversation
always gets the same answer. What is used of a conversation has a bound, so that no input is slow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pkgutil import get_data

# The last turns of a conversation, and for each of them the first letters, clauses and words.
TURNS, LETTERS, CLAUSES, WORDS = 100, 2000, 20, 50
EXPANDED = {
    "i'm": "I am", "im": "I am", "i've": "I have", "ive": "I have", "i'd": "I would", "you're": "you are",
    "youre": "you are", "you've": "you have", "dont": "don't", "cant": "can't", "cannot": "can't", "wont": "won't",
    "what's": "what is", "whats": "what is", "who's": "who is", "u": "you", "ur": "your",
}  # fmt: skip
REFLECTED = {
    "i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself", "i'll": "you'll", "you": "I",
    "your": "my", "yours": "mine", "yourself": "myself", "you'll": "I'll",
}  # fmt: skip
REFLECTED_PAIRS = {
    ("i", "am"): "you are", ("am", "i"): "are you", ("i", "was"): "you were", ("was", "i"): "were you",
    ("you", "are"): "I am", ("are", "you"): "am I", ("you", "were"): "I was", ("were", "you"): "was I",
}  # fmt: skip
BEFORE_ME = frozenset(
    ("about", "at", "by", "for", "from", "help", "in", "like", "love", "of", "on", "see", "than", "to", "with")
)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A decomposition pattern and its templates."""

    source: str
    regex: re.Pattern[str]
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """Keywords and the patterns to try if one of them is there."""

    keywords: re.Pattern[str]
    rank: int
    patterns: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """The pattern that matches a turn of the user, and the text of its parts. The first part is the keyword."""

    pattern: Pattern
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """The rules, highest rank first, those of one rank in the order of the file; and the patterns without keywords."""

    rules: tuple[Rule, ...]
    nothing: Pattern
    memory: Pattern
    greeting: Pattern


@cache
def read_script() -> Script:
    """Read eliza.txt, also from a package in a zip."""
    data = get_data("cfchat", "demo/eliza.txt")
    assert data is not None
    text = re.sub(r"(?m)^#.*\n+", "", data.decode())
    *rules, nothing, memory, greeting = map(_read_rule, re.split(r"\n(?=\S)", text))
    special = (rule.patterns[0] for rule in (nothing, memory, greeting))
    return Script(tuple(sorted(rules, key=lambda rule: -rule.rank)), *special)


def _read_rule(text: str) -> Rule:
    head, *patterns = re.split(r"\n    (?=\S)", text.rstrip("\n"))
    keywords, rank = re.fullmatch(r"(.*?) ?(\d*)", head).groups()  # type: ignore[union-attr]
    regex = re.compile(rf"(?<= )(?:{keywords.replace(', ', '|')})(?= )", re.IGNORECASE)
    return Rule(regex, int(rank or 0), tuple(_read_pattern(pattern) for pattern in patterns))


def _read_pattern(text: str) -> Pattern:
    source, *answers = (line.strip() for line in text.split("\n"))
    regex = "".join(_as_regex(word) for word in source.split(" "))
    return Pattern(source, re.compile(f"{regex} ", re.IGNORECASE), tuple(answers))


def _as_regex(word: str) -> str:
    wild = {"*": r"((?: \S+)*?)", "+": r"((?: \S+)+?)"}
    return wild.get(word) or (f" {word}" if word.startswith("(") else f" (?:{word})")


def answer(messages: Sequence[Mapping[str, str]]) -> str:
    """Return what ELIZA says to the last message of the user. Never empty."""
    script = read_script()
    turns = [message.get("content", "") for message in messages if message.get("role") == "user"]
    if not turns:
        return script.greeting.answers[0]
    *earlier, last = [choose(turn) for turn in turns[-TURNS:]]
    used = sum(choice.pattern is last.pattern for choice in earlier)
    answers, parts = last.pattern.answers, last.parts
    remembered = [choice.parts for choice in earlier if choice.pattern.source == script.memory.source]
    if last.pattern is script.nothing and remembered and used % 2 == 0:
        used //= 2
        answers, parts = script.memory.answers, remembered[used % len(remembered)]
    text = answers[used % len(answers)].format(*parts)
    return text[0].upper() + text[1:]


def choose(text: str) -> Choice:
    """Return the first pattern that matches, of the keyword with the highest rank in any clause of the text."""
    script, clauses = read_script(), _clauses(text)
    for rule in script.rules:
        for clause in clauses:
            if keyword := rule.keywords.search(clause):
                for pattern in rule.patterns:
                    if match := pattern.regex.fullmatch(clause):
                        return Choice(pattern, (keyword[0].lower(), *map(reflect, match.groups())))
    return Choice(script.nothing, ())


def _clauses(text: str) -> list[str]:
    """Return the clauses of a text, each with one blank around each of its words."""
    clauses = re.split(r"[.,;:!?\n()]+", text[:LETTERS].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    words = (re.findall(r"\w+(?:['-]\w+)*", clause)[:WORDS] for clause in clauses)
    return [f" {' '.join(EXPANDED.get(word.lower(), word) for word in some)} " for some in words if some][:CLAUSES]


def reflect(part: str) -> str:
    """Turn the pronouns round: `my view of you` becomes `your view of me`."""
    words = part.split()
    reflected: list[str] = []
    at = 0
    while at < len(words):
        word = words[at].lower()
        pair = REFLECTED_PAIRS.get((word, words[at + 1].lower())) if at + 1 < len(words) else None
        if pair is None and word == "you" and _is_object(words, at):
            reflected.append("me")
        else:
            reflected.append(pair or REFLECTED.get(word, words[at]))
        at += 2 if pair else 1
    return " ".join(reflected)


def _is_object(words: list[str], at: int) -> bool:
    """Return whether the `you` at this place becomes `me` rather than `I`."""
    return at + 1 == len(words) or (at > 0 and words[at - 1].lower() in BEFORE_ME)
