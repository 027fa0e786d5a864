"""Reading files: regular ones, and up to a limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command import run

from cfchat.files import MOST, read_file


@pytest.mark.parametrize("size", [0, 1, MOST])
def test_a_file_is_read_whole(size: int, tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"x" * size)
    link.symlink_to(path)
    assert read_file(str(link)) == b"x" * size


def test_what_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (MOST + 1))
    os.mkfifo(tmp_path / "fifo")
    reasons = {
        str(tmp_path / "large"): "it is larger than 1048576 bytes",
        str(tmp_path / "fifo"): "it is not a regular file",
        "/dev/zero": "it is not a regular file",
        str(tmp_path): "Is a directory",
        str(tmp_path / "none"): "No such file or directory",
    }
    for path, reason in reasons.items():
        with pytest.raises(ValueError, match=f"^cannot read {path}: {reason}$"):
            read_file(path)


@pytest.mark.parametrize(
    ("flag", "variable"),
    [("--api-keys-file", ""), ("--model-options", ""), ("--tls-cert", ""), ("", "CFCHAT_SYSTEM_PROMPT_FILE")],
)
def test_a_fifo_ends_the_start(flag: str, variable: str, tmp_path: Path) -> None:
    """It would wait for a writer."""
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    done = run("--demo", "--port", "0", *((flag, fifo) if flag else ()), **({variable: fifo} if variable else {}))
    assert done.returncode == 2 and "is not a regular file" in done.stderr and len(done.stderr.splitlines()) == 1
