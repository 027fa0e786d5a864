"""`check --url` within the process of a test, and a cfchat to try it on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import cfchat
from cfchat.cli.check_url.steps import check_url, read_asked
from cfchat.cli.results import Result, Status

KEY = "0123456789abcdef-of-a-test"


@asynccontextmanager
async def demo(**settings: Any) -> AsyncIterator[cfchat.Serving]:
    """Serve the demo within the block."""
    async with cfchat.serve(cfchat.load_config(demo=True, environ={}, **{"port": 0, **settings})) as serving:
        yield serving


async def check(
    url: str, key: str = "", origin: str | None = None, slow: bool = False, **environ: str
) -> dict[str, Result]:
    """Return the results by name; none of them shows the key or a control character, or leaves its reader alone."""
    asked = read_asked({"url": url, "origin": origin, "slow": slow}, {"CFCHAT_CHECK_KEY": key})
    results = {result.name: result async for result in check_url(asked, environ)}
    words = "".join(result.detail + result.next for result in results.values())
    assert KEY not in words and words.isprintable()
    assert all(result.next for result in results.values() if result.status in (Status.WARN, Status.FAIL))
    return results


def faults(results: Mapping[str, Result]) -> dict[str, str]:
    """Return the status of each step that is not OK."""
    return {name: result.status.value for name, result in results.items() if result.status is not Status.OK}
