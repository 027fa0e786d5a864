"""`llm`, the command line: what people type, in a folder of settings of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from house import house
from installs import venv
from leaving import closes_at_once
from standin import Model, Script, StandIn, json_error, words

from cfchat.app.routes import Settings
from cfchat.guard.guard import Guard
from cfchat.guard.guard import Settings as GuardSettings
from cfchat.guard.keys import parse_keys

GEMMA = "@cf/google/gemma-4-26b-a4b-it"
MODELS = {"cf": GEMMA, "none": "@cf/none/such"}
KEY = "the-key-of-the-tests"
# Where a client connects just as the house closes, asyncio (3.11) leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


class Llm:
    """The program in its environment, and a folder of settings that names one model of ours, and one that is none."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder

    def point_at(self, port: int) -> None:
        ours = {"api_base": f"http://127.0.0.1:{port}/v1", "api_key_name": "ours"}
        models = [{"model_id": name, "model_name": model, **ours} for name, model in MODELS.items()]
        # JSON is YAML.
        (self._folder / "extra-openai-models.yaml").write_text(json.dumps(models))
        self.use(KEY)

    def use(self, key: str) -> None:
        (self._folder / "keys.json").write_text(f'{{"ours": "{key}"}}')

    async def start(self, *arguments: str) -> Process:
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment["LLM_USER_PATH"] = str(self._folder)
        return await asyncio.create_subprocess_exec(
            self._program, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=PIPE, stderr=PIPE, env=environment
        )

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Its exit code, what it wrote, and what it complained of."""
        process = await self.start(*arguments)
        out, complaint = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), complaint.decode()


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Llm:
    programs = venv(tmp_path_factory.mktemp("llm"), "llm==0.36", "openai==3.57.0")
    return Llm(programs / "llm", tmp_path_factory.mktemp("user"))


@asynccontextmanager
async def asked(llm: Llm, *scripts: Script) -> AsyncIterator[StandIn]:
    guard = Guard(GuardSettings(keys=parse_keys(f"tests {KEY}\n")))
    async with StandIn(scripts) as standin, house(standin, app=Settings(models=(GEMMA,)), guard=guard) as cfchat:
        llm.point_at(cfchat.port)
        yield standin


async def read(process: Process, text: str) -> None:
    assert process.stdout
    assert (await process.stdout.readexactly(len(text.encode()))).decode() == text


async def test_each_piece_is_there_before_the_next_is_said(llm: Llm) -> None:
    model = Model()
    async with asked(llm, model):
        process = await llm.start("-m", "cf", "-u", "Hello")
        for piece in ("Good", " mor", "ning, 世界"):
            model.say(piece)
            await read(process, piece)
        model.end(usage={"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7})
        _, complaint = await process.communicate()
        assert process.returncode == 0
        assert "Token usage: 5 input, 2 output" in complaint.decode()


async def test_a_whole_reply_without_usage(llm: Llm) -> None:
    async with asked(llm, words("Good", " morning")):
        assert await llm.run("-m", "cf", "--no-stream", "Hello") == (0, "Good morning\n", "")


async def test_a_reply_that_breaks_off_looks_broken(llm: Llm) -> None:
    model = Model()
    async with asked(llm, model) as standin:
        process = await llm.start("-m", "cf", "Hello")
        model.say("Good")
        await read(process, "Good")
        model.break_off()
        _, complaint = await process.communicate()
        assert process.returncode == 1
        assert "Error: The connection to the model was lost." in complaint.decode()
        assert len(standin.requests) == 1


async def test_ctrl_c_closes_the_call_to_the_model(llm: Llm) -> None:
    async def leave() -> float:
        model = Model()
        async with asked(llm, model) as standin:
            process = await llm.start("-m", "cf", "Hello")
            model.say("Good")
            await read(process, "Good")
            left = time.time()
            process.send_signal(signal.SIGINT)
            await standin.wait_closed_by_peer()
            closed = time.time()
            await process.communicate()
            assert process.returncode != 0
        return closed - left

    await closes_at_once(leave)


ERRORS: dict[str, tuple[list[str], list[Script], str]] = {
    "400": (["-m", "cf", "-o", "max_tokens", "9999"], [], "400 - The most that this server allows for `max_tokens` is"),
    "404": (["-m", "none"], [], "404 - This model is not offered here."),
    "429": (["-m", "cf"], [json_error(429, 3036, "x")], "429 - The daily limit is used up."),
    "502": (["-m", "cf"], [json_error(401, 10000, "x")], "502 - The server is not set up correctly."),
    "503": (["-m", "cf"], [json_error(429, 3040, "x")] * 3, "503 - The assistant is busy, please try again."),
}


@pytest.mark.parametrize("status", ERRORS)
async def test_an_error_is_said(llm: Llm, status: str) -> None:
    arguments, scripts, message = ERRORS[status]
    async with asked(llm, *scripts) as standin:
        code, out, complaint = await llm.run(*arguments, "Hello")
        assert (code, out) == (1, "")
        assert complaint.startswith("Error: ") and message in complaint
        assert len(standin.requests) == len(scripts)


async def test_a_wrong_key_is_said(llm: Llm) -> None:
    async with asked(llm):
        llm.use("wrong")
        code, _, complaint = await llm.run("-m", "cf", "Hello")
        assert code == 1 and "401 - The API key is not valid." in complaint
