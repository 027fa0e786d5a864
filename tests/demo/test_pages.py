"""The pages of the demo's AI Search: found by their words, ranked, and quoted."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from cfchat.demo import pages


def test_all_readme_files_of_the_package_are_known() -> None:
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "cfchat").rglob("README.md")}
    assert {part.file for part in pages.parts()} == files


def test_nine_parts_in_ten_are_found_by_their_heading() -> None:
    asked = [part for part in pages.parts() if pages._words(part.heading)]
    assert len(asked) > 30
    missed = [part.heading for part in asked if part not in [found for found, _ in pages.find(part.heading)]]
    assert len(missed) < len(asked) / 10, missed


def test_the_answer_is_one_row_of_a_table() -> None:
    question = "What does the status 413 mean?"
    lines = pages.answer(question, pages.find(question)).splitlines()
    assert lines[:2] == ["**The HTTP API**, Errors:", ""] and lines[3] == "|---|---|---|"
    assert len(lines) == 5 and "| 413 |" in lines[4]


@pytest.mark.parametrize("question", ["", "the of and", "Warum ist der Himmel blau?", "I am unhappy", "\x00 ?", "x"])
def test_what_no_page_is_about_finds_none(question: str) -> None:
    assert pages.find(question) == [] and "nothing" in pages.answer(question, [])


@given(st.lists(st.sampled_from(sorted({word for part in pages.parts() for word in part.words})), max_size=5))
def test_the_best_come_first_and_the_answer_is_quoted(words: list[str]) -> None:
    found = pages.find(" ".join(words))
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True) and len(found) <= pages.MOST
    assert all(pages.LEAST <= score <= 1 for score in scores)
    if found:
        quoted = pages.answer(" ".join(words), found).partition(":\n\n")[2]
        assert quoted in found[0][0].text or "|---" in quoted


def test_a_sentence_stays_in_one_line() -> None:
    """A chat shows each end of a line: the next one begins an item, a row or code, or the text was all code."""
    texts = [text for part in pages.parts() for text, _ in part.paragraphs if "```" not in text]
    assert len(texts) > 100 and any("\n- " in text for text in texts) and any("\n| " in text for text in texts)
    joints = [line for text in texts for line in text.split("\n")[1:]]
    assert [line for line in joints if not re.match(r"\s*([-*] |[0-9]+[.] |[|>])", line)] == []
    code = next(text for part in pages.parts() for text, _ in part.paragraphs if "systemctl enable" in text)
    assert "\nset -- " in code and "\n```\n" in code


def test_links_lead_nowhere_in_a_chat_and_marks_are_gone() -> None:
    texts = [part.text for part in pages.parts()]
    assert not any("](" in text or "<!--" in text for text in texts)


def test_the_pages_are_read_out_of_one_file_too(tmp_path: Path) -> None:
    archive = tmp_path / "cfchat.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (ROOT / "cfchat").rglob("*"):
            if path.suffix in (".py", ".md"):
                file.write(path, path.relative_to(ROOT))
    code = "from cfchat.demo import pages; print(len(pages.parts()), '.pyz' in pages.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(archive)}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(len(pages.parts())), "True"], done.stderr
