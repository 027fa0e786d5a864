"""Put one question to the model and print its answer as it comes (`cfchat ask`).

The answer goes to stdout, everything else to stderr, so that a script gets the model's words alone. A terminal gets no
control characters from a model; a file gets the words as they are. However it ends, the last line is ended.
"""

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

# Control characters could move the cursor or rename the window; line separators and directions could hide what is said.
_DIRECTIONS = (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), *_DIRECTIONS), "\N{REPLACEMENT CHARACTER}")
del _CONTROLS[ord("\n")], _CONTROLS[ord("\t")]


def read_question(words: Sequence[str]) -> str:
    """Return the words of the command line, or what standard input holds if there are none.

    Raises:
        ConfigError: the question is empty, or not UTF-8.
    """
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
    """Print the model's answer as it comes. Return the exit code."""
    conversation = with_system(Conversation((Message("user", question),)), config.app.system_prompt)
    async with api.open_upstream(config) as upstream:
        output = _Output()
        try:
            async with upstream.ask(conversation, tag="ask") as answer, aclosing(answer.batches()) as batches:
                async for batch in batches:
                    output.write(batch)
        except UpstreamError as error:
            output.end_line()
            say_error(error, upstream.settings)
            return FAILED
        except asyncio.CancelledError:
            output.end_line()
            raise
        output.end_line()
        for number, source in enumerate(answer.sources, 1):
            say(f"source {number}: {source.title}{f', {source.url}' if source.url else ''}")
        if output.finish_reason == "length":
            say(f"the answer was cut at its limit of {upstream.settings.max_tokens} tokens; --max-tokens sets another")
        return OK


class _Output:
    """Standard output, which remembers whether a line is unfinished."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self._unfinished = False
        self._terminal = sys.stdout.isatty()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A terminal without UTF-8 shows `?` for a character that it lacks.
            sys.stdout.reconfigure(errors="replace")

    def write(self, batch: Sequence[Delta]) -> None:
        text = "".join(delta.text for delta in batch)
        self.finish_reason = batch[-1].finish_reason or self.finish_reason
        if text:
            self._unfinished = not text.endswith("\n")
            print(text.translate(_CONTROLS) if self._terminal else text, end="", flush=True)

    def end_line(self) -> None:
        if self._unfinished:
            self._unfinished = False
            print(flush=True)
