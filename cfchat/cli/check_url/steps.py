"""Take the steps of `cfchat check --url` in order, and print what each has found.

A step has ten seconds. The first five, up to a good answer of /api/pulse, depend on one another: if one fails, all
later steps are skipped. Those behind it each say something of their own, whatever the others have found.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple

from cfchat.app.pulse import PULSE
from cfchat.cli.check_url.address import follow, parse_url
from cfchat.cli.check_url.answers import describe_sender, excerpt, judge_body, judge_pulse, show_url
from cfchat.cli.check_url.call import SECONDS, Answer, Caller, reason, tls_name
from cfchat.cli.check_url.cors import judge_cors, preflight_fields
from cfchat.cli.check_url.pulse import IDLE, Pulse
from cfchat.cli.check_url.tls import judge_certificate, judge_failure, judge_plain
from cfchat.cli.results import Result, Status, ms_since, print_results, skipped
from cfchat.errors import ConfigError, UpstreamError
from cfchat.secret import Secret
from cfchat.settings.values import to_origins
from cfchat.upstream.origin import Origin

CHAT = "/api/chatbot"
Step = Callable[[], Awaitable[Result]]
NEEDED = ("name", "proxy", "tcp", "tls", "pulse")  # by all later steps
REDIRECTS = 5
BODY = 256 * 1024  # bytes
# As browsers do, so that a proxy that likes to compress does it here, too.
ACCEPT = (("Accept", "text/event-stream"), ("Accept-Encoding", "gzip, br"))


class Asked(NamedTuple):
    """What to check: the server's URL, the origin of the page that would use it, the key, and whether to be `slow`."""

    base: Origin
    origin: str
    key: Secret | None = None
    slow: bool = False


def read_asked(flags: Mapping[str, object], environ: Mapping[str, str]) -> Asked:
    """Return what the flags and the environment ask for.

    Raises:
        ConfigError: one of them cannot be. The message repeats none of them.
    """
    base, key = parse_url(str(flags["url"])), environ.get("CFCHAT_CHECK_KEY", "")
    if not re.fullmatch(r"[!-~]*", key):
        raise ConfigError("CFCHAT_CHECK_KEY must be plain ASCII without blanks")
    own = base._replace(base_path="")
    return Asked(base, _read_origin(flags["origin"]) or own.url, Secret(key) if key else None, bool(flags["slow"]))


def _read_origin(text: object) -> str:
    try:
        origins = to_origins(str(text)) if text else ("",)
    except ValueError as error:
        raise ConfigError(f"--origin {error}") from None
    if len(origins) > 1 or origins == ("*",):
        raise ConfigError("--origin must be one origin such as https://example.com")
    return origins[0]


def check_url(asked: Asked, environ: Mapping[str, str]) -> AsyncGenerator[Result, None]:
    """Take each step once, in order, and give its result. Steps that could not work after a failed one are skipped."""
    return _Check(asked, environ).run()


async def run_check_url(asked: Asked, as_json: bool, environ: Mapping[str, str]) -> int:
    """Take each step and print its result. Return the exit code."""
    return await print_results(check_url(asked, environ), as_json)


class _Check:
    """The steps, and what they learn for later ones. `base` moves where a redirect of the pulse leads."""

    def __init__(self, asked: Asked, environ: Mapping[str, str]) -> None:
        self._asked = asked
        self._base = asked.base
        self._caller = Caller(asked.base, asked.key, environ)
        self._alpn: str | None = None
        self._answer = Answer()
        self._pulse = Pulse(self._answer)

    async def run(self) -> AsyncGenerator[Result, None]:
        """Give the result of each step."""
        broken = ""
        proxied = self._caller.proxy(self._base) is not None
        steps: dict[str, Step] = {
            "proxy" if proxied else "name": self._resolve,
            "tcp": self._connect,
            "tls": self._shake_hands,
            "pulse": self._ask_pulse,
            "http": self._tell_version,
            "buffering": self._judge_buffering,
            "cut": self._judge_end,
            **({"slow": self._be_slow} if self._asked.slow else {}),
            "client": self._judge_client,
            "body": self._post,
            "cors": self._ask_as_page,
        }
        for name, step in steps.items():
            result = skipped(name, broken) if broken else await self._take(name, step)
            yield result
            if result.status is Status.FAIL and name in NEEDED:
                broken = name

    async def _take(self, name: str, step: Step) -> Result:
        """Take a step, which ends in time."""
        began, seconds = time.perf_counter(), SECONDS + (IDLE if name == "slow" else 0)
        self._caller.until = asyncio.get_running_loop().time() + seconds
        try:
            # A request ends by itself in time, and then what has come of its reply is judged.
            async with asyncio.timeout(seconds + 0.5):
                return await step()
        except TimeoutError:
            detail = f"nothing came of it within {seconds:g} s"
            return Result(name, Status.FAIL, detail, "check the network, and firewalls in between", ms_since(began))
        except (OSError, UpstreamError) as error:
            return Result(name, Status.FAIL, reason(error), "try again: it worked a moment ago", ms_since(began))

    @property
    def _origin(self) -> Origin:
        """Where requests go: the base without its prefix."""
        return self._base._replace(base_path="")

    # --- up to an answer ----------------------------------------------------------------------

    async def _resolve(self) -> Result:
        began, proxy = time.perf_counter(), self._caller.proxy(self._base)
        host = proxy.host if proxy else self._base.host
        name = "proxy" if proxy else "name"
        try:
            addresses = await self._caller.resolve(self._base)
        except (OSError, UnicodeError) as error:
            why = reason(error) if isinstance(error, OSError) else "this cannot be a host's name"
            step = f"check the name, and its DNS: `getent hosts {host}`; a new record may take an hour"
            return Result(name, Status.FAIL, f"{host} has no address: {why}", step, ms_since(began))
        detail = f"{host} is {', '.join(addresses)}"
        if proxy:
            detail = f"{detail}: the proxy of HTTPS_PROXY (NO_PROXY={self._base.host} goes past it)"
        return Result(name, Status.OK, detail, ms=ms_since(began))

    async def _connect(self) -> Result:
        began, there = time.perf_counter(), f"{self._base.host}:{self._base.port}"
        try:
            stream = await self._caller.connect(self._base)
        except UpstreamError as error:
            step = f"let the proxy's owner allow CONNECT to {there}, or set NO_PROXY={self._base.host} to go past it"
            return Result("tcp", Status.FAIL, error.detail, step, ms_since(began))
        except OSError as error:
            step = "does the proxy or cfchat run there? Check the port, and firewalls in between"
            return Result("tcp", Status.FAIL, f"no connection to {there}: {reason(error)}", step, ms_since(began))
        peer = stream.peername
        stream.abort()
        detail = f"connected to {peer[0]} port {peer[1]}" if peer else f"connected to {there}"
        return Result("tcp", Status.OK, detail, ms=ms_since(began))

    async def _shake_hands(self) -> Result:
        base, began = self._base, time.perf_counter()
        if not base.tls:
            return judge_plain(await self._caller.public(base), self._asked.key is not None)
        stream = await self._caller.connect(base)
        try:
            async with asyncio.timeout_at(self._caller.until):
                await stream.start_tls(self._caller.offers_h2, tls_name(base))
        except OSError as error:
            detail, step = judge_failure(error, base.host)
            return Result("tls", Status.FAIL, detail, step, ms_since(began))
        else:
            assert stream.tls is not None
            self._alpn = stream.tls.selected_alpn_protocol()
            end = str((stream.tls.getpeercert() or {}).get("notAfter"))
            return judge_certificate(stream.tls_version or "", end, time.time(), ms_since(began))
        finally:
            stream.abort()

    async def _ask_pulse(self) -> Result:
        """Ask for the pulse, and follow redirects. The steps behind this one go where the last of them has led."""
        origin, target = self._origin, self._base.base_path + PULSE
        led = ""
        for _ in range(REDIRECTS + 1):
            about = led or f"GET {target}"
            try:
                self._answer = answer = await self._caller.ask(origin, "GET", target, ACCEPT)
            except (OSError, UpstreamError) as error:
                step = "check where the redirect leads" if led else "try again; see the logs of the proxy and of cfchat"
                return Result("pulse", Status.FAIL, f"{about}: no connection: {reason(error)}", step)
            location = answer.fields.get("location")
            if not 300 <= answer.status < 400 or answer.status == HTTPStatus.NOT_MODIFIED or location is None:
                break
            try:
                origin, target = follow(origin.url + target, location)
            except ConfigError:
                detail = f"{about}: {answer.status} to no URL: {excerpt(location, self._secrets)}"
                return Result("pulse", Status.FAIL, detail, "let the proxy send a whole URL")
            led = f"redirected by {answer.status} to {show_url(origin.url + target, self._secrets)}"
        else:
            return Result("pulse", Status.FAIL, f"{led}, and on, {REDIRECTS} times", "let the redirects end")
        return await self._note_pulse(answer, origin, target, led)

    async def _note_pulse(self, answer: Answer, origin: Origin, target: str, led: str) -> Result:
        key_sent = await self._caller.sends_key(origin)
        result = judge_pulse(answer, led or f"GET {target}", key_sent, self._secrets)
        self._pulse = Pulse(answer, self._secrets)
        if self._pulse.foreign:
            detail = f"{led or target}: an event stream, but not of cfchat: {describe_sender(answer, self._secrets)}"
            step = "is the prefix right? Something else answers there"
            return Result("pulse", Status.FAIL, detail, step, result.ms)
        if not led or result.status is not Status.OK:
            return result
        path = target.partition("?")[0]
        if not path.endswith(PULSE):
            step = "let the proxy pass on /api/ under the prefix, without a redirect"
            return result._replace(status=Status.FAIL, next=step)
        if origin != self._origin:
            self._alpn = None  # it was another server's
        self._base = origin._replace(base_path=path.removesuffix(PULSE))
        step = "give pages and --url the URL that it leads to: a POST does not outlive a redirect"
        return result._replace(status=Status.WARN, next=step)

    # --- behind it ----------------------------------------------------------------------------

    @property
    def _secrets(self) -> list[str]:
        return self._caller.secrets

    async def _tell_version(self) -> Result:
        answer = self._answer
        assert answer.head is not None
        if answer.head.minor == 0:
            step = "let the proxy speak HTTP/1.1 to its clients"
            return Result("http", Status.WARN, "HTTP/1.0, without chunks: a client cannot see that it was cut", step)
        offered = "; browsers are offered HTTP/2" if self._alpn == "h2" else ""
        return Result("http", Status.OK, f"HTTP/1.1{offered}")

    async def _judge_buffering(self) -> Result:
        return self._pulse.judge_buffering()

    async def _judge_end(self) -> Result:
        return self._pulse.judge_end()

    async def _be_slow(self) -> Result:
        answer = await self._ask("GET", f"{PULSE}?idle={IDLE}", ACCEPT)
        if answer.status != HTTPStatus.OK:
            return judge_pulse(answer, "GET " + PULSE, True, self._secrets)._replace(name="slow")
        return Pulse(answer, self._secrets).judge_silence()

    async def _judge_client(self) -> Result:
        return self._pulse.judge_client(await self._caller.public(self._base))

    async def _post(self) -> Result:
        """Post what is no conversation, so that it costs nothing."""
        body = json.dumps({"messages": "", "from": "cfchat check"}).encode().ljust(BODY)
        answer = await self._ask("POST", CHAT, (), body)
        return judge_body(answer, BODY, self._secrets)

    async def _ask_as_page(self) -> Result:
        origin = self._asked.origin
        preflight = await self._ask("OPTIONS", CHAT, preflight_fields(origin), with_key=False)
        # The head says all. A whole pulse would only take longer.
        simple = await self._ask("GET", PULSE, (("Origin", origin), *ACCEPT), enough=_is_stream)
        own = origin == self._origin.url
        return judge_cors(preflight, simple, origin, own, self._secrets)

    async def _ask(
        self,
        method: str,
        path: str,
        fields: Sequence[tuple[str, str]],
        body: bytes = b"",
        *,
        with_key: bool = True,
        enough: Callable[[Answer], bool] = lambda answer: False,
    ) -> Answer:
        """Ask below the prefix. No connection is an answer without a head."""
        answer = Answer()
        try:
            target = self._base.base_path + path
            return await self._caller.ask(
                self._origin, method, target, fields, body, with_key=with_key, enough=enough
            )
        except (OSError, UpstreamError) as error:
            answer.fault = reason(error)
        return answer


def _is_stream(answer: Answer) -> bool:
    return answer.fields.get("content-type", "").startswith("text/event-stream")
