"""One kept reply and its readers, by schedules of words, cuts, joins, pauses and stops, against a plain list."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from client import until
from hypothesis import given
from hypothesis import strategies as st

from cfchat.app.kept.journal import BASE
from cfchat.app.kept.replies import WINDOW, Keeping, KeptReplies, KeptReply, Name
from cfchat.app.writer import Writer
from cfchat.conversation.model import Delta
from cfchat.errors import CfchatError, Overloaded, Stopped, UpstreamEndless, UpstreamInterrupted
from cfchat.net.deadline import Deadline
from cfchat.replies.events import NumberedEvents
from cfchat.replies.form import Meta
from cfchat.replies.text import Text
from cfchat.replies.whole import Whole
from cfchat.server.record import Record
from cfchat.server.reply import Head, Reply
from cfchat.server.request import Request, new_id
from cfchat.wire.fields import Fields
from cfchat.wire.messages import RequestHead
from cfchat.wire.sse import SSEParser

META = Meta("0a1b", 1764000000, "@cf/x/y")
NAME = Name("ann", "chat", "c" * 16)
OTHER = Name("bob", "chat", "d" * 16)
END = Delta("", "stop")
LONG = "x" * 1000


class Answer:
    """An answer that says what a test tells it, into a kept reply; and what can be paused."""

    def __init__(self, replies: KeptReplies, names: list[Name], owner: str = "ann") -> None:
        kept = replies.add(owner, Text(), names)
        assert kept is not None
        self.kept: KeptReply = kept
        self.paused = False
        self.closed = False
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        request = Request(RequestHead("POST", "/api/chat", 1, Fields([])), "::1", new_id(), no_body)
        kept.start(request, self._run())

    async def _run(self) -> None:
        try:
            await self._end
        finally:
            self.closed = True

    def say(self, *texts: str) -> None:
        if self.kept.meta is None:
            self.kept.begin(META, 0, self)
        for text in texts:
            self.kept.take([Delta(text)])

    def end(self, error: Exception | None = None) -> None:
        if self._end.done():
            return
        if error is None:
            self.kept.end([END])
            if not self._end.done():
                self._end.set_result(None)
        else:
            self._end.set_exception(error)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


async def no_body(take: object) -> None:
    raise AssertionError


@dataclass
class Client:
    """An Out that keeps the body, and a client that may take less than is written, leave, or come back."""

    kept: KeptReply
    number: int = 0
    body: bytes = b""
    whole: bool = False
    fault: CfchatError | None = None
    beats: Deadline = field(default_factory=lambda: Deadline(lambda: None))

    def __post_init__(self) -> None:
        record = Record(new_id(), "::1", "GET", "/", {})
        self.reply = Reply(self, record, 60)
        form = NumberedEvents(False, "name", self.number)
        self.task = asyncio.create_task(self.kept.follow(Writer(self.reply, form, []), self.number))

    def put(self, head: Head | None, piece: bytes, last: bool) -> None:
        self.body += piece
        self.whole = last

    def cut(self) -> None:
        raise AssertionError

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        self.beats.cancel()

    async def over(self) -> None:
        try:
            await self.task
        except CfchatError as error:
            self.fault = error
        finally:
            self.beats.cancel()

    @property
    def events(self) -> list[tuple[int, str]]:
        """The number and the text of each event with words."""
        events = SSEParser().feed(self.body)
        shown = [(event.id, json.loads(event.data)) for event in events if event.data[:1] == "{"]
        return [(int(id.partition(".")[2]), data["text"]) for id, data in shown if data.get("text")]

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.events)


@asynccontextmanager
async def replies(keeping: Keeping = Keeping(60)) -> AsyncIterator[KeptReplies]:
    """All are forgotten at the end, and nothing is counted any more."""
    all_replies = KeptReplies(keeping)
    yield all_replies
    await all_replies.aclose()
    await until(lambda: all_replies.counts == (0, 0, 0))


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.text("ab\n😀", min_size=1, max_size=4) | st.just(LONG)),
        st.tuples(st.sampled_from(["cut", "join", "go on", "pause", "resume"]), st.integers(0, 7)),
        st.tuples(st.just("turns"), st.integers(1, 4)),
    ),
    max_size=30,
)


@given(STEPS, st.sampled_from(["end", "stop", "break"]), st.sampled_from([10**6, 3000]))
async def test_every_reader_gets_every_word_once(steps: list[tuple[str, object]], end: str, each: int) -> None:
    """Also if the journal is soon too long to be joined: then it has what its readers need, and no more."""
    async with replies(Keeping(60, each=each)) as kept:
        answer, said = Answer(kept, [NAME]), list[str]()
        clients = [Client(answer.kept)]
        await turns()
        for step, value in steps:
            which = clients[value % len(clients)] if isinstance(value, int) and clients else None
            if step == "say" and not answer.closed:
                assert isinstance(value, str)
                answer.say(value)
                said.append(value)
            elif step == "turns":
                assert isinstance(value, int)
                await turns(value)
            elif step == "join" and kept.find(NAME) is answer.kept and not answer.kept.crowded:
                clients.append(Client(answer.kept))
                await asyncio.sleep(0)
            elif which is not None and step in ("cut", "go on"):
                clients.remove(which)
                await which.leave()
                assert which.text == "".join(said[which.number :])[: len(which.text)]
                if step == "go on" and kept.find(NAME) is answer.kept:
                    seen = max([number for number, _ in which.events], default=which.number)
                    clients.append(Client(answer.kept, seen))
                    await asyncio.sleep(0)
            elif which is not None and step in ("pause", "resume"):
                which.reply.press(step == "pause")
            if not answer.kept.open:
                assert clients or answer.kept.task is None or answer.kept.task.cancelling()
        ended_early = answer.closed
        if end == "stop":
            await answer.kept.stop()
        else:
            answer.end(UpstreamInterrupted() if end == "break" else None)
        for client in clients:
            client.reply.press(False)
            await client.over()
            assert client.text == "".join(said[client.number :])
            assert [number for number, _ in client.events] == list(range(client.number + 1, len(said) + 1))
            if end == "end":
                assert client.whole and client.body.endswith(b"data: [DONE]\n\n")
            elif end == "stop" and not ended_early:
                assert client.whole and b'"code":"stopped"' in client.body
            else:
                assert isinstance(client.fault, UpstreamInterrupted)
        await until(lambda: answer.closed)


async def test_a_slow_reader_does_not_slow_down_the_others() -> None:
    async with replies() as kept:
        answer = Answer(kept, [NAME])
        quick, slow = Client(answer.kept), Client(answer.kept)
        answer.say("a")
        await turns()
        slow.reply.press(True)
        answer.say(*[LONG] * 200)
        answer.end()
        await quick.over()
        assert len(quick.text) == 200_001 and slow.text == "a" and not answer.paused
        slow.reply.press(False)
        await slow.over()
        assert slow.text == quick.text


async def test_beyond_its_size_the_slowest_reader_sets_the_pace() -> None:
    async with replies(Keeping(60, each=2000)) as kept:
        answer = Answer(kept, [NAME])
        quick, slow = Client(answer.kept), Client(answer.kept)
        await turns()
        answer.say("a", LONG)
        assert kept.find(NAME) is answer.kept
        answer.say(LONG)
        assert kept.find(NAME) is None
        await turns()
        slow.reply.press(True)
        said = 2
        while not answer.paused:
            answer.say(LONG)
            said += 1
            await turns()
        assert kept.size < BASE + WINDOW + 2 * len(LONG) and len(quick.text) == 1 + said * len(LONG)
        slow.reply.press(False)
        await until(lambda: not answer.paused)
        answer.end()
        await quick.over()
        await slow.over()
        assert slow.text == quick.text
    assert kept.size == 0


async def test_what_nobody_can_read_any_more_is_ended() -> None:
    async with replies(Keeping(60, each=2000)) as kept:
        answer = Answer(kept, [NAME])
        client = Client(answer.kept)
        answer.say("a")
        await client.leave()
        answer.say(LONG)
        assert not answer.kept.task.cancelling()  # type: ignore[union-attr]
        answer.say(LONG)
        await until(lambda: answer.closed)


async def test_a_reply_waits_for_a_reader_and_then_ends() -> None:
    async with replies(Keeping(0.02)) as kept:
        answer = Answer(kept, [NAME])
        for _ in range(3):
            client = Client(answer.kept)
            answer.say("a")
            await turns()
            await client.leave()
            assert kept.find(NAME) is answer.kept
        await until(lambda: answer.closed)
        assert kept.find(NAME) is None


async def test_a_reader_that_comes_back_ends_the_wait() -> None:
    async with replies(Keeping(0.02)) as kept:
        answer, other = Answer(kept, [NAME]), Answer(kept, [OTHER])
        clients = Client(answer.kept), Client(other.kept)
        await turns()
        await clients[0].leave()
        again = Client(answer.kept)
        await turns()
        await clients[1].leave()  # whose wait began later
        await until(lambda: other.closed)
        assert not answer.closed
        answer.say("a")
        answer.end()
        await again.over()
        assert again.text == "a"


async def test_a_source_is_left_alone_once_it_has_said_all() -> None:
    """It may serve another reply by then."""
    async with replies(Keeping(60, each=2000)) as kept:
        answer = Answer(kept, [NAME])
        client = Client(answer.kept)
        await turns()
        answer.say(LONG, LONG, LONG)
        await turns()
        client.reply.press(True)
        answer.kept.end([Delta(LONG * 100)])
        assert not answer.paused
        client.reply.press(False)
        answer.end()
        await client.over()
        assert client.text == LONG * 103


async def test_a_reply_stays_for_a_while_after_its_end() -> None:
    async with replies(Keeping(0.02)) as kept:
        answer = Answer(kept, [NAME])
        client = Client(answer.kept)
        answer.say("a")
        answer.end()
        await client.over()
        again = Client(answer.kept)
        await again.over()
        assert again.body == client.body and kept.counts[:2] == (0, 1)
        await until(lambda: kept.counts == (0, 0, 0))
        assert kept.find(NAME) is None


async def test_one_that_nobody_can_name_ends_with_its_client() -> None:
    async with replies() as kept:
        answer = Answer(kept, [])
        client = Client(answer.kept)
        await turns()
        await client.leave()
        await until(lambda: answer.closed)


@pytest.mark.parametrize("error", [UpstreamInterrupted(), Overloaded()])
async def test_a_reply_without_a_word_is_forgotten(error: CfchatError) -> None:
    async with replies() as kept:
        answer = Answer(kept, [NAME])
        client = Client(answer.kept)
        answer.end(error)
        await client.over()
        assert type(client.fault) is type(error) and kept.find(NAME) is None


async def test_a_newer_reply_takes_a_name_over() -> None:
    async with replies() as kept:
        older = Answer(kept, [NAME])
        older.say("a")
        older.end()
        await until(lambda: older.kept.over)
        newer = Answer(kept, [NAME])
        assert kept.find(NAME) is newer.kept and kept.counts[:2] == (1, 0)


async def test_all_together_have_a_size() -> None:
    """The oldest that are over go first, then a running one cannot be joined any more, and then none begins."""
    names = [Name("", "chat", str(number) * 16) for number in range(4)]
    async with replies(Keeping(60, most=3 * BASE + 4 * len(LONG))) as kept:
        for name in names[:2]:
            answer = Answer(kept, [name])
            answer.say(LONG)
            answer.end()
            await until(lambda answer=answer: answer.kept.over)  # type: ignore[misc]
        running = Answer(kept, [names[2]])
        client = Client(running.kept)
        running.say(LONG, LONG)
        assert [kept.find(name) is not None for name in names] == [False, True, True, False]
        running.say(*[LONG] * 5)
        assert [kept.find(name) is not None for name in names] == [False, False, True, False]
        running.say(*[LONG] * 9)
        assert kept.find(names[2]) is None
        assert kept.add("ann", Text(), [names[3]]) is None
        running.end()
        await client.over()
        assert client.text == LONG * 16


async def test_a_greedy_client_loses_its_own_replies_first() -> None:
    names = [Name("", "chat", str(number) * 16) for number in range(4)]
    async with replies(Keeping(60, most=3 * BASE + 4 * len(LONG))) as kept:
        for name, owner in zip(names, ["bob", "ann", "ann", "ann"], strict=True):
            answer = Answer(kept, [name], owner)
            answer.say("a")
            answer.end()
            await until(lambda answer=answer: answer.kept.over)  # type: ignore[misc]
        assert [kept.find(name) is not None for name in names] == [True, False, True, True]


async def test_a_collecting_reader_is_bounded() -> None:
    """The asker is bounded by what it has asked for, but one that joins has no such bound."""
    async with replies(Keeping(60, each=2000)) as kept:
        answer = Answer(kept, [NAME])
        client = Client(answer.kept)
        whole = asyncio.create_task(answer.kept.follow(Writer(Reply(client, client.reply.record, 60), Whole(), [])))
        await turns()
        answer.say(LONG, LONG, LONG)
        with pytest.raises(UpstreamEndless):
            await whole
        answer.end()
        await client.over()
        assert client.text == LONG * 3


async def test_a_stop_comes_back_when_the_answer_is_closed() -> None:
    async with replies() as kept:
        answer = Answer(kept, [NAME])
        client = Client(answer.kept)
        await turns()
        await answer.kept.stop()
        assert answer.closed
        await client.over()
        assert client.whole and isinstance(answer.kept.error, Stopped)


async def test_a_drain_waits_for_what_runs() -> None:
    async with replies() as kept:
        answer = Answer(kept, [NAME])
        answer.say("a")
        asyncio.get_running_loop().call_later(0.01, answer.end)
        await kept.drain(10)
        assert answer.closed and answer.kept.error is None
        endless = Answer(kept, [NAME])
        await kept.drain(0.01)
        assert not endless.closed
