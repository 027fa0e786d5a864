"""`serve` as a user starts it, in a process of its own."""

from __future__ import annotations

import http.client
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from command import MESSAGES, ask, command, demo, environ, run
from places import ROOT

from cfchat.cli.serve import _allow_files


def test_demo_answers_and_says_that_it_is_one() -> None:
    with demo() as (process, port, banner):
        answer = ask(port)
        pieces = iter(lambda: answer.read1(65536), b"")
        texts = list(pieces)
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=20)
    assert answer.status == 200
    assert len(texts) > 3, "the text comes in several pieces"
    assert b"unhappy" in b"".join(texts)
    assert f"page: http://127.0.0.1:{port}/\n" in banner
    assert "DEMO" in banner and "curl -N http://127.0.0.1:" in banner
    assert "demo" in log and "POST /api/chatbot 200" in log
    assert "unhappy" not in log
    assert process.returncode == 0
    assert "Traceback" not in log and "destroyed" not in log


WITHOUT = [*command()[:-1], str(ROOT / "tests" / "support" / "windows.py")]


def test_it_runs_and_ctrl_c_ends_it_without_what_windows_lacks() -> None:
    with demo(argv=WITHOUT) as (process, port, _):
        assert b"unhappy" in ask(port).read()
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "SIGINT: stopping" in log and log.endswith("stopped\n")
    assert "Traceback" not in log and "ERROR" not in log


@pytest.mark.parametrize(
    ("flags", "words"),
    [(("--workers", "2"), "--workers must be 0"), (("--uds", "cfchat.sock"), "cannot listen on cfchat.sock")],
)
def test_what_windows_lacks_is_refused_in_one_line(flags: tuple[str, str], words: str) -> None:
    done = subprocess.run(
        [*WITHOUT, "--demo", *flags], env=environ(), capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert words in done.stderr


def test_the_banners_curl_line_works() -> None:
    with demo() as (_, _, banner):
        line = next(line for line in banner.splitlines() if "curl" in line).partition("try: ")[2]
        done = subprocess.run(["sh", "-c", line], env=environ(), capture_output=True, timeout=20, check=False)
    assert done.returncode == 0 and done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_lets_a_reply_finish(number: signal.Signals) -> None:
    with demo() as (process, port, _):
        answer = ask(port)
        process.send_signal(number)
        assert answer.read()  # http.client raises IncompleteRead for a reply without its end
        process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize("argv", [(), WITHOUT], ids=["here", "without what Windows lacks"])
def test_second_signal_ends_at_once(argv: Sequence[str]) -> None:
    with demo(argv=argv) as (process, port, _):
        answer = ask(port)
        process.send_signal(signal.SIGTERM)
        assert process.stderr
        for line in process.stderr:
            if "stopping" in line:
                break
        process.send_signal(signal.SIGTERM)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in log


def test_text_streams_to_many_at_once() -> None:
    with demo() as (_, port, _):
        answers: list[bytes] = []
        threads = [threading.Thread(target=lambda: answers.append(ask(port).read())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(answers)) == 1 and len(answers) == 8


def test_address_in_use_is_one_line_and_exit_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("--demo", "--port", str(taken.getsockname()[1]), "--log-level", "error")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "in use" in done.stderr


def test_without_a_ca_file_that_exists() -> None:
    account = {"CLOUDFLARE_ACCOUNT_ID": "0" * 32, "CLOUDFLARE_API_TOKEN": "x"}
    done = run("--port", "0", SSL_CERT_FILE="/no/such/file", **account)
    assert done.returncode == 2 and "SSL_CERT_FILE" in done.stderr


def status(port: int, key: str) -> int:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    client.request("POST", "/api/chatbot", MESSAGES, {"Connection": "close", "Authorization": f"Bearer {key}"})
    return client.getresponse().status


def test_keys_are_read_again_on_hangup(tmp_path: Path) -> None:
    old, new, path = "old-" * 4, "new-" * 4, tmp_path / "keys"
    path.write_text(f"laptop {old}\n")
    with demo("--api-keys-file", str(path)) as (process, port, banner):
        assert "Authorization: Bearer" in banner
        assert process.stderr
        assert (status(port, old), status(port, new)) == (200, 401)
        for text, said, statuses in (
            (f"laptop {new}\n", "1 keys read", (401, 200)),
            ("nonsense", "the keys stay as they were", (401, 200)),
        ):
            path.write_text(text)
            process.send_signal(signal.SIGHUP)
            lines = iter(process.stderr.readline, "")
            line = next(line for line in lines if "SIGHUP" in line)
            assert said in line and new not in line
            assert (status(port, old), status(port, new)) == statuses


def test_a_key_file_that_has_become_a_fifo_changes_nothing(tmp_path: Path) -> None:
    key, path = "long-" * 4, tmp_path / "keys"
    path.write_text(f"laptop {key}\n")
    with demo("--api-keys-file", str(path)) as (process, port, _):
        path.unlink()
        os.mkfifo(path)
        process.send_signal(signal.SIGHUP)
        assert process.stderr
        line = next(line for line in process.stderr if "SIGHUP" in line)
        assert "is not a regular file; the keys stay as they were" in line
        assert status(port, key) == 200


def test_a_disk_that_hangs_holds_up_neither_replies_nor_the_end(tmp_path: Path) -> None:
    key, path, slow = "long-" * 4, tmp_path / "keys", tmp_path / "main.py"
    path.write_text(f"laptop {key}\n")
    slow.write_text(
        f"import os, sys, time; sys.path.insert(0, {str(ROOT)!r}); real, times = os.open, []\n"
        "def hangs(path, *more, **so):\n"
        f"    if path == {str(path)!r}:\n"
        "        times.append(path)\n"
        "        if len(times) == 2:\n"
        "            print('it hangs', file=sys.stderr, flush=True)\n"
        "            time.sleep(60)\n"
        "    return real(path, *more, **so)\n"
        "os.open = hangs\n"
        "from cfchat.cli.start import main; sys.exit(main())"
    )
    with demo("--api-keys-file", str(path), argv=[sys.executable, str(slow)]) as (process, port, _):
        process.send_signal(signal.SIGHUP)
        assert process.stderr
        assert next(line for line in process.stderr if "it hangs" in line)
        assert status(port, key) == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        (["--host", "0.0.0.0"], True),
        (["--host", "0.0.0.0", "--rate-limit", "20/minute"], False),
        (["--host", "0.0.0.0", "--daily-tokens", "1000"], False),
        ([], False),
    ],
)
def test_the_log_warns_of_an_open_server(flags: list[str], warned: bool) -> None:
    with demo(*flags) as (process, port, _):
        assert ask(port).status == 200
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=20)
    assert ("everybody who can reach 0.0.0.0 may ask, and you pay" in log) is warned
    assert ("--rate-limit" in log) is warned


def test_one_address_cannot_take_all_files() -> None:
    """A process of 48 files gets 60 clients that only wait. It has files left, for another client and its reply."""
    argv = [str(ROOT / "cfchat_server.py"), "--demo", "--port", "0"]
    code = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48)); "
        f"sys.argv = {argv}; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout and process.stderr
        port = int(re.search(r":(\d+)/api", process.stdout.readline())[1])  # type: ignore[index]
        clients = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(60)]
        for _ in range(3):
            assert ask(port, "127.0.0.2").read().startswith(b"I am sorry")
        for client in clients:
            client.close()
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert log.count("only 48 files may be open: at most 5 connections and 5 replies at once") == 1
    assert "Traceback" not in log and "out of system resource" not in log


@pytest.mark.parametrize("command", [["--port", "0"], ["--port", "0", "--workers", "1"], ["ask", "Hello"]])
def test_a_resolver_that_hangs_does_not_hold_up_the_end(command: list[str], tmp_path: Path) -> None:
    """Python cannot stop the thread that resolves a name, and would wait for it."""
    (tmp_path / "main.py").write_text(
        f"import socket, sys, time; sys.path.insert(0, {str(ROOT)!r}); real = socket.getaddrinfo\n"
        "def getaddrinfo(host, *more, **so):\n"
        "    if 'cloudflare' in str(host):\n"
        "        print('it hangs', file=sys.stderr, flush=True)\n"
        "        time.sleep(60)\n"
        "    return real(host, *more, **so)\n"
        "socket.getaddrinfo = getaddrinfo\n"
        "from cfchat.cli.main import main; sys.exit(main())"
    )
    settings = environ(CLOUDFLARE_ACCOUNT_ID="0" * 32, CLOUDFLARE_API_TOKEN="t")
    argv = [sys.executable, str(tmp_path / "main.py"), *command]
    with subprocess.Popen(argv, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        if command[0] != "ask":
            while "stops it" not in process.stdout.readline():
                pass
        while "it hangs" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(20) == (130 if command[0] == "ask" else 0)
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


@pytest.mark.parametrize(("soft", "taken"), [(256, 10240), (20_000, 20_000)])
def test_an_unlimited_number_of_files_that_the_system_refuses(
    soft: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As macOS does: it reports "unlimited", and refuses it as a limit to set."""
    now = (soft, resource.RLIM_INFINITY)

    def setrlimit(_: int, wanted: tuple[int, int]) -> None:
        nonlocal now
        if wanted[0] == resource.RLIM_INFINITY:
            raise ValueError("current limit exceeds maximum limit")
        now = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: now)
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    _allow_files()
    assert now == (taken, resource.RLIM_INFINITY)
