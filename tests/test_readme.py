"""The READMEs: each link leads somewhere, none is too long, and what is marked as runnable runs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from command import environ
from places import ROOT

READMES = sorted([ROOT / "README.md", *(ROOT / "cfchat").rglob("README.md"), ROOT / "tests" / "README.md"])
LINK = re.compile(r"\]\(([^()\s]+)\)")
each = pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))


def prose(text: str) -> str:
    """Return the text without its blocks of code."""
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a file's headings, as a host of repositories makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", prose(path.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def marked(mark: str) -> list[str]:
    """Return the blocks of code behind a mark in README.md."""
    return re.findall(rf"<!-- {mark} -->\n```\w+\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)


@each
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in LINK.findall(prose(path.read_text("utf-8"))):
        if not link.startswith(("http://", "https://")):
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@each
def test_none_is_too_long(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= (140 if path.parent == ROOT else 150)
    assert [line for line in lines if len(line) > 120] == []


def test_the_front_page_links_to_all_of_them() -> None:
    linked, unread = {READMES[0]}, [ROOT / "README.md"]
    while unread:
        path = unread.pop()
        for link in LINK.findall(prose(path.read_text("utf-8"))):
            target = (path.parent / link.partition("#")[0]).resolve()
            if target.name == "README.md" and target not in linked:
                linked.add(target)
                unread.append(target)
    assert linked >= set(READMES)


def test_the_command_that_runs_it_runs_it() -> None:
    (command,) = marked("run")
    words = command.split()
    assert words[0] == "python3"
    process = subprocess.Popen(
        [sys.executable, *words[1:], "--port", "0"], cwd=ROOT, env=environ(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        banner = "".join(process.stdout.readline() for _ in range(4))
        match = re.search(r"try: curl -N (\S+) .* -d '(.*)'", banner)
        assert match, banner
        body = match[2].encode()
        asked = Request(match[1], body, {"Content-Type": "application/json"})
        with urlopen(asked, timeout=20) as reply:
            assert reply.status == 200 and b"unhappy" in reply.read()
        assert json.loads(body)[0]["role"] == "user"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_the_command_that_tests_it_is_there() -> None:
    (command,) = marked("test")
    assert "-m venv" in command and "-m pytest" in command
