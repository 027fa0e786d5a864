"""Hold the READMEs to what they say: links lead somewhere, marked blocks run, and pages are short.

Tables that repeat the code are compared with it. `<!-- run -->` marks a block of sh or Python for this test,
`<!-- test -->` the command that `.ci/run` takes from README.md. Blocks run in an empty folder with links to the program
and the package, so that they leave nothing in the checkout. The block that starts the demo is not run as it stands,
because it needs a free port: `demo()` starts it, and the other blocks talk to that server.
"""

from __future__ import annotations

import configparser
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen

import pytest
from command import command, demo, environ
from places import ROOT, TESTS

from cfchat import errors
from cfchat.errors import CfchatError
from cfchat.replies.negotiation import FORMS

PACKAGE = ROOT / "cfchat"
READMES = [ROOT / "README.md", *sorted([*PACKAGE.rglob("README.md"), *TESTS.rglob("README.md")])]
NAMES = [str(path.relative_to(ROOT)) for path in READMES]
DEMO = "python3 cfchat_server.py --demo"

FENCED = re.compile(r"^(?:<!-- (?P<mark>[^\n>]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.M)


class Block(NamedTuple):
    mark: str
    language: str
    text: str


def blocks_of(page: str) -> list[Block]:
    return [Block(match["mark"] or "", match["language"], match["text"]) for match in FENCED.finditer(page)]


def anchors_of(page: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings: lower case, no punctuation, hyphens for spaces."""
    headings = HEADING.findall(FENCED.sub("", page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> list[str]:
    return [target for target in LINK.findall(FENCED.sub("", path.read_text())) if not leads_somewhere(path, target)]


def leads_somewhere(path: Path, target: str) -> bool:
    if target.startswith("https://"):
        return True
    file, _, anchor = target.partition("#")
    goal = path.parent / file if file else path
    return goal.exists() and (not anchor or anchor in anchors_of(goal.read_text()))


# --- the pages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", READMES, ids=NAMES)
def test_links_lead_to_a_file_and_a_heading(path: Path) -> None:
    assert broken_links(path) == []


def test_a_link_to_nothing_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("# One `--two`, three\n[a](#one---two-three) [b](#four) [c](gone.md) [d](README.md#five) ![e](.)\n")
    assert broken_links(page) == ["#four", "gone.md", "README.md#five"]


@pytest.mark.parametrize("path", READMES, ids=NAMES)
def test_pages_and_lines_are_short(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= (140 if path.parent == ROOT else 150)
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("path", READMES, ids=NAMES)
def test_every_mark_is_known_and_stands_above_a_block(path: Path) -> None:
    page = path.read_text()
    marks = [block.mark for block in blocks_of(page) if block.mark]
    assert page.count("<!--") == len(marks)
    assert marks.count("test") == (path.parent == ROOT)
    assert set(marks) <= {"run", "test"}


def test_the_front_page_links_every_other() -> None:
    front = READMES[0].read_text()
    assert [name for name in NAMES[1:] if f"({name})" not in front] == []


def test_every_file_beside_the_code_is_package_data() -> None:
    """The wheel and the sdist hold what setup.cfg names; the pyz holds all of the folder."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    of_each, of_cfchat = (re.split(r",\s*", settings["options.package_data"][name]) for name in ("*", "cfchat"))

    def is_named(path: Path) -> bool:
        in_package = (path.parent / "__init__.py").exists()
        inner = str(path.relative_to(PACKAGE))
        return (in_package and path.name in of_each) or any(fnmatch(inner, pattern) for pattern in of_cfchat)

    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert [path for path in files if not is_named(path)] == []


# --- tables that repeat what the code says ---------------------------------------------------------

UNSEEN = {"incomplete_message", "event_too_large", "invalid_config"}  # no client ever gets these


def section(room: str, heading: str) -> str:
    """Return what stands under a heading of a room's README."""
    page = (PACKAGE / room / "README.md").read_text()
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_the_api_page_lists_every_error() -> None:
    classes = [it for it in vars(errors).values() if isinstance(it, type) and issubclass(it, CfchatError)]
    rows = re.findall(r"^\|[^|]+\| (\d+) \| (.+) \|$", section("app", "Errors"), re.M)
    listed = {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert listed == {(it.status, it.code) for it in classes if it.code not in UNSEEN}


def test_the_api_page_lists_every_form_of_a_reply() -> None:
    listed = re.findall(r"^\| POST `/api/chatbot`, `([^`]+)` \|", section("app", "Paths"), re.M)
    assert sorted(listed) == sorted(FORMS)


def test_the_operators_page_lists_every_metric() -> None:
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    listed = re.findall(r"`(cfchat_\w+)[{`]", section("ops", "Probes and metrics").partition("| metric |")[2])
    assert set(listed) == set(re.findall(r'"(cfchat_\w+)"', source))


def test_the_page_of_the_house_lists_every_fast_case() -> None:
    marked = {path for path in PACKAGE.rglob("*.py") if "# Fast case:" in path.read_text()}
    assert {PACKAGE / name for name in re.findall(r"`(.+?\.py)` \|", section("", "Fast cases"))} == marked


def test_the_page_of_the_house_names_only_modules_that_exist() -> None:
    rows = re.findall(r"^\| `([\w/]+/)` \| .*?: ([\w, ]+)", (PACKAGE / "README.md").read_text(), re.M)
    files = [PACKAGE / room / f"{name}.py" for room, names in rows for name in names.rstrip(", ").split(", ")]
    assert len(files) > 40
    assert [file for file in files if not file.exists()] == []


# --- the blocks -----------------------------------------------------------------------------------

RUN = [
    pytest.param(block, id=f"{name}-{number}")
    for name, path in zip(NAMES, READMES, strict=True)
    for number, block in enumerate(blocks_of(path.read_text()), 1)
    if block.mark == "run" and block.text.strip() != DEMO
]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Start the demo and return its port."""
    with demo() as (_, port, _):
        yield port


def test_the_first_block_starts_the_demo_and_its_curl_line_is_answered() -> None:
    assert blocks_of(READMES[0].read_text())[0] == Block("run", "sh", DEMO + "\n")
    with demo() as (process, _, banner):
        match = re.search(r"^try: curl -N (\S+) .* -d '(.*)'$", banner, re.M)
        assert match, banner
        asked = Request(match[1], match[2].encode(), {"Content-Type": "application/json"})
        with urlopen(asked, timeout=20) as reply:
            assert reply.status == 200 and b"unhappy" in reply.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_the_block_that_tests_makes_an_environment_and_runs_pytest() -> None:
    (text,) = (block.text for block in blocks_of(READMES[0].read_text()) if block.mark == "test")
    assert "-m venv" in text and "-m pytest" in text


@pytest.mark.parametrize("block", RUN)
def test_a_marked_block_runs(block: Block, port: int, tmp_path: Path) -> None:
    for name in ("cfchat_server.py", "cfchat"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run(
        runner(block, port),
        cwd=tmp_path,
        env=environ(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def runner(block: Block, port: int) -> list[str]:
    """Return the command that runs a block with this Python, the demo's port, and a curl that fails on an error."""
    text = block.text.replace("127.0.0.1:8787", f"127.0.0.1:{port}")
    if block.language == "python":
        return [sys.executable, "-W", "error", "-c", text]
    assert block.language == "sh"
    functions = f'python3() {{ {shlex.join(python())} "$@"; }}\ncurl() {{ command curl -sSf "$@"; }}\n'
    return ["sh", "-euc", functions + text]


def python() -> list[str]:
    """Return how command() starts Python, without its program."""
    return command()[:-1]
