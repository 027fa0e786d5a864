"""A chat's life, from the conversation to the last byte of its reply.

`Exchange.run` is one function: the hooks, a turn among the running replies, the upstream, the reply, and the usage.
What the reply may cost is reserved first, and what it has cost is settled however it ends. What waits for a turn and
for the first words is the encoded request, and nothing else of the conversation. Then each read of the upstream is
encoded and written to the client in one call (`take`), while this task sleeps in `answer.pour`. Streams begin before
all that (`writer`): if the first words are late, a heartbeat takes the head with it, and what fails from then on is an
error event. Until then a failure has its own status.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from cfchat.app.admission import Admission
from cfchat.app.hooks import Hooks, label_of, run_hook
from cfchat.app.hooks import Reply as Finished
from cfchat.app.usage import ReplyUsage
from cfchat.app.writer import Into
from cfchat.conversation.images import check_model
from cfchat.conversation.model import Conversation
from cfchat.conversation.prepare import estimate, with_system
from cfchat.errors import CfchatError, UpstreamError
from cfchat.guard.guard import Asker, Guard
from cfchat.ops.logs import read_trace
from cfchat.ops.metrics import Metrics
from cfchat.replies.form import Meta
from cfchat.server.request import Request
from cfchat.upstream.answer import Answer
from cfchat.upstream.client import Upstream
from cfchat.upstream.cloudflare.models import SEARCH, is_search

log = logging.getLogger("cfchat.app")


class Exchange:
    """Answers conversations, one call of `run` for each."""

    def __init__(
        self, upstream: Upstream, admission: Admission, guard: Guard, hooks: Hooks, metrics: Metrics,
        system_prompt: str, client_system: str, default_model: str, offered: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._upstream = upstream
        self._admission = admission
        self._guard = guard
        self._hooks = hooks
        self._metrics = metrics
        self._system = (system_prompt, client_system)
        self._default_model = default_model
        self._offered = offered
        self._settling: set[asyncio.Task[None]] = set()  # the `after_reply` hooks that run

    async def run(self, request: Request, asker: Asker, conversation: Conversation, into: Into) -> None:
        """Ask the model, and pass its answer on.

        Raises:
            BadOption: the model does not take the images.
            Overloaded: too many replies run already, or too many bytes wait, of this client or in all.
            BudgetSpent: the reply may cost more tokens than are left of the day's.
            UpstreamError: no words came in all tries, or the reply broke off.
        """
        conversation = with_system(conversation, *self._system)
        if self._hooks.before_call is not None:
            before_call = self._hooks.before_call
            conversation = await run_hook("before_call", request.id, before_call, conversation, request)
        model, images = conversation.options.model or self._default_model, conversation.images
        if images:
            request.notes["images"] = images
            check_model(model, self._upstream.sees, self._offered)
            # To parse, to encode and to send megabytes takes a while each: the others get a turn in between.
            await asyncio.sleep(0)
        prompt = estimate(conversation)
        max_tokens = conversation.options.max_tokens or self._upstream.settings.max_tokens
        searching = SEARCH in model  # as is_search says, but without a call
        if searching:  # the client's number is not sent, so the reply may be longer
            max_tokens = max(max_tokens, self._upstream.settings.max_tokens)
        usage = ReplyUsage(prompt, max_tokens)
        trace = ""
        if self._upstream.settings.gateway is not None:
            trace = str(read_trace(request.fields.get("traceparent")).get("trace", ""))
        asking = self._upstream.ask(
            conversation, client=asker.name, tag=request.id, spent=usage.add, thoughts=into.thoughts,
            label=asker.label, trace=trace,
        )  # fmt: skip
        del conversation
        request.keep(asking.size)
        if images:
            await asyncio.sleep(0)
        await self._admission.enter(asker.name)
        try:
            held = self._guard.reserve(asker, prompt, max_tokens, time.time())
            asked, paid = time.monotonic(), True
            try:
                async with asking as answer:
                    request.keep(0)
                    self._note_first_words(request, answer, usage, asked)
                    if into.collects:
                        answer.collect()
                    meta = Meta(request.id, int(time.time()), answer.model)
                    if searching:
                        meta = _tell_search(meta, answer, request)
                    model = answer.model
                    into.begin(meta, answer.left_out, answer)
                    into.end(await answer.pour(into.take))
                    usage.whole = True
            except UpstreamError as error:
                if usage.began is None:
                    self._note_failure(request, error)
                    model, paid = error.model or model, usage.tries > 0
                else:
                    self._metrics.upstream_errors.add(1, error.code)
                raise
            finally:
                # A client that leaves before the first words has asked, and that is paid for.
                self._settle(request, asker, model, usage, held, paid)
        finally:
            self._admission.leave(asker.name)

    def _note_first_words(self, request: Request, answer: Answer, usage: ReplyUsage, asked: float) -> None:
        usage.began = time.monotonic()
        self._metrics.first_token.observe(usage.began - asked)
        self._metrics.tries.add(answer.tries)
        request.notes |= {"tries": answer.tries, "model": answer.model}

    def _note_failure(self, request: Request, error: UpstreamError) -> None:
        request.notes |= {"tries": error.tries, "model": error.model, "code": error.code}
        self._metrics.tries.add(error.tries)

    # --- settling -----------------------------------------------------------------------------

    def _settle(
        self, request: Request, asker: Asker, model: str, usage: ReplyUsage, held: Sequence[int], paid: bool
    ) -> None:
        """Charge what a reply that is over has cost, however it ended, and tell it to counters, log and hook.

        If Cloudflare has refused all its tries it is not `paid`.
        """
        tokens, metrics = usage.tokens, self._metrics
        for name in self._guard.settle(asker, held, tokens.total if paid else 0, time.time()):
            log.warning("80 %% of today's tokens are used up: %s", " ".join(map(label_of, name.split(" "))))
        if not paid:
            return
        if usage.impossible:
            log.warning("%s usage of more tokens than were asked for: %d are counted", request.id, tokens.total)
        if usage.neurons is not None:
            request.notes["neurons"] = round(usage.neurons, 6)
            metrics.neurons.add(usage.neurons)
        metrics.tokens.add(tokens.prompt, "prompt")
        metrics.tokens.add(tokens.completion, "completion")
        if usage.began is not None:
            metrics.replies.add(1, "whole" if usage.whole else "broken")
            if usage.whole and tokens.completion > 1:
                metrics.per_token.observe((time.monotonic() - usage.began) / (tokens.completion - 1))
        if self._hooks.after_reply is not None:
            finished = Finished(
                request.id, asker.label, request.client, model,
                tokens.prompt, tokens.completion, usage.estimated, usage.whole,
            )  # fmt: skip
            # In a task of its own: a client that leaves with its reply must not end it.
            task = asyncio.get_running_loop().create_task(_after_reply(self._hooks.after_reply, finished))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def aclose(self) -> None:
        """Wait for the hooks that run after replies."""
        if self._settling:
            await asyncio.wait(self._settling)


def _tell_search(meta: Meta, answer: Answer, request: Request) -> Meta:
    """Return the meta of an answer that a search was asked for. Another model answers if the search has failed."""
    if is_search(answer.model):
        return meta._replace(sources=tuple(answer.sources))
    request.notes["search"] = "failed"
    return meta._replace(search_failed=True)


async def _after_reply(hook: Callable[[Finished], Awaitable[None]], finished: Finished) -> None:
    with suppress(CfchatError):  # it is logged
        await run_hook("after_reply", finished.request_id, hook, finished)
