"""The files that `deploy` prints, by their text. tests/real tries them with the tools that read them."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest
from command import command, deploy, environ, run, surroundings
from house import ACCOUNT
from places import ROOT
from process import ask, is_whole, standin, started

from cfchat import errors
from cfchat.errors import CfchatError
from cfchat.ops.metrics import Metrics

PROMPT = "Say \"100%\" of $x, \\ and 'so'"


@pytest.mark.parametrize("name", ["systemd", "container", "kubernetes", "nginx", "caddy", "haproxy"])
def test_no_secret_is_printed(name: str) -> None:
    text = deploy(name, CLOUDFLARE_API_TOKEN="very-secret", CF_AIG_TOKEN="secret-too")
    assert "very-secret" not in text and "secret-too" not in text
    assert "$" not in re.sub(r"\$(MAINPID|host|remote_addr)", "", text), "all is filled in"


def test_the_unit_starts_this_installation_with_its_settings(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("laptop a-key-that-is-long\n")
    text = deploy(
        "systemd",
        *("--port", "443", "--drain-timeout", "60", "--api-keys-file", str(keys)),
        CFCHAT_SYSTEM_PROMPT=PROMPT, CF_AIG_TOKEN_FILE="/etc/a%b",
    )
    lines = text.splitlines()
    assert f"ExecStart={sys.executable} {ROOT / 'cfchat_server.py'}" in lines
    for line in (
        f"Environment=CLOUDFLARE_ACCOUNT_ID={ACCOUNT}",
        "Environment=CFCHAT_PORT=443",
        r'''Environment="CFCHAT_SYSTEM_PROMPT=Say \"100%%\" of $x, \\ and 'so'"''',
        f"LoadCredential=api-keys-file:{keys}",
        "Environment=CFCHAT_API_KEYS_FILE=%d/api-keys-file",
        "LoadCredential=cloudflare-api-token:/etc/cfchat/cloudflare-api-token",
        "Environment=CLOUDFLARE_API_TOKEN_FILE=%d/cloudflare-api-token",
        "LoadCredential=cf-aig-token:/etc/a%%b",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        "TimeoutStopSec=75",
    ):
        assert line in lines, line
    by_socket = deploy("systemd", "--uds", "/run/chat/it.sock").splitlines()
    assert "RuntimeDirectory=chat" in by_socket and "Environment=CFCHAT_UDS_MODE=666" in by_socket
    assert "Environment=CFCHAT_UDS_MODE=660" in deploy("systemd", "--uds", "/run/chat/it.sock", "--uds-mode", "660")
    assert "CFCHAT_UDS_MODE" not in text
    refused = run("deploy", "systemd", "--uds", "/tmp/it.sock")
    assert refused.returncode == 2 and "--uds" in refused.stderr


def test_a_file_of_settings_goes_along_and_its_paths_with_it(tmp_path: Path) -> None:
    """Its values stay in it, so that it may be changed; what a place sets by itself does not win over it."""
    keys, config = tmp_path / "keys", tmp_path / "cfchat.toml"
    keys.write_text("laptop a-key-that-is-long\n")
    text = f'rate-limit = "20/minute"\nport = 443\ndrain-timeout = 60\napi-keys-file = "{keys}"\n'
    config.write_text(text + '[models."@cf/a/b"]\nlora = "x"\n')
    unit = deploy("systemd", "--config", str(config)).splitlines()
    for line in (
        f"LoadCredential=config:{config}",
        "Environment=CFCHAT_CONFIG=%d/config",
        f"LoadCredential=api-keys-file:{keys}",
        "Environment=CFCHAT_API_KEYS_FILE=%d/api-keys-file",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        "TimeoutStopSec=75",
    ):
        assert line in unit, line
    assert not re.search("RATE_LIMIT|CFCHAT_PORT|MODEL_OPTIONS", "\n".join(unit))
    assert f"--volume {config}:/etc/cfchat/config:ro" in deploy("container", CFCHAT_CONFIG=str(config))
    config.write_text('uds = "/run/chat/it.sock"\nuds-mode = "600"\n')
    assert "Environment=CFCHAT_UDS_MODE=600" in deploy("systemd", "--config", str(config)).splitlines()
    refused = run("deploy", "container", "--config", str(config))
    assert refused.returncode == 2 and "uds" in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_a_setting_that_the_format_cannot_express_is_refused() -> None:
    for flags, word in (
        (["deploy", "container", "--system-prompt", "two\nlines"], "CFCHAT_SYSTEM_PROMPT_FILE"),
        (["deploy", "nginx", "--tls-cert", "x.pem"], "--tls-cert"),
        (["deploy", "nginx", "--domain", "a b; evil"], "--domain"),
        (["deploy", "systemd", "--demo"], "--demo"),
        (["deploy", "systemd", "--port", "many"], "--port"),
        (["deploy", "windows"], "windows"),
        (["deploy"], "NAME"),
    ):
        done = run(*flags)
        assert done.returncode == 2 and word in done.stderr and not done.stdout, flags
        assert len(done.stderr.splitlines()) == 1


async def test_the_container_by_its_lines(tmp_path: Path) -> None:
    """The files of COPY are enough for ENTRYPOINT, with the environment of ENV."""
    async with standin() as upstream:
        base = {"CFCHAT_BASE_URL": upstream.base_url, "SSL_CERT_FILE": surroundings("")["SSL_CERT_FILE"]}
        text = await asyncio.to_thread(deploy, "container", "--system-prompt", PROMPT, **base)
        lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
        words = {verb: rest for verb, _, rest in (line.partition(" ") for line in lines)}
        assert words["FROM"] == "python:3.13-slim" and words["USER"] == "65532:65532"
        for line in lines:
            if line.startswith("COPY"):
                _, source, target = line.split()
                place = tmp_path / target.lstrip("/")
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    place.mkdir()
                    shutil.copy(ROOT / source, place)
        (tmp_path / "token").write_text("token-in-a-file\n")
        # ENV quotes as a shell does.
        listed = await asyncio.to_thread(subprocess.check_output, ["sh", "-c", f"env -i {words['ENV']} env -0"])
        settings = dict(word.partition("=")[::2] for word in listed.decode().split("\0")[:-1])
        assert settings["CFCHAT_HOST"] == "0.0.0.0" and settings["CFCHAT_SYSTEM_PROMPT"] == PROMPT
        settings |= {"SSL_CERT_FILE": base["SSL_CERT_FILE"], "CLOUDFLARE_API_TOKEN_FILE": str(tmp_path / "token")}
        entry = json.loads(words["ENTRYPOINT"])
        argv = [sys.executable, *(str(tmp_path / word[1:]) if word.startswith("/") else word for word in entry[1:])]
        async with started("", argv=argv, **{**settings, "CLOUDFLARE_API_TOKEN": ""}) as process:
            probe = json.loads(words["HEALTHCHECK"].partition("CMD ")[2].replace("8787", str(process.port)))
            await asyncio.to_thread(subprocess.check_call, [sys.executable, *probe[1:]])
            assert is_whole(await (await ask(process.port)).rest())
            assert upstream.requests[-1].fields["authorization"] == "Bearer token-in-a-file"
            assert json.loads(upstream.requests[-1].body)["messages"][0]["content"] == PROMPT
            assert await process.stop() == 0


@pytest.mark.parametrize(
    ("name", "flags", "seconds"),
    [
        ("nginx", (), 5 + (30 + 2 * 5) + 240),
        ("caddy", ("--queue-timeout", "60", "--first-token-timeout", "300"), 60 + 40 + 300),
        ("haproxy", ("--connect-timeout", "0.5", "--reply-timeout", "20"), 5 + (30 + 2 * 0.5) + 20),
    ],
)
def test_a_proxy_waits_longer_than_cfchat_is_ever_silent(name: str, flags: tuple[str, ...], seconds: float) -> None:
    """By the settings: in the queue, until the last try begins, and for a reply that comes as a whole."""
    found = re.findall(r"(?:read_timeout|header_timeout|timeout client|timeout server) (\d+)s", deploy(name, *flags))
    assert set(map(int, found)) == {seconds + 15}


# --- metrics --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alerts", "grafana"])
def test_alerts_and_dashboard_name_only_what_there_is(name: str) -> None:
    text = deploy(name)
    shown = set()
    for head in Metrics().samples():
        _, _, metric, *_, kind = head.split()
        shown |= {f"{metric}_{part}" for part in ("bucket", "count")} if kind == "histogram" else {metric}
    assert len(set(re.findall(r"cfchat_\w+", text))) > 5
    assert set(re.findall(r"cfchat_\w+", text)) <= shown
    codes = {it.code for it in vars(errors).values() if isinstance(it, type) and issubclass(it, CfchatError)}
    assert set(re.findall(r'(?:code|reason)="(\w+)"', text)) <= codes
    assert "$$" not in text and "very-secret" not in deploy(name, CLOUDFLARE_API_TOKEN="very-secret")


def test_the_alerts_know_this_installation_and_say_what_to_do() -> None:
    text = deploy("alerts", "--workers", "4", "--admin", "[::1]:9000")
    assert "expr: 0 < cfchat_ready < 4\n" in text and 'targets: ["[::1]:9000"]' in text
    rules = text.split("- alert: ")[1:]
    assert len(rules) > 10
    for rule in rules:
        assert re.search(r"severity: (warning|critical) }.*summary: .*description: >-\n +\S", rule, re.DOTALL), rule
    flags = set(re.findall(r"(--[a-z][a-z-]+)", "".join(rules)))
    assert flags and all(f"`{flag}`" in (ROOT / "cfchat/settings/README.md").read_text() for flag in flags)
    assert "expr: 0 < cfchat_ready < 1\n" in deploy("alerts")


def test_the_panels_of_the_dashboard_stand_side_by_side() -> None:
    dashboard = json.loads(deploy("grafana"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels) > 10
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken) and max(x for x, _ in taken) < 24
    variables = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval", "__all"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard))) == variables


# --- one file -------------------------------------------------------------------------------------


def packed(*start: str) -> bytes:
    done = subprocess.run([*start, "deploy", "pyz"], env=environ(), capture_output=True, timeout=20, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def pyz() -> bytes:
    return packed(*command())


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_one_file_runs_from_a_folder_that_cannot_be_written_to(tmp_path: Path, pyz: bytes, workers: str) -> None:
    file = tmp_path / "cfchat.pyz"
    file.write_bytes(pyz)
    tmp_path.chmod(0o555)
    start = [sys.executable, "-I", "-W", "error", str(file)]
    process = subprocess.Popen(
        [*start, "--demo", "--port", "0", "--workers", workers], env=environ(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip
    try:
        assert process.stdout
        port = int(re.search(r":(\d+)/api", process.stdout.readline())[1])  # type: ignore[index]
        for method, path, body, words in (
            ("GET", "/", None, b"<cf-chat"),
            ("GET", "/cfchat.js", None, b"customElements"),
            ("POST", "/api/chatbot", '[{"role":"user","content":"I am unhappy"}]', b"unhappy"),
        ):
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            client.request(method, path, body)
            assert words in client.getresponse().read()
            client.close()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0 and "Traceback" not in log
    assert os.listdir(tmp_path) == ["cfchat.pyz"]


def test_the_one_file_is_the_same_wherever_it_is_made(tmp_path: Path, pyz: bytes) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "cfchat", copy / "cfchat", copy_function=shutil.copyfile)  # other times, other rights
    shutil.copy(ROOT / "cfchat_server.py", copy)
    file = tmp_path / "cfchat.pyz"
    file.write_bytes(pyz)
    assert packed(sys.executable, "-OO", str(copy / "cfchat_server.py")) == pyz
    # In a process that shares other strings than ours does.
    interned = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; shared = [sys.intern(chr(code)) for code in range(256)]"
    assert packed(sys.executable, "-c", f"{interned}; from cfchat.cli.start import main; sys.exit(main())") == pyz
    assert packed(sys.executable, "-I", str(file)) == pyz


@pytest.mark.parametrize(
    ("before_source", "magic", "starts"),
    [
        (b"1 / 0\n", MAGIC_NUMBER, True),  # bytecode of this Python: no source is looked at
        (b"", b"\0\0\r\n", True),  # of another Python: the source is compiled
        (b"1 / 0\n", b"\0\0\r\n", False),
    ],
    ids=["own", "other", "other, and the source is wrong"],
)
def test_the_one_file_runs_its_bytecode_and_in_another_python_its_source(
    tmp_path: Path, pyz: bytes, before_source: bytes, magic: bytes, starts: bool
) -> None:
    file = tmp_path / "cfchat.pyz"
    with zipfile.ZipFile(io.BytesIO(pyz)) as made, zipfile.ZipFile(file, "w") as changed:
        for name in made.namelist():
            body = made.read(name)
            if name.endswith(".pyc"):
                assert body.startswith(MAGIC_NUMBER)
                body = magic + body[len(MAGIC_NUMBER) :]
            changed.writestr(name, before_source + body if name.endswith(".py") else body)
    done = subprocess.run([sys.executable, "-I", str(file), "--version"], capture_output=True, timeout=20, check=False)
    assert (done.returncode == 0) is starts, done.stderr
