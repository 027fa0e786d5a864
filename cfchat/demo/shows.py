"""Show on request what a model does seldom: `think`, `long`, `code` and `break`, said to the demo. Pure.

ELIZA neither thinks nor writes Markdown, and her answers are short. Nothing is kept of a conversation: where a long
reply goes on is read off the reply that the client sends back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

CUT_AFTER = 60  # tokens of a long reply


class Show(NamedTuple):
    """A reply. With `cut_after` it ends after so many tokens, as if the model had reached its longest reply.

    With `breaks` the connection breaks at its end.
    """

    text: str
    cut_after: int | None = None
    breaks: bool = False


THINK = """<think>
The user wants to see me think. I am a program of 1966 and match patterns, so this is only a show of it.
Many models write their reasoning before the answer, between these tags or in a field of its own.
</think>

I have thought about it. Start the server with `--thoughts send`, and clients that can show reasoning get mine, too.
"""

LONG = """This reply is too long for one piece. It is cut, as a model's reply is that needs more tokens than it may use.

1. The last event says so: its finish reason is `length`.
2. The page says it below the reply, and offers to continue.
3. What comes then is added to the same reply, even in the middle of a sentence or of a list.
4. For a client with an own page, it is one more message: the reply so far, and the wish that the model goes on.

Now the reply has come to its end, and nothing is missing. A real model would need a larger `--max-tokens` for it.
"""

CODE = """# Markdown
The page draws **bold**, *emphasis*, `code` and [links](https://commonmark.org).

> A quote, and an address: https://example.com/a_(b).

1. A list
   - in a list
2. and 2 * 3 * 4 = 24

| language | greets |
|---|---|
| English | Hello |
| 日本語 | こんにちは |

```python
def greet(name: str) -> str:
    # Asterisks and <tags> in code stay as they are.
    return f"**Hello**, {name}!" if name else "Hello!"
```

---
That was all.
"""

BREAK = "These words come whole, and then the connection to the model breaks in the middle of a"

SHOWS: Mapping[str, Show] = {
    "think": Show(THINK),
    "long": Show(LONG, cut_after=CUT_AFTER),
    "code": Show(CODE),
    "break": Show(BREAK, breaks=True),
}


def find_show(messages: Sequence[Mapping[str, str]]) -> Show | None:
    """Return what the last message asks to be shown, or the rest of a long reply that was cut; None if neither."""
    if not messages:
        return None
    word = messages[-1]["content"].strip().lower()
    if word in SHOWS:
        return SHOWS[word]
    before = messages[-2] if len(messages) > 1 else {"role": "", "content": ""}
    begun = before["content"]
    if before["role"] == "assistant" and 0 < len(begun) < len(LONG) and LONG.startswith(begun):
        return Show(LONG[len(begun) :], cut_after=CUT_AFTER)
    return None
