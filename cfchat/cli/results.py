"""The steps of a check: how each went, and how they are printed, as lines or as one JSON object."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from enum import StrEnum
from typing import NamedTuple

from cfchat.cli.terminal import FAILED, OK, show


class Status(StrEnum):
    """How a step went."""

    OK = "ok"
    WARN = "warn"  # works, but needs attention
    FAIL = "fail"
    SKIP = "skip"


class Result(NamedTuple):
    """One step of the check: what it found, what to do `next`, how long it took, and for which model if for one."""

    name: str
    status: Status
    detail: str
    next: str = ""
    ms: float = 0.0
    model: str = ""

    @property
    def ok(self) -> bool:
        """Whether the step works."""
        return self.status in (Status.OK, Status.WARN)


def skipped(name: str, broken: str, model: str = "") -> Result:
    """Return the result of a step that could only fail because the step `broken` has failed."""
    return Result(name, Status.SKIP, f"not tried: the step `{broken}` must work first", model=model)


def ms_since(began: float) -> float:
    """Return the milliseconds since a time of `time.perf_counter`."""
    return round((time.perf_counter() - began) * 1000, 1)


async def print_results(check: AsyncGenerator[Result, None], as_json: bool) -> int:
    """Print each result as it comes, or all as JSON at the end. Return the exit code."""
    results = []
    async with aclosing(check) as steps:
        async for result in steps:
            results.append(result)
            if not as_json:
                _print_line(result)
    if as_json:
        print_json(results)
    return FAILED if any(result.status == "fail" for result in results) else OK


def _print_line(result: Result) -> None:
    status = "FAIL" if result.status == "fail" else result.status.value
    about = f"{result.model}: " if result.model else ""
    show(f"{status:<4}  {result.name:<9} {result.ms:>7.0f} ms  {about}{result.detail}")
    if result.next:
        show(f"      next: {result.next}")


def print_json(results: Sequence[Result]) -> None:
    """Print all results as one JSON object."""
    ok = not any(result.status == "fail" for result in results)
    print(json.dumps({"ok": ok, "checks": [{**result._asdict(), "ok": result.ok} for result in results]}, indent=2))
