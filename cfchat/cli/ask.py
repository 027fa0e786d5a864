"""The command line: serve, check, ask, models, deploy."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Sequence
from contextlib import aclosing

from cfchat import api
from cfchat.cli.terminal import FAILED, OK, say, say_error
from cfchat.conversation.model import Conversation, Delta, Message
from cfchat.conversation.prepare import with_system
from cfchat.errors import ConfigError, UpstreamError
from cfchat.settings.config import Config

# What could move the cursor or rename the window: no model gets that through to a terminal.
_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def question_of(words: Sequence[str]) -> str:
    """The words of the command line, or what standard input holds. Raises ConfigError where that is nothing."""
    if words and list(words) != ["-"]:
        question = " ".join(words)
    else:
        if sys.stdin.isatty():
            print("What is your question? Ctrl-D at the start of a line ends it.", file=sys.stderr)
        try:
            question = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError:
            raise ConfigError("standard input is not UTF-8") from None
    if not question.strip():
        raise ConfigError('there is no question; try: cfchat ask "Why is the sky blue?"')
    return question


async def ask(config: Config, question: str) -> int:
    """Print the model's answer as it comes."""
    asked = Conversation((Message("user", question),))
    conversation = with_system(asked, config.app.system_prompt)
    async with api.open_upstream(config) as upstream:
        paper = _Paper()
        try:
            async with upstream.ask(conversation, tag="ask") as answer, aclosing(answer.batches()) as batches:
                async for batch in batches:
                    paper.write(batch)
        except UpstreamError as error:
            paper.end_line()
            say_error(error, upstream.settings)
            return FAILED
        except asyncio.CancelledError:
            paper.end_line()
            raise
        paper.end_line()
        if paper.finish_reason == "length":
            say(f"the answer was cut at its limit of {upstream.settings.max_tokens} tokens; --max-tokens sets another")
        return OK


class _Paper:
    """Standard output, and whether it stands at the start of a line."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self._inside = False
        self._terminal = sys.stdout.isatty()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A terminal that does not speak UTF-8 shows `?` for what it lacks.
            sys.stdout.reconfigure(errors="replace")

    def write(self, batch: Sequence[Delta]) -> None:
        text = "".join(delta.text for delta in batch)
        self.finish_reason = batch[-1].finish_reason or self.finish_reason
        if text:
            self._inside = not text.endswith("\n")
            print(text.translate(_CONTROLS) if self._terminal else text, end="", flush=True)

    def end_line(self) -> None:
        if self._inside:
            self._inside = False
            print(flush=True)
