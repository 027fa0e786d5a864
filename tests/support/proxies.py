"""nginx, HAProxy and Caddy on loopback, each with the file of a test."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from command import free_port


def tool(name: str) -> str:
    """Where it is. On CI it is required: there a missing one fails."""
    found = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
    if found is None and "CI" not in os.environ:
        pytest.skip(f"{name} is not installed")
    assert found is not None, f"{name} is required on CI"
    return found


def passes(*command: str, who: Mapping[str, Any] = MappingProxyType({}), **more: str) -> str:
    environ = {**os.environ, **more}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=20, check=False, **who
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def nginx(text: str, port: int, folder: Path) -> tuple[list[str], list[str]]:
    """The commands that check and that run it."""
    (folder / "site.conf").write_text(
        text.replace("listen 80;", f"listen 127.0.0.1:{port};").replace("    listen [::]:80;\n", "")
    )
    temporary = "".join(f"{name}_temp_path {folder}/{name};" for name in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; {temporary} include {folder}/site.conf; }}"
    )
    start = [tool("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    return [*start, "-t"], start


def haproxy(text: str, port: int, folder: Path) -> tuple[list[str], list[str]]:
    (folder / "haproxy.cfg").write_text(text.replace("bind :80", f"bind 127.0.0.1:{port}"))
    start = [tool("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]
    return [start[0], "-c", *start[2:]], start


def caddy(text: str, port: int, folder: Path) -> tuple[list[str], list[str]]:
    site = text.replace("chat.example.com {", f"http://:{port} {{\n\tbind 127.0.0.1")
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n}\n" + site)
    told = ["--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    return [tool("caddy"), "validate", *told], [tool("caddy"), "run", *told]


PROXIES = {"nginx": nginx, "haproxy": haproxy, "caddy": caddy}


@asynccontextmanager
async def running(name: str, text: str, folder: Path, **who: Any) -> AsyncIterator[int]:
    """The proxy with this file, once checked, as the user that runs this or another; gives its port."""
    port = free_port()
    check, start = PROXIES[name](text, port, folder)
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    await asyncio.to_thread(passes, *check, who=who, **home)
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*start, env={**os.environ, **home}, stdout=null, stderr=null, **who)
    try:
        while True:
            assert process.returncode is None
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)  # nobody says when it listens
            else:
                writer.close()
                break
        yield port
    finally:
        process.terminate()
        await process.wait()
