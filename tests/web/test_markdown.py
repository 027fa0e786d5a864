"""The Markdown of <cf-chat>: the same tree at any cut, the tree of a slow reader, and work that is linear."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT
from slow_markdown import Tree, draw, tidy

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(not NODE and "CI" not in os.environ, reason="node is not installed")


class Drawing:
    """What Markdown has become: a `tree` of texts and [name, *children], what is `spoken`, and the `work` it was."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.tree: Tree = answer["tree"]
        self.spoken: str = answer["spoken"]
        self.work: int = answer["work"]


class Reader:
    """The module in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def draw(self, *pieces: str) -> Drawing:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(pieces) + "\n")
        self._process.stdin.flush()
        return Drawing(json.loads(self._process.stdout.readline()))

    def line(self, text: str) -> Tree:
        """The tree of a paragraph of one line."""
        (paragraph,) = self.draw(text).tree
        assert paragraph[0] == "p"
        return tidy(paragraph[1:])


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    assert NODE
    script = Path(__file__).parents[1] / "support" / "markdown.mjs"
    command = [NODE, "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON", str(script), str(ROOT / "cfchat/web/cfchat.js")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Reader(process)
        assert process.stdin
        process.stdin.close()


INLINE = ["*", "**", "***", "`", "``", "[", "]", "](", "(", ")", "!", "\\", "a", "7", " ", "_", '"', "<", "é", "。"]
INLINE += ["中", "https://a.b/c", "http", "h", "](https://x.y/)", "a*b", "\U0001f600"]
BLOCKS = [*INLINE, "\n", "\n\n", "  ", "\t", "\r\n", "# ", "- ", "12. ", "> ", "|", "|---|", "\\|", "<br>"]
BLOCKS += ["```", "~~~", "---"]


@given(pieces=st.lists(st.sampled_from(BLOCKS), max_size=16), cuts=st.lists(st.integers(0, 40)))
def test_any_cut_gives_the_same(reader: Reader, pieces: list[str], cuts: list[int]) -> None:
    text = "".join(pieces)
    whole = reader.draw(text)
    places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    for cut in (list(text), [text[begin:end] for begin, end in pairwise(places)]):
        drawn = reader.draw(*cut)
        assert (drawn.tree, drawn.spoken) == (whole.tree, whole.spoken)


@given(pieces=st.lists(st.sampled_from(INLINE), max_size=14))
def test_a_line_is_what_a_slow_reader_makes_of_it(reader: Reader, pieces: list[str]) -> None:
    text = "x" + "".join(pieces)  # no block begins with an x
    assert reader.line(text) == draw(text)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("5! = 5*4*3*2*1 = 120, 2**10", ["5! = 5*4*3*2*1 = 120, 2**10"]),
        ("a*b*c", ["a", ["em", "b"], "c"]),
        ("This is ***very important*** text.", ["This is ", ["em", ["strong", "very important"]], " text."]),
        ("**bold *and italic***", [["strong", "bold ", ["em", "and italic"]]]),
        ("*.py and *.js", ["*.py and *.js"]),
        ("Type `` `ls` `` now", ["Type ", ["code", "`ls`"], " now"]),
        ("Use `` a`b `` now", ["Use ", ["code", "a`b"], " now"]),
        ("_https://a.b/c_", ["_", ["a https://a.b/c", "https://a.b/c"], "_"]),
        ("https://a.b/M_(p) (https://a.b/c).",
         [["a https://a.b/M_(p)", "https://a.b/M_(p)"], " (", ["a https://a.b/c", "https://a.b/c"], ")."]),
        ("请看 https://a.b。谢谢", ["请看 ", ["a https://a.b", "https://a.b"], "。谢谢"]),
        ("https://a.b谢谢", [["a https://a.b", "https://a.b"], "谢谢"]),
        ("https://a.b/d（中文说明）", [["a https://a.b/d", "https://a.b/d"], "（中文说明）"]),
        ("https://a.b/it's-ok", [["a https://a.b/it's-ok", "https://a.b/it's-ok"]]),
        ("**[https://a.b](https://a.b)**", [["strong", ["a https://a.b", "https://a.b"]]]),
        ('[a](https://a.b/z_(w) "title")', [["a https://a.b/z_(w)", "a"]]),
        ("[a](javascript:x) [b]() [c](", [["span", "a"], " [b]() [c]("]),
        ("|a + b| <= |a| + |b|", ["|a + b| <= |a| + |b|"]),
    ],
)  # fmt: skip
def test_lines(reader: Reader, text: str, tree: Tree) -> None:
    assert reader.line(text) == tree


def test_a_table_needs_its_second_row_and_takes_pipes_and_breaks(reader: Reader) -> None:
    (frame,) = reader.draw("| A | B |\n|---|:-:|\n| `a \\| b` | c \\| d |\n| one<br>two | x\n").tree
    head, *rows = frame[1][1][1:]
    assert head == ["tr", ["th", "A"], ["th", "B"]]
    assert rows[0] == ["tr", ["td", ["code", "a | b"]], ["td", "c | d"]]
    assert rows[1] == ["tr", ["td", "one", ["br"], "two"], ["td", "x"]]
    assert [block[0] for block in reader.draw("|a|\n|b|\n\nc").tree] == ["p", "p"]


def test_the_module_is_imported_where_there_is_no_page() -> None:
    assert NODE
    code = f"const it = await import('file://{ROOT}/cfchat/web/cfchat.js'); console.log(Object.keys(it).join(' '))"
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", code], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout == "CfChat Markdown\n"


UNITS = [
    *(" ", "\t", "**a ", "*a **b ", "***a b", "*", "a*", "*a* **b** ", "`", "`` \\``", "!", "\\", "<br "),
    *("[", "[a](", '[a](u "', "[*a ", "]", "](", "(", "http://", "https://%"),
    *("~", "~~a ", "_", "- ", "  - a\n", "#", "> ", "|", "| ", "|a|\n", "|-", "1", "1. ", "```\n"),
]
TICKS = " ".join("`" * count for count in range(1, 60))  # each run of another length


@pytest.mark.parametrize("begin", ["", "x", "|", "```", "**", "`", "[a](", "https://a.b/"])
def test_the_work_is_linear(reader: Reader, begin: str) -> None:
    """Nodes moved, letters written and letters looked at, for what has no end; in one piece and letter by letter."""
    for text in (*(unit * (1500 // len(unit)) for unit in UNITS), TICKS):
        text = begin + text + "x"
        for pieces in ([text], list(text)):
            assert reader.draw(*pieces).work < 25 * len(text), text[:40]
