"""The page and its files, through a real socket."""

from __future__ import annotations

import asyncio
import http.client
import re
import shutil
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest
from client import Reply, parse
from command import demo
from house import House, house
from places import ROOT
from standin import StandIn

from cfchat.app.kept.replies import Keeping
from cfchat.app.page import FILES, matches, pages
from cfchat.app.routes import Settings as AppSettings
from cfchat.guard.cors import Origins
from cfchat.guard.guard import Guard, Settings
from cfchat.server.server import Server
from cfchat.upstream.client import Settings as UpstreamSettings

PATHS = sorted(FILES)


async def get(cfchat: House, path: str, fields: str = "", method: str = "GET") -> Reply:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n"
    return parse(await cfchat.send(head.encode()))


@pytest.mark.parametrize(
    ("path", "content_type", "begin"),
    [
        ("/", "text/html; charset=utf-8", b"<!doctype html>"),
        ("/cfchat.js", "text/javascript; charset=utf-8", b"// <cf-chat>"),
        ("/page.css", "text/css; charset=utf-8", b":root"),
        ("/favicon.svg", "image/svg+xml", b"<svg"),
    ],
)
async def test_each_file(path: str, content_type: str, begin: bytes) -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        answer = await get(cfchat, path)
    assert (answer.status, answer.fields["content-type"]) == (200, content_type)
    assert answer.body.startswith(begin)
    assert answer.fields["content-length"] == str(len(answer.body))
    assert answer.fields["cache-control"] == "no-cache"
    assert answer.fields["referrer-policy"] == "no-referrer"
    assert answer.fields["x-content-type-options"] == "nosniff"
    assert re.fullmatch(r'"[0-9a-f]{32}"', answer.fields["etag"])


async def test_the_page_loads_only_its_own_files() -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        page = await get(cfchat, "/")
    policy = page.fields["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "*" not in policy
    assert "cross-origin-resource-policy" not in page.fields
    html = page.body.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)


async def test_the_module_is_for_every_page() -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        module = await get(cfchat, "/cfchat.js", "Origin: https://a.example\r\n")
    assert module.fields["access-control-allow-origin"] == "*"
    assert module.fields["cross-origin-resource-policy"] == "cross-origin"


async def test_the_module_for_the_origins_that_are_allowed() -> None:
    guard = Guard(Settings(origins=Origins(("https://a.example",))))
    async with StandIn([]) as standin, house(standin, guard=guard) as cfchat:
        answers = [await get(cfchat, "/cfchat.js", f"Origin: https://{name}.example\r\n") for name in "ab"]
    allowed = [answer.fields.get("access-control-allow-origin") for answer in answers]
    assert allowed == ["https://a.example", None]
    assert all(answer.fields["vary"] == "Origin" for answer in answers)


@pytest.mark.parametrize("path", PATHS)
async def test_a_file_that_the_browser_has_is_not_sent_again(path: str) -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        whole = await get(cfchat, path)
        tag = whole.fields["etag"]
        known = await get(cfchat, path, f"If-None-Match: {tag}\r\n")
        other = await get(cfchat, path, 'If-None-Match: "0"\r\n')
    assert (known.status, known.raw, other.status) == (304, b"", 200)
    # RFC 9110 §15.4.5: a 304 has the caching fields of the 200, and no length but the 200's.
    assert (known.fields["etag"], known.fields["cache-control"]) == (tag, "no-cache")
    assert known.fields["access-control-allow-origin"] == "*"
    assert "content-length" not in known.fields and "content-type" not in known.fields


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (None, False),
        ("", False),
        ("*", True),
        (" * ", True),
        ('"a"', True),
        ('W/"a"', True),
        ('"b", "a"', True),
        ('"b",W/"a" , "c"', True),
        ('"b"', False),
        ("a", False),
        ('"aa"', False),
        ('"a', False),
    ],
)
def test_if_none_match(known: str | None, expected: bool) -> None:
    assert matches('"a"', known) is expected


@pytest.mark.parametrize("path", PATHS)
async def test_head_is_get_without_its_body(path: str) -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        whole, bare = await get(cfchat, path), await get(cfchat, path, method="HEAD")
    assert (bare.status, bare.raw) == (200, b"")
    changing = ("date", "x-request-id")
    assert {k: v for k, v in bare.fields.items() if k not in changing} == {
        k: v for k, v in whole.fields.items() if k not in changing
    }


async def test_other_methods() -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        options, post = await get(cfchat, "/", method="OPTIONS"), await cfchat.post(path="/")
    assert (options.status, options.fields["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert (post.status, post.fields["allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_one_connection_serves_all_files() -> None:
    lines = "".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in PATHS)
    async with StandIn([]) as standin, house(standin) as cfchat:
        reader, writer = await asyncio.open_connection("127.0.0.1", cfchat.port)
        writer.write(lines.encode() + b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = await reader.read()
        writer.close()
    assert received.count(b"HTTP/1.1 200 OK\r\n") == len(PATHS)
    assert received.count(b"HTTP/1.1 404 Not Found\r\n") == 1


async def test_a_page_says_which_model_answers() -> None:
    async with StandIn([]) as standin, house(standin) as cfchat:
        html = (await get(cfchat, "/")).body.decode()
    assert "@cf/google/gemma-4-26b-a4b-it" in html and "demo" not in html and "$" not in html


@pytest.mark.parametrize(
    ("app", "attributes"),
    [
        (AppSettings(), ""),
        (AppSettings(images=4), ' images="4"'),
        (AppSettings(keeping=Keeping(60)), " resume"),
        (AppSettings(images=4, keeping=Keeping(60)), ' images="4" resume'),
    ],
)
async def test_the_page_offers_what_the_server_can(app: AppSettings, attributes: str) -> None:
    async with StandIn([]) as standin, house(standin, app=app) as cfchat:
        page = await get(cfchat, "/")
    assert f'<cf-chat storage="session"{attributes}>'.encode() in page.body


@pytest.mark.parametrize("model", ["ai-search/docs", "@cf/qwen/qwen3-30b-a3b-fp8"])
async def test_the_page_offers_no_images_where_its_model_takes_none(model: str) -> None:
    def asks(settings: UpstreamSettings) -> UpstreamSettings:
        return settings._replace(models=(model,))

    async with StandIn([]) as standin, house(standin, app=AppSettings(images=4), change=asks) as cfchat:
        page = await get(cfchat, "/")
    assert b'<cf-chat storage="session">' in page.body


async def test_a_models_name_is_no_markup() -> None:
    name = "<script>alert(1)</script>\"'&$note"
    handler = pages(name, demo=False)["/"]
    server = Server(handler, lambda error, request_id, fields: pytest.fail(str(error)))
    _, port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    html = (await reader.read()).decode()
    writer.close()
    await server.drain(1)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;$note" in html
    assert "<script>" not in html


def test_the_demo_says_that_it_is_one() -> None:
    with demo() as (_, port, _):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        client.request("GET", "/", headers={"Connection": "close"})
        html = client.getresponse().read().decode()
        client.close()
    assert "This is a demo" in html and "CLOUDFLARE_API_TOKEN" in html


@pytest.mark.parametrize("path", PATHS)
async def test_no_page(path: str) -> None:
    async with StandIn([]) as standin, house(standin, page=False) as cfchat:
        answer = await get(cfchat, path)
    assert (answer.status, answer.error["code"]) == (404, "not_found")


def test_no_page_is_a_flag() -> None:
    with demo("--no-page") as (_, port, banner):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        client.request("GET", "/", headers={"Connection": "close"})
        assert client.getresponse().status == 404
        client.close()
    assert "page:" not in banner


def test_the_files_are_found_in_a_zip(tmp_path: Path) -> None:
    folder, archive = tmp_path / "app", tmp_path / "cfchat.pyz"
    shutil.copytree(ROOT / "cfchat", folder / "cfchat", ignore=shutil.ignore_patterns("__pycache__"))
    zipapp.create_archive(folder, archive, main="cfchat.cli:main")
    code = "from cfchat.app.page import pages, __file__ as f; print(len(pages('m', True)), '.pyz' in f)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(archive)!r}); {code}"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{len(FILES)} True\n", "")
