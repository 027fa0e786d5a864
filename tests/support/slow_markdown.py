"""Inline Markdown as CommonMark 0.31 §6 has it, read whole and slowly; <cf-chat> must agree with it.

Of CommonMark: code spans, emphasis by asterisks, links without brackets in their text. Beside it: bare addresses, and
asterisks between digits, which are signs of arithmetic. A tree is a list of texts and [name, *children].
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from unicodedata import category

Tree = list[Any]
PAIRS = {")": "(", "]": "[", "}": "{"}
ADDRESS_REST = re.compile(r'[ \t]*(?:"[^"`]{0,200}"[ \t]*)?\)')


class Run(NamedTuple):
    """Asterisks: how many are left, how many there were, and whether they can open or close emphasis."""

    left: int
    length: int
    opens: bool
    closes: bool


class Address(str):
    """A bare address."""


class Bracket(str):
    """The beginning of what may be a link."""


def draw(line: str) -> Tree:
    """Return what a line of text becomes, neighbouring texts joined."""
    return tidy(emphasize(items_of(line)))


def items_of(line: str) -> Tree:
    items: Tree = []
    at = 0
    while at < len(line):
        rest = line[at:]
        if found := re.match(r"`+", rest):
            fence = found[0]
            close = next((it for it in re.finditer(r"`+", rest[len(fence) :]) if it[0] == fence), None)
            if close is None:
                items.append(fence)
                at += len(fence)
                continue
            code = rest[len(fence) : len(fence) + close.start()]
            if code[0] == code[-1] == " " and code.strip(" "):
                code = code[1:-1]
            items.append(["code", code])
            at += len(fence) + close.end()
        elif found := re.match(r"\*+", rest):
            items.append(run_of(found[0], line[at - 1 : at], rest[len(found[0]) :][:1]))
            at += len(found[0])
        elif found := re.match(r"\\([*`_#|~])", rest):
            items.append(found[1])
            at += 2
        elif found := re.match(r"https?://", rest):
            length = address_length(rest[len(found[0]) :])
            items.append(Address(rest[: len(found[0]) + length]) if length else found[0])
            at += len(found[0]) + length
        elif found := re.match(r"!?\[", rest):
            items = [str(item) if isinstance(item, Bracket) else item for item in items]
            items.append(Bracket(found[0]))
            at += len(found[0])
        elif rest[0] == "]" and (link := link_of(items, rest)):
            items[link[0] :] = [link[1]]
            at += link[2]
        else:
            if rest[0] == "]":
                items = [str(item) if isinstance(item, Bracket) else item for item in items]
            items.append(rest[0])
            at += 1
    return items


def run_of(run: str, before: str, after: str) -> Run | str:
    if before.isdigit() and after.isdigit():
        return run
    blank = [not letter or letter.isspace() for letter in (before, after)]
    mark = [bool(letter) and category(letter)[0] in "PS" for letter in (before, after)]
    left = not blank[1] and (not mark[1] or blank[0] or mark[0])
    right = not blank[0] and (not mark[0] or blank[1] or mark[1])
    return Run(len(run), len(run), left, right) if left or right else run


def address_length(text: str) -> int:
    """How many letters belong to an address, behind its slashes. (Its host is ASCII in these tests.)"""
    length = 0
    for letter in text:
        inside = text[:length]
        closes = letter in PAIRS and inside.count(PAIRS[letter]) <= inside.count(letter)
        foreign = not letter.isascii() and category(letter)[0] in "PS"
        in_host = not re.search(r"[/?#]", inside)
        if letter.isspace() or letter in '<>"`' or foreign or closes or (in_host and not letter.isascii()):
            break
        length += 1
    return len(text[:length].rstrip(".,:;!?*_~'"))


def link_of(items: Tree, rest: str) -> tuple[int, Tree, int] | None:
    """The link that ends with this bracket: where it begins in the items, its tree, and its length behind the text."""
    begin = max((index for index, item in enumerate(items) if isinstance(item, Bracket)), default=None)
    if begin is None or not (found := re.match(r"\]\([ \t]*", rest)):
        return None
    at = found.end()
    if angle := re.match(r"<([^<>`]*)>", rest[at:]):
        address = angle[1]
        at += angle.end()
    else:
        depth = end = 0
        for end, letter in enumerate(rest[at:] + "\n"):  # noqa: B007
            depth += {"(": 1, ")": -1}.get(letter, 0)
            if not 0 <= depth <= 4 or letter.isspace() or letter in "<>`":
                break
        address = rest[at : at + end]
        at += end
    tail = ADDRESS_REST.match(rest, at)
    if not address or tail is None or ('"' in tail[0] and tail[0][0] == '"'):
        return None
    texts = [str(item) if isinstance(item, Address) else item for item in items[begin + 1 :]]
    children = emphasize(texts) or [address]
    name = f"a {address}" if address.startswith("https://") else "span"
    return begin, [name, *children], tail.end()


def emphasize(items: Tree) -> Tree:
    """Match the runs as CommonMark's `process emphasis` does, with no list of what is known not to match."""
    items = list(items)
    at = 0
    while at < len(items):
        closer = items[at]
        opener_at = next((back for back in range(at - 1, -1, -1) if fits(items[back], closer)), None)
        if opener_at is None:
            at += 1
            continue
        opener = items[opener_at]
        width = min(opener.left, closer.left, 2)
        inner = ["*" * it.left if isinstance(it, Run) else it for it in items[opener_at + 1 : at]]
        left = [run._replace(left=run.left - width) for run in (opener, closer)]
        middle = ["strong" if width == 2 else "em", *inner]
        items[opener_at : at + 1] = [*([left[0]] if left[0].left else []), middle, *([left[1]] if left[1].left else [])]
        at = opener_at + 1 + bool(left[0].left)
    return ["*" * item.left if isinstance(item, Run) else item for item in items]


def fits(opener: object, closer: object) -> bool:
    if not (isinstance(opener, Run) and isinstance(closer, Run) and opener.opens and closer.closes):
        return False
    both = opener.closes or closer.opens
    return not both or (opener.length + closer.length) % 3 != 0 or (opener.length % 3 == 0 and closer.length % 3 == 0)


def tidy(items: Tree) -> Tree:
    """Join neighbouring texts; an address becomes an anchor."""
    tidied: Tree = []
    for item in items:
        if isinstance(item, Address):
            tidied.append([f"a {item}", str(item)])
        elif isinstance(item, list):
            tidied.append([item[0], *tidy(item[1:])])
        elif tidied and isinstance(tidied[-1], str):
            tidied[-1] += item
        else:
            tidied.append(str(item))
    return tidied
