"""Find the parts of cfchat's own README files that a question is about: the pages of the demo's AI Search.

A part is what stands below one heading. It scores by the words that it shares with the question: a word counts the
more, the fewer parts have it, and the shorter the part is (BM25, S. Robertson et al., 1994); a word of the heading
counts for several. There is no model, so the answer is the paragraph that fits best, as it stands.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import log
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

# The first letters of a question that are read, the fewest points of a part that is found, and the most parts.
LETTERS, LEAST, MOST = 2000, 0.25, 10
HEADING = 3  # words of the text that a word of the heading is worth
TYPICAL = 200  # words in a part
_COMMON = frozenset(
    re.findall(
        r"\w+",
        """about all also am an and any are as at be but by can cannot could did do does for from get has have how if in
        into is it its let like make me more my no not of on one or other our out please should show so some tell than
        that the their them then there these they this to us use used was what when where which who why will with would
        you your""",
    )
)
_BEGINS = re.compile(r"\s*(?:\||[-*>] |[0-9]+\. )|```")  # a line of its own: an item, a quote, a row, code
_FENCED = re.compile(r"```.*?```", re.DOTALL)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")


@dataclass(frozen=True, slots=True)
class Part:
    """What stands below one heading of a file: its `words` with their numbers, and its `paragraphs` with theirs."""

    file: str
    title: str
    heading: str
    paragraphs: tuple[tuple[str, Counter[str]], ...]
    words: Counter[str]

    @property
    def text(self) -> str:
        """All paragraphs."""
        return "\n\n".join([text for text, _ in self.paragraphs])


def find(question: str) -> list[tuple[Part, float]]:
    """Return the parts that fit a question, the best first, each with its score between 0 and 1."""
    weights = _weigh(question)
    whole = sum(weights.values())
    scores = [(part, _score(part.words, weights) / whole) for part in parts()] if whole else []
    return sorted([it for it in scores if it[1] >= LEAST], key=lambda it: -it[1])[:MOST]


def answer(question: str, found: Sequence[tuple[Part, float]]) -> str:
    """Return the paragraph that fits best, and where it stands. `found` is what `find` has returned."""
    if not found:
        return "I have found nothing of that in cfchat's README files. Ask about keys, limits, errors or deploying."
    part, weights = found[0][0], _weigh(question)
    best, _ = max(part.paragraphs, key=lambda paragraph: _score(paragraph[1], weights))
    return f"**{part.title}**, {part.heading}:\n\n{best}"


@cache
def parts() -> tuple[Part, ...]:
    """Return all parts of all files. They are read at the first question, because only the demo needs them."""
    return tuple(part for file, text in _read("cfchat", files("cfchat")) for part in _split(file, text))


def _read(name: str, folder: Traversable) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each README.md in a folder, which may be part of a zip file."""
    page = folder / "README.md"
    if page.is_file():
        yield f"{name}/README.md", _LINK.sub(r"\1", page.read_text("utf-8"))
    for inner in sorted(folder.iterdir(), key=attrgetter("name")):
        if inner.is_dir():
            yield from _read(f"{name}/{inner.name}", inner)


def _split(file: str, text: str) -> Iterator[Part]:
    title, heading, lines, fenced = "", "", list[str](), False
    for line in [*text.splitlines(), "## "]:
        fenced ^= line.startswith("```")
        if line.startswith("# ") and not title:
            title = heading = line[2:]
        elif line.startswith("## ") and not fenced:
            if paragraphs := tuple((text, Counter(_words(_FENCED.sub("", text)))) for text in _paragraphs(lines)):
                words = Counter(_words(heading) * HEADING)
                for _, inside in paragraphs:
                    words.update(inside)
                yield Part(file, title, heading, paragraphs, words)
            heading, lines = line[3:], []
        elif not line.startswith("<!-- "):
            lines.append(line)


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """Yield what blank lines separate, but a block of code stays whole, and each row of a table is one.

    The lines of a sentence are joined, because a chat shows the end of each line.
    """
    paragraph, fenced = list[str](), False
    for line in [*lines, ""]:
        fenced ^= line.startswith("```")
        if paragraph and line and not (fenced or _BEGINS.match(line) or paragraph[-1].startswith("```")):
            paragraph[-1] += f" {line.lstrip()}"
            continue
        if line or fenced:
            paragraph.append(line)
            continue
        if len(paragraph) > 2 and paragraph[0].startswith("|"):
            yield from ("\n".join([*paragraph[:2], row]) for row in paragraph[2:])
        elif paragraph:
            yield "\n".join(paragraph)
        paragraph = []


def _words(text: str) -> list[str]:
    """Return the words of a text that say something, without the `s` of a plural."""
    words = re.findall(r"[^\W_]{2,}", text.lower())
    return [word.removesuffix("s") if len(word) > 3 else word for word in words if word not in _COMMON]


@cache
def _numbers() -> Counter[str]:
    """Return of each word how many parts have it."""
    return Counter(word for part in parts() for word in part.words)


def _weigh(question: str) -> dict[str, float]:
    """Return how much each word of a question counts."""
    return {word: log(1 + len(parts()) / (1 + _numbers()[word])) for word in _words(question[:LETTERS])}


def _score(words: Counter[str], weights: dict[str, float]) -> float:
    room = 0.5 + words.total() / TYPICAL
    return sum(weight * words[word] / (words[word] + room) for word, weight in weights.items() if word in words)
