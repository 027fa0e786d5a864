"""The three hooks, through a real socket."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from math import inf

import pytest
from client import Reply as Answered
from client import parse, request
from house import HELLO, House, house
from standin import StandIn, partial, reply

import cfchat as package
from cfchat import Conversation, Hooks, Message, Options, Reply, Request
from cfchat.app import hooks
from cfchat.app.routes import Settings as AppSettings
from cfchat.errors import Unauthorized
from cfchat.guard.guard import Guard, Settings
from cfchat.guard.limits import Rate
from cfchat.server.request import Limits
from cfchat.wire.messages import ReadLimits

WORDS = reply(
    b'data: {"response":"Hello"}\n\n'
    b'data: {"response":"","usage":{"prompt_tokens":51,"completion_tokens":9,"total_tokens":60}}\n\n'
    b"data: [DONE]\n\n"
)


async def named(request: Request) -> str:
    user = request.fields.get("x-user")
    if user is None:
        raise Unauthorized("Log in first.")
    return user


async def test_names_that_look_alike_in_the_log_are_counted_separately() -> None:
    async def foreign(request: Request) -> str:
        return {"1": "张三", "2": "李四\n"}[request.fields.get("x-user", "")]

    guard, replies = Guard(Settings(rate=Rate(1, 60), daily_tokens_each=70)), []

    async def after(reply: Reply) -> None:
        replies.append(reply.who)

    ours = Hooks(authenticate=foreign, after_reply=after)
    async with StandIn([WORDS], repeat=True) as standin, house(standin, guard=guard, hooks=ours) as cfchat:
        assert [(await cfchat.post(fields=f"X-User: {user}\r\n")).status for user in "121"] == [200, 200, 429]
        await cfchat.logged("used up: key ??")
        assert replies == ["张三", "李四\n"]


async def test_a_named_client_is_logged_and_counted() -> None:
    guard = Guard(Settings(rate=Rate(1, 60)))
    async with (
        StandIn([WORDS, WORDS]) as standin,
        house(standin, guard=guard, hooks=Hooks(authenticate=named)) as cfchat,
    ):
        first = await cfchat.post(fields="X-User: ann\r\n")
        again = await cfchat.post(fields="X-User: ann\r\n")
        other = await cfchat.post(fields="X-User: b\xf6b and more\r\n")
    assert [first.status, again.status, other.status] == [200, 429, 200]
    assert any("key=ann" in line for line in cfchat.log)
    assert any("key=b??b?and?more" in line for line in cfchat.log)


async def test_a_client_without_a_name_is_refused_before_the_body_is_read() -> None:
    async with StandIn([]) as standin, house(standin, hooks=Hooks(authenticate=named)) as cfchat:
        answer = await cfchat.post(b"no json")
        models = await cfchat.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (answer.status, answer.error["message"]) == (401, "Log in first.")
    assert models.startswith(b"HTTP/1.1 401 ")


async def test_the_conversation_can_be_edited() -> None:
    async def before_call(conversation: Conversation, request: Request) -> Conversation:
        assert [message.role for message in conversation.messages] == ["system", "user"]
        return replace(conversation, messages=(Message("user", f"from {request.client}"),))

    async with StandIn([WORDS]) as standin, house(standin, hooks=Hooks(before_call=before_call)) as cfchat:
        await cfchat.post()
    assert json.loads(standin.requests[0].body)["messages"] == [{"role": "user", "content": "from 127.0.0.1"}]


class Teapot(package.CfchatError):
    status, type, code = 418, "invalid_request_error", "teapot"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Teapot("I am one."), 418, "teapot"),
        (ZeroDivisionError("of mine"), 500, "internal_error"),
        (ConnectionError("database"), 500, "internal_error"),
    ],
)
async def test_an_error_of_a_hook(error: Exception, status: int, code: str) -> None:
    async def before_call(conversation: Conversation, request: Request) -> Conversation:
        raise error

    async def authenticate(request: Request) -> str:
        raise error

    for broken in (Hooks(before_call=before_call), Hooks(authenticate=authenticate)):
        async with StandIn([]) as standin, house(standin, hooks=broken) as cfchat:
            answer = await cfchat.post()
            log = "\n".join(cfchat.log)
        assert (answer.status, answer.error["code"]) == (status, code)
        assert ("failed" in log and str(error) in log) == (status == 500)
        assert str(error) not in str(answer.error) or status == 418


def changed(**changes: object) -> Teapot:
    error = Teapot("I am one.")
    for name, value in changes.items():
        setattr(error, name, value)
    return error


class Bare(package.CfchatError):
    def __init__(self) -> None:
        pass


async def answer_of_a_failing(place: str, broken: Hooks) -> Answered:
    """Ask a server whose hook in this place fails, and see that it is logged. No model is asked."""
    async with StandIn([]) as standin, house(standin, hooks=broken) as cfchat:
        answer = await cfchat.post()
        await cfchat.logged(f"{place} failed")
    return answer


@pytest.mark.parametrize(
    "error",
    [
        *(changed(status=status) for status in (42, 100, 204, 304, 600, "403", None)),
        *(changed(fields=[field]) for field in (("a b", "c"), ("A", "b\r\nC: d"), ("A", "\u4e2d"), ("A", None), "A")),
        changed(fields=[("Content-Length", "5")]),
        changed(fields=None),
        *(changed(retry_after=wait) for wait in (inf, "soon")),
        changed(message=b"x"),
        changed(code=None),
        changed(param={1}),
        Bare(),
        asyncio.CancelledError(),
    ],
    ids=lambda error: str(vars(error))[-40:],
)
async def test_an_error_of_a_hook_that_cannot_be_sent(error: BaseException) -> None:
    async def authenticate(request: Request) -> str:
        raise error

    answer = await answer_of_a_failing("authenticate", Hooks(authenticate=authenticate))
    assert (answer.status, answer.error["code"], answer.whole) == (500, "internal_error", True)


ASKED = Conversation((Message("user", "Hello"),))


@pytest.mark.parametrize(
    "result",
    [
        None,
        {"messages": []},
        replace(ASKED, messages=()),
        *(replace(ASKED, messages=wrong) for wrong in (None, (HELLO[0],))),  # type: ignore[arg-type]
        *(replace(ASKED, messages=(Message("user", content),)) for content in (None, b"x", "\ud800")),  # type: ignore[arg-type]
        replace(ASKED, messages=(Message("king", "Hello"),)),
        replace(ASKED, messages=(Message("assistant", "", ({"n": inf},)),)),
        replace(ASKED, options=None),  # type: ignore[arg-type]
        *(replace(ASKED, options=Options(temperature=hot)) for hot in (inf, "hot")),  # type: ignore[arg-type]
        *(replace(ASKED, options=Options(model=model)) for model in (7, "@cf/../b", "@cf/a/b c")),  # type: ignore[arg-type]
        *(replace(ASKED, passed=passed) for passed in ({"tools": [inf]}, {"tools": {1}}, None)),  # type: ignore[arg-type]
    ],
    ids=lambda result: str(result)[-60:],
)
async def test_a_conversation_of_a_hook_that_cannot_be_sent(result: Conversation) -> None:
    async def before_call(conversation: Conversation, request: Request) -> Conversation:
        return result

    answer = await answer_of_a_failing("before_call", Hooks(before_call=before_call))
    assert (answer.status, answer.error["code"]) == (500, "internal_error")


@pytest.mark.parametrize("name", [7, b"ann", ["ann"]])
async def test_a_name_that_is_none(name: str) -> None:
    async def authenticate(request: Request) -> str:
        return name

    answer = await answer_of_a_failing("authenticate", Hooks(authenticate=authenticate))
    assert answer.status == 500


async def test_a_hook_may_read_the_body_and_be_cancelled_at_it() -> None:
    body, rest = json.dumps(HELLO).encode(), asyncio.Event()
    read: list[bytes] = []

    async def authenticate(request: Request) -> str:
        first = asyncio.create_task(request.read_body())
        await asyncio.sleep(0)  # it takes the part that came with the head
        first.cancel()
        await asyncio.wait([first])
        rest.set()
        read.extend(await asyncio.gather(request.read_body(), request.read_body(), request.read_body(1 << 30)))
        return ""

    async with StandIn([WORDS]) as standin, house(standin, hooks=Hooks(authenticate=authenticate)) as cfchat:
        reader, writer = await cfchat.connect()
        writer.write(request(body)[:-9])
        await rest.wait()
        writer.write(body[-9:])
        answer = parse(await reader.read())
        writer.close()
    assert (answer.status, answer.body, read) == (200, b"Hello", [body] * 3)


@pytest.mark.parametrize(("limit", "size", "status"), [(2000, 1500, 200), (1000, 1500, 413), (2 << 20, 3 << 19, 200)])
async def test_the_limit_of_a_body_is_the_servers_for_a_hook_too(limit: int, size: int, status: int) -> None:
    async def authenticate(request: Request) -> str:
        await request.read_body()
        return ""

    messages, settings = [{"role": "user", "content": "x" * size}], AppSettings(max_body=limit)
    ours, bare = Hooks(authenticate=authenticate), Limits(read=ReadLimits(body=None))
    async with StandIn([WORDS]) as standin, house(standin, app=settings, limits=bare, hooks=ours) as cfchat:
        assert (await cfchat.post(messages)).status == status


async def test_a_hook_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "DEADLINE", 0.01)

    async def authenticate(request: Request) -> str:
        await asyncio.Event().wait()
        return ""

    async with StandIn([]) as standin, house(standin, hooks=Hooks(authenticate=authenticate)) as cfchat:
        assert (await cfchat.post()).status == 500


async def test_a_slow_body_is_not_the_hooks_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "DEADLINE", 0.01)

    async def authenticate(request: Request) -> str:
        await request.read_body()
        return ""

    async with StandIn([]) as standin, house(standin, hooks=Hooks(authenticate=authenticate)) as cfchat:
        reader, writer = await cfchat.connect()
        writer.write(request(json.dumps(HELLO).encode())[:-9])
        answer = parse(await reader.read())
        writer.close()
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")
    assert "authenticate failed" not in "\n".join(cfchat.log)


async def settled(standin: StandIn, fields: str = "") -> tuple[Answered, Reply]:
    """Post a question. Return the answer and the Reply that `after_reply` got."""
    costs: asyncio.Queue[Reply] = asyncio.Queue()

    async def after_reply(reply: Reply) -> None:
        await asyncio.sleep(0)  # so that a client that has left could cancel it here
        await costs.put(reply)

    async with house(standin, hooks=Hooks(authenticate=named, after_reply=after_reply)) as cfchat:
        answer = await cfchat.post(fields=f"X-User: ann\r\n{fields}")
        return answer, await costs.get()


@pytest.mark.parametrize("fields", ["", "Accept: application/json\r\n"])
async def test_the_cost_of_a_reply(fields: str) -> None:
    async with StandIn([WORDS]) as standin:
        answer, cost = await settled(standin, fields)
    model = "@cf/google/gemma-4-26b-a4b-it"
    assert cost == Reply(answer.fields["x-request-id"], "ann", "127.0.0.1", model, 51, 9, False, True)


async def test_the_cost_of_a_broken_reply() -> None:
    async with StandIn([partial(b'data: {"response":"Hello there"}\n\n', then="close")]) as standin:
        answer, cost = await settled(standin)
    assert (answer.whole, cost.whole, cost.estimated, cost.completion_tokens) == (False, False, True, 3)
    assert cost.prompt_tokens > 0


async def test_a_fault_after_the_reply_is_only_logged() -> None:
    async def after_reply(reply: Reply) -> None:
        raise ZeroDivisionError

    async with StandIn([WORDS]) as standin, house(standin, hooks=Hooks(after_reply=after_reply)) as cfchat:
        answer = await cfchat.post()
        await cfchat.logged("after_reply failed")
    assert (answer.status, answer.whole) == (200, True)


async def test_after_reply_is_awaited_at_the_end() -> None:
    done = []

    async def after_reply(reply: Reply) -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        done.append(reply)

    async def ask(cfchat: House) -> None:
        await cfchat.post()

    async with StandIn([WORDS]) as standin, house(standin, hooks=Hooks(after_reply=after_reply)) as cfchat:
        await ask(cfchat)
    assert len(done) == 1
