"""Coroutine tests without a plugin, and the three sizes of a hypothesis run."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import is_hypothesis_test, settings

from cfchat.server import reply

DEADLINE = 20.0

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs so, and each process of a test would inherit it; a handler is not inherited.
    signal.signal(signal.SIGINT, lambda *_: None)

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=150, deadline=None, derandomize=True)
settings.register_profile("fuzz", max_examples=5000, deadline=None)
# `pytest --hypothesis-profile fuzz` overrides this.
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is here by now stays: no collection of a test need look at it. Cuts come soon, except for real clients."""
    gc.collect()
    gc.freeze()
    if not any({"real", "clients"} & set(item.path.parts) for item in session.items):
        reply.BEFORE_CUT = 0.01


def run(test: Callable[..., Awaitable[None]], arguments: dict[str, Any]) -> None:
    """Run one coroutine test; what it forgot to await or close is a failure, under -W error.

    PYTHONASYNCIODEBUG=1 has asyncio look closer, at nearly twice the time: CI does, on one Python.
    """

    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await test(**arguments)

    asyncio.run(bounded())


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test = pyfuncitem.obj
    if is_hypothesis_test(test):
        _run_each_example(test)
        return None
    if not inspect.iscoroutinefunction(test):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    run(test, {name: pyfuncitem.funcargs[name] for name in names})
    return True


def _run_each_example(test: Any) -> None:
    """Give hypothesis a plain function: each example gets a loop of its own."""
    inner = test.hypothesis.inner_test
    if inspect.iscoroutinefunction(inner):
        test.hypothesis.inner_test = lambda **arguments: run(inner, arguments)
