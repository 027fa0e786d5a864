"""The way to Cloudflare: `async with upstream.ask(conversation) as answer`.

A request is tried until its first words have come: again, or with another model, as `retry` decides and `circuits`
advise. Connections are lent by the pool.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from cfchat.conversation.model import NO_OPTIONS, Conversation, Options
from cfchat.conversation.prepare import in_turns, trim, with_defaults
from cfchat.errors import (
    ContentBlocked,
    NoFreeFile,
    UpstreamConnectError,
    UpstreamError,
    UpstreamModelGone,
    UpstreamOverloaded,
    UpstreamRefused,
    UpstreamTimeout,
)
from cfchat.net.dial import Resolver
from cfchat.secret import Secret
from cfchat.upstream import circuits, pool, retry
from cfchat.upstream.answer import Answer, Deadlines, whole_body
from cfchat.upstream.cloudflare import faults
from cfchat.upstream.cloudflare.account import Api, Gateway
from cfchat.upstream.cloudflare.catalogue import Model, read_models
from cfchat.upstream.cloudflare.models import (
    DEFAULT_MODEL,
    MODEL_FIELDS,
    SEARCH,
    is_route,
    is_search,
    may_be_listed,
    needs_turns,
    sees,
    takes,
    window_of,
)
from cfchat.upstream.cloudflare.request import Question, encode_messages, encode_question, encode_request, encode_search
from cfchat.upstream.cloudflare.skim import Learned
from cfchat.upstream.cloudflare.sources import Sources
from cfchat.upstream.cloudflare.usage import Cost
from cfchat.upstream.connect import connect
from cfchat.upstream.connection import LIST_OF_MODELS, Connection, UpstreamStale
from cfchat.upstream.origin import Origin
from cfchat.upstream.proxy import Proxy
from cfchat.upstream.upkeep import Upkeep

log = logging.getLogger("cfchat.upstream")

# All other errors of a search leave the question to a model, if the operator names one: it may answer without sources.
_NOT_OF_SEARCH = (UpstreamConnectError, NoFreeFile, ContentBlocked)
# Unreachable: three connection attempts failed in a row, the last within 60 s.
FAILURES, OF_LATE = 3, 60.0


class Settings(NamedTuple):
    """All that the way to Cloudflare needs.

    `models` are the default and then those to fall back on, `fields` the extra body fields of each. `max_tokens` bounds
    one reply where `defaults` and the conversation name no other number. `tls_verify` is how strictly certificates are
    looked at (see `make_ssl_context`). With `trim` the oldest turns are left out where a conversation does not fit the
    model's window, or `window` (tokens) where it is given.

    The first of `models` may be an instance of AI Search. `source_base_url` makes links of the keys of its pages, if
    they are paths; it is empty or ends with a slash.
    """

    origin: Origin
    account: str
    token: Secret
    models: tuple[str, ...] = (DEFAULT_MODEL,)
    max_tokens: int = 2048
    deadlines: Deadlines = Deadlines()
    policy: retry.Policy = retry.Policy()
    pool: pool.Settings = pool.Settings()
    circuits: circuits.Settings = circuits.Settings()
    defaults: Options = Options()
    fields: Mapping[str, Mapping[str, object]] = MODEL_FIELDS
    gateway: Gateway | None = None
    proxy: Proxy | None = None
    tls_verify: str | None = None
    warm: int = 1
    trim: bool = False
    window: int | None = None
    source_base_url: str = ""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no line may show: token, account, and the credentials of gateway and proxy, these as they are sent."""
        gateway, proxy = self.gateway, self.proxy
        more = (gateway and gateway.token, proxy and proxy.credentials)
        return (self.token.reveal(), self.account, *(secret.reveal() for secret in more if secret))


class Upstream:
    """The way to Cloudflare: a pool of TLS connections and a policy for trying again."""

    def __init__(
        self,
        settings: Settings,
        context: ssl.SSLContext | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        failed: Callable[[UpstreamError], None] = lambda error: None,
    ) -> None:
        self.settings = self._settings = settings
        self._defaults = settings.defaults != NO_OPTIONS
        self._fits = settings.trim or any(map(needs_turns, settings.models))
        self._clock = clock
        self._chance = chance
        self._api = Api(settings.origin, settings.account, settings.token, settings.gateway)
        self._circuits = circuits.Circuits(settings.circuits)
        self._learned: defaultdict[str, Learned] = defaultdict(Learned)  # by model, of which few are offered
        self._context = context
        self._failed = failed  # gets the error of every try
        self._failures, self._lost = 0, 0.0
        self._resolver = Resolver()
        self.pool = self._pool = pool.Pool(self._connect, settings.pool, clock)
        listed = () if self._api.on_gateway else tuple(filter(may_be_listed, settings.models))
        pause = settings.pool.idle_timeout / 4
        self._upkeep = Upkeep(self.pool, settings.warm, pause, self._circuits, listed, self.catalogue)

    @property
    def reachable(self) -> bool:
        """False while no connection can be made."""
        return self._failures < FAILURES or self._clock() - self._lost > OF_LATE

    def sees(self, model: str) -> bool:
        """Return whether the model takes images, as far as is known."""
        return sees(model) or model in self._upkeep.seeing

    async def _connect(self) -> Connection:
        settings = self._settings
        try:
            made = await connect(
                settings.origin, self._context, settings.deadlines.connect, settings.proxy, self._resolver
            )
        except UpstreamError:
            self._failures, self._lost = self._failures + 1, self._clock()
            raise
        self._failures = 0
        return made

    async def start(self) -> None:
        """Begin the upkeep: connections kept warm, and a look at the list of models now and once a day."""
        self._upkeep.start()

    async def aclose(self) -> None:
        """End the upkeep and close what lies idle. Replies under way keep their connections and close them after."""
        await self._upkeep.aclose()
        self.close()

    def close(self) -> None:
        """Close what lies idle, where no upkeep was begun."""
        self._pool.close()

    def ask(
        self,
        conversation: Conversation,
        *,
        client: str = "",
        tag: str = "-",
        spent: Callable[[Cost], None] = lambda cost: None,
        thoughts: bool = False,
        label: str = "",
        trace: str = "",
    ) -> Asking:
        """Return what asks the model for as long as it is entered: `async with upstream.ask(...) as answer`.

        The conversation is encoded now, and only its bytes are kept. Entering waits until the model has said its first
        words; leaving ends the reply. `client` is the name that the client is counted by, `tag` begins the log lines,
        and `spent` is called with the cost of each try that Cloudflare did not refuse, when the try is over. With
        `thoughts` the first words may be reasoning. The request tells AI Gateway the `label` of the client's key,
        and the id of its `trace`.

        Raises:
            UpstreamError: on entering, its `tries` set: no words came in all tries.
        """
        if self._defaults:
            conversation = with_defaults(conversation, self._settings.defaults)
        question = encode_question(conversation)
        named = conversation.options.model
        fitted = self._fit(conversation, question) if self._fits or (named and needs_turns(named)) else {}
        affinity = self._api.affinity(conversation, client)
        return Asking(self, question, fitted, affinity, client, tag, spent, thoughts, label, trace)

    def end(self, answer: Answer, spent: Callable[[Cost], None]) -> None:
        """Tell the cost. Close the answer's connection, or keep it if the answer was read to its end."""
        answer.log_passed_over()
        if (cost := answer.cost) is not None:
            spent(cost)
        answer.connection.rest()
        self._pool.give_back(answer.connection)

    async def catalogue(self) -> list[Model]:
        """The text models that the account's list names; free of charge. Raises an UpstreamError."""
        if self._api.on_gateway:
            raise UpstreamRefused("The list of models cannot be had.", detail="AI Gateway's own URL has none")
        lent, _ = await self._pool.borrow(fresh=True)
        try:
            lent.deadline.move(self._settings.deadlines.between_deltas, LIST_OF_MODELS)
            lent.send(self._api.catalogue())
            head = await lent.head()
            body = await whole_body(lent)
        finally:
            lent.rest()
            self._pool.give_back(lent)
        if head.status != 200:
            raise faults.read_error(head.status, head.fields, body, now=time.time())
        return read_models(body)

    # --- tries ---------------------------------------------------------------------------------------

    async def begin(self, asking: Asking) -> Answer:
        """Try until the first words have come; see `ask`. The answer must be ended, once."""
        policy, began, attempt = self._settings.policy, self._clock(), 0
        asked: list[str] = []
        model, *others = self._order(asking, began)
        while True:
            attempt += 1
            asked.append(model)
            # Waiting in Cloudflare's queue pays only if there is no other model left to ask.
            hurry = attempt < policy.attempts and bool(others)
            try:
                answer = await self._try(asking, model, hurry)
            except UpstreamError as error:
                error.tries, error.model = attempt, model
                if is_search(model) and not isinstance(error, _NOT_OF_SEARCH):
                    error.elsewhere = True
                others = self._others(asking, asked, error)
                following = retry.next_try(
                    policy, error, attempt, self._clock() - began, self._chance, model, others
                )
                self._log_failure(error, following, asking.tag)
                if following is None:
                    if isinstance(error, (NoFreeFile, UpstreamOverloaded)) and error.retry_after is None:
                        error.retry_after = policy.cap  # nobody names a time, and clients want one
                    raise
                model = following.model
            else:
                self._failures = 0
                self._circuits.succeeded(model)
                answer.tries = attempt
                return answer
            await asyncio.sleep(following.wait)
            others = self._rest(asking, [*asked, model])

    def _log_failure(self, error: UpstreamError, following: retry.Next | None, tag: str) -> None:
        attempts = self._settings.policy.attempts
        # As text: a handler that keeps its records would keep the error, its frames and their connection.
        what = (tag, error.tries, attempts, error.model, str(error))
        if following is None:
            log.warning("%s try %d/%d of %s failed: %s; giving up", *what)
        else:
            log.warning(
                "%s try %d/%d of %s failed: %s; retrying %d/%d with %s in %.2f s",
                *(*what, error.tries + 1, attempts, following.model, following.wait),
            )

    def _others(self, asking: Asking, asked: list[str], error: UpstreamError) -> list[str]:
        """Note that the model asked last has failed, and return the others that may answer."""
        self._note_failure(asked[-1], error, asking)
        if isinstance(error, UpstreamTimeout) and error.origin_status is None:
            # The address may have died, and what lies idle may lead to the same one.
            self._pool.clear()
        return self._rest(asking, asked)

    def _candidates(self, question: Question) -> Iterable[str]:
        """Return the models that may be asked: the one that the client names, then the default and its fallbacks.

        A conversation with images falls back only on models that take them.
        """
        named = question.options.model
        first, *others = dict.fromkeys((named, *self._settings.models) if named else self._settings.models)
        return (first, *(filter(self.sees, others) if question.images else others))

    def _order(self, asking: Asking, now: float) -> list[str]:
        """Return the models to ask, best first."""
        first, *fallbacks = self._candidates(asking.question)
        # A reply without the tools that were asked for is no help. The first one was asked for by name, or by default.
        for name in asking.question.passed:
            fallbacks = [model for model in fallbacks if takes(model, name)]
        return self._circuits.order((first, *fallbacks), asking.client, now)

    def _rest(self, asking: Asking, asked: list[str]) -> list[str]:
        """Return the models but for the one asked last: first those that were not asked yet."""
        others = [model for model in self._order(asking, self._clock()) if model != asked[-1]]
        return sorted(others, key=lambda model: model in asked)

    def _note_failure(self, model: str, error: UpstreamError, asking: Asking) -> None:
        self._failed(error)
        now, settings = self._clock(), self._settings.circuits
        if isinstance(error, UpstreamModelGone):
            if self._circuits.gone(model, now) and len(self._settings.models) > 1:
                what = (asking.tag, model, error.origin_code, settings.gone)
                log.warning("%s model %s is gone (code %s): left out for %g s", *what)
        elif error.elsewhere and self._circuits.failed(model, asking.client, now):
            what = (asking.tag, model, settings.failures, settings.rest)
            log.warning("%s model %s failed for %d clients in a row: not asked first for %g s", *what)

    async def _try(self, asking: Asking, model: str, hurry: bool) -> Answer:
        self._circuits.asked(model, asking.client, self._clock())
        settings, question = self._settings, asking.question
        searching = SEARCH in model  # as is_search says, but without a call
        # The client's number is not sent to a search (encode_search), so it says nothing of the reply.
        max_tokens = (not searching and question.options.max_tokens) or settings.max_tokens
        messages, left_out = asking.fitted.get(model, (None, 0))
        extra = settings.fields.get(model, {})
        route = settings.gateway is not None and is_route(model)

        def encode() -> bytes:
            """Return the request. It is made for each sending, because nothing but the question may be kept."""
            if searching:
                body = encode_search(question, extra, messages=messages)
            else:
                body = encode_request(
                    question, model, max_tokens, messages=messages, extra=extra, reject_if_busy=hurry, route=route
                )
            return self._api.run(model, body, asking.affinity, asking.tag, asking.label, asking.trace)

        tools = "tools" in question.passed
        json_mode = "response_format" in question.passed or "response_format" in extra
        learned = self._learned[model]
        lent, pooled = await self._pool.borrow()
        while True:
            sources = Sources(settings.source_base_url) if searching else None
            answer = Answer(
                lent, model, max_tokens, settings.deadlines, asking.tag,
                tools, json_mode, learned, asking.thoughts, sources,
            )  # fmt: skip
            answer.left_out = left_out
            try:
                answer.send(encode())
                await answer.begin()
                if route:
                    answer.note_route()
                return answer
            except BaseException as error:
                self.end(answer, asking.spent)
                if not pooled or not isinstance(error, UpstreamStale):
                    raise
            log.debug("%s pooled connection had died: replaced", asking.tag)
            lent, pooled = await self._pool.borrow(fresh=True)

    def _fit(self, conversation: Conversation, question: Question) -> dict[str, tuple[bytes, int]]:
        """Return for each model that cannot take the messages as they are those it takes, and how many were left out.

        Its window may be too small, or its template needs turns.
        """
        made: dict[tuple[int, bool], bytes] = {}
        fitted: dict[str, tuple[bytes, int]] = {}
        max_tokens = conversation.options.max_tokens or self._settings.max_tokens
        for model in self._candidates(question):
            window = (self._settings.window or window_of(model)) if self._settings.trim else None
            rest, left_out = (conversation, 0) if window is None else trim(conversation, window - max_tokens)
            turns = needs_turns(model)
            if left_out or turns:
                if (left_out, turns) not in made:
                    made[left_out, turns] = encode_messages((in_turns(rest) if turns else rest).messages)
                fitted[model] = made[left_out, turns], left_out
        return fitted


class Asking:
    """A question under way; see `Upstream.ask`. Once the first words have come, nothing is kept of it."""

    __slots__ = (
        *("_answer", "_upstream", "affinity", "client", "fitted", "label", "question", "spent", "tag", "thoughts"),
        "trace",
    )

    def __init__(
        self, upstream: Upstream, question: Question, fitted: Mapping[str, tuple[bytes, int]], affinity: str,
        client: str, tag: str, spent: Callable[[Cost], None], thoughts: bool, label: str, trace: str,
    ) -> None:  # fmt: skip
        self.question = question
        self.fitted = fitted
        self.affinity = affinity
        self.client = client
        self.tag = tag
        self.spent = spent
        self.thoughts = thoughts
        self.label = label
        self.trace = trace
        self._upstream = upstream

    @property
    def size(self) -> int:
        """Return how many bytes wait for the first words."""
        if not self.fitted:
            return self.question.size
        others = {id(messages): len(messages) for messages, _ in self.fitted.values()}
        return self.question.size + sum(others.values())

    async def __aenter__(self) -> Answer:
        self._answer = await self._upstream.begin(self)
        del self.question, self.fitted
        return self._answer

    async def __aexit__(self, *_: object) -> None:
        self._upstream.end(self._answer, self.spent)
