"""Turn the text of a setting into its value.

Each function `to_...` takes the text, returns the value, and raises ValueError with the reason if the text is wrong.
`to_whole`, `to_choice` and `to_number` make such a function. The reason follows the name of the setting, which the
caller knows: "must be one of text, json". Text is matched as a whole before it is converted, because `int` and `float`
accept more than a setting may hold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv6Address, ip_network
from typing import Any
from urllib.parse import SplitResult, urlsplit

from cfchat.files import read_file
from cfchat.guard.addresses import Network
from cfchat.guard.cors import DEFAULT_PORTS
from cfchat.guard.keys import Keys, parse_keys
from cfchat.guard.limits import Rate
from cfchat.upstream import pool
from cfchat.upstream.cloudflare.models import (
    DEFAULT_MODEL,
    FALLBACK_MODELS,
    SEARCH,
    is_model_name,
    is_search,
    ranges,
)
from cfchat.upstream.origin import Origin

BASE_URL = "https://api.cloudflare.com/client/v4"
BODY_WITH_IMAGES = 8 << 20  # bytes; one image has 4 MiB at most, and base64 adds a third
MOST_LEVELS = 64  # of lists and tables in a file
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def to_whole(low: int, high: int) -> Callable[[str], int]:
    """Return the parser of a whole number in a range."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


to_port, to_count, to_zero_or_more = to_whole(0, 65535), to_whole(1, 10**9), to_whole(0, 10**9)
to_workers, to_warm = to_whole(0, 256), to_whole(0, pool.Settings().idle)


def to_choice(*names: str) -> Callable[[str], str]:
    """Return the parser of a setting that is one of these names."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError("must be one of " + ", ".join(names))
        return text

    return parse


def to_mode(text: str) -> int:
    """Return the permissions of a file, of their octal digits."""
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError("must be three octal digits such as 660")
    return int(text, 8)


def to_seconds(text: str) -> float:
    """Return a number of seconds."""
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text):
        raise ValueError("must be a number of seconds, such as 30 or 2.5")
    return float(text)


def to_resume(text: str) -> float:
    """Return the seconds for which a reply is kept. Its memory is bounded, but a lost client's tokens are paid for."""
    seconds = to_seconds(text)
    if seconds > 600:
        raise ValueError("must be 600 seconds at most")
    return seconds


def to_keep_alive(text: str) -> float:
    """Return the seconds that a connection stays open between requests. Its first request needs some of them."""
    seconds = to_seconds(text)
    if seconds < 1:
        raise ValueError("must be 1 second at least")
    return seconds


def to_model(text: str) -> str:
    """Return the name of a Workers AI model."""
    if not is_model_name(text):
        raise ValueError(f"must be a Workers AI model name such as {DEFAULT_MODEL}")
    return text


def to_origin(text: str) -> Origin:
    """Return the origin and path of an API. Plain http is for loopback alone."""
    url = _split_url(text, BASE_URL)
    host, tls = url.hostname or "", url.scheme == "https"
    if not tls and host not in LOOPBACK:
        raise ValueError("must be https: over plain http the token could be read on the way")
    return Origin(host, url.port or (443 if tls else 80), tls, url.path.rstrip("/"))


def _split_url(text: str, example: str) -> SplitResult:
    """Return the parts of a URL that has a host, and perhaps a port and a path, but nothing else."""
    try:
        url = urlsplit(text)
        _ = url.port  # it raises, too
    except ValueError:
        raise ValueError("must be a URL") from None
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ValueError("must be a URL such as " + example)
    if url.username or url.password:
        raise ValueError("must not hold a user or password")
    if not re.fullmatch(r"[!-~]*", text):
        raise ValueError("must be plain ASCII without blanks")
    return url


def to_source_base_url(text: str) -> str:
    """Return the URL of a folder, with a slash at its end."""
    return _split_url(text, "https://example.com/docs").geturl().rstrip("/") + "/"


def to_search(text: str) -> str:
    """Return the name of an AI Search instance as it stands among those of models."""
    if not is_search(SEARCH + text):
        raise ValueError("must be NAME or NAMESPACE/NAME of lower-case letters, digits, - and _")
    return SEARCH + text


def to_models(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas. `none` is the empty list."""
    if text == "none":
        return ()
    return tuple(dict.fromkeys(to_model(name.strip()) for name in text.split(",")))


def to_aliases(text: str) -> dict[str, str]:
    """Return the models in `ALIAS=NAME,...` by alias. A name may also be that of an instance of AI Search."""
    aliases: dict[str, str] = {}
    for item in text.split(","):
        alias, _, model = item.strip().partition("=")
        if not model or not re.fullmatch(r"[A-Za-z0-9@._:/-]{1,128}", alias):
            raise ValueError("must be such as gpt-4o-mini=" + FALLBACK_MODELS[-1])
        aliases[alias] = model if is_search(model) else to_model(model)
    return aliases


def to_switch(text: str) -> bool:
    """Return whether a switch is on."""
    if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise ValueError("must be 1 or 0")
    return text.lower() in ("1", "true", "yes", "on")


def to_number(name: str) -> Callable[[str], float]:
    """Return the parser of one option of a reply, within the range that Cloudflare documents."""

    def parse(text: str) -> float:
        low, high = ranges(None)[name]
        whole = name in ("top_k", "seed")
        pattern = r"[0-9]{1,10}" if whole else r"-?[0-9]{1,4}(\.[0-9]{1,6})?"
        if not re.fullmatch(pattern, text) or not low <= float(text) <= high:
            raise ValueError(f"must be a {'whole ' if whole else ''}number from {low:g} to {high:g}")
        return int(text) if whole else float(text)

    return parse


def to_caps(text: str) -> dict[str, float]:
    """Return the numbers in `NAME=N,...` by option."""
    caps: dict[str, float] = {}
    for item in text.split(","):
        name, _, number = item.strip().partition("=")
        if name not in OPTIONS:
            raise ValueError("must be such as max_tokens=4096,temperature=1.5; the names are " + ", ".join(OPTIONS))
        if not re.fullmatch(r"-?[0-9]{1,10}(\.[0-9]{1,6})?", number):
            raise ValueError(f"must have a number behind {name}=")
        caps[name] = float(number)
    return caps


def to_gateway(text: str) -> str:
    """Return the id of an AI Gateway."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError("must be the id of an AI Gateway: letters, digits, - and _")
    return text


def read_text(path: str) -> str:
    """Return the text of a regular UTF-8 file of at most 1 MiB.

    Raises:
        ValueError: it cannot be read, with the reason.
    """
    try:
        return read_file(path).decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ValueError(f"cannot read {path}: it is not UTF-8") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return what a text in TOML holds.

    Raises:
        ValueError: it is no TOML, with the reason.
    """
    import tomllib  # here, because it is rarely needed

    try:
        document = tomllib.loads(text.removeprefix("\ufeff"))  # a mark that editors on Windows put first
        too_deep = _is_deep(document, MOST_LEVELS)  # tomllib has no limit for `a.a.a = 1`
    except RecursionError:
        too_deep = True
    if too_deep:
        raise ValueError("its lists or tables are nested too deeply")
    return document


def _is_deep(value: object, levels: int) -> bool:
    """Return whether there are more levels of lists and tables."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not levels or any(_is_deep(each, levels - 1) for each in inner)


def to_model_fields(path: str) -> dict[str, Any]:
    """Return the contents of a TOML file: for each model a table of further fields of the request body."""
    text = read_text(path)
    try:
        tables = parse_toml(text)
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    for _, reason in faults_in_tables(tables):
        raise ValueError(reason)
    return tables


def faults_in_tables(tables: Mapping[str, object]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give the key and the reason of all that is wrong with the tables of the models."""
    for model, fields in tables.items():
        is_known = is_model_name(model) or is_search(model)
        if not is_known or not isinstance(fields, dict):
            what = "table" if is_known else "model"
            yield (model,), f'takes a table for each model, such as ["{DEFAULT_MODEL}"]; {model} is no {what}'
            continue
        for name, value in fields.items():
            if name in ("messages", "stream", "model", "prompt"):
                yield (model, name), f"cannot set {name} of {model}: it is cfchat's own"
            elif not _is_json(value):
                yield (model, name), f"cannot send {name} of {model}: JSON has no dates and no infinite numbers"


def _is_json(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_json, value.values()))
    if isinstance(value, list):
        return all(map(_is_json, value))
    return isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value))


_ORIGIN = r"[a-z][a-z0-9+.-]*://([a-z0-9.-]+|\[[0-9a-f:]+\])(:(0|[1-9][0-9]{0,4}))?"


def to_origins(text: str) -> tuple[str, ...]:
    """Return the origins whose pages may ask, as browsers write them; `*` is every origin."""
    origins = [origin.strip() for origin in text.split(",")]
    if not all(origin == "*" or re.fullmatch(_ORIGIN, origin) for origin in origins):
        raise ValueError("must be * or origins such as https://example.com, in lower case, without a path")
    return tuple(dict.fromkeys(map(_as_browsers_write, origins)))


def _as_browsers_write(origin: str) -> str:
    """Leave out the port that the scheme implies (RFC 6454 §6.2), and shorten an IPv6 address (RFC 5952)."""
    origin = origin.removesuffix(":" + DEFAULT_PORTS.get(origin.partition(":")[0], ""))
    scheme, bracket, rest = origin.partition("://[")
    if not bracket:
        return origin
    address, _, port = rest.partition("]")
    try:
        return f"{scheme}://[{IPv6Address(address)}]{port}"
    except ValueError:
        raise ValueError(f"must not hold {origin}: this is no IPv6 address") from None


def read_keys(path: str) -> Keys:
    """Return the keys in a file.

    Raises:
        ValueError: it cannot be read or holds something else, with the reason.
    """
    text = read_text(path)
    try:
        return parse_keys(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def to_keys_file(path: str) -> tuple[str, Keys]:
    """Return the path, for a later reload, and the keys."""
    return path, read_keys(path)


_PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


def to_rate(text: str) -> Rate:
    """Return the rate in `N/PERIOD`."""
    match = re.fullmatch(r"([0-9]{1,6})/(second|minute|hour|day)", text)
    if match is None or not int(match[1]):
        raise ValueError("must be such as 20/minute; the periods are second, minute, hour, day")
    return Rate(int(match[1]), _PERIODS[match[2]])


def to_networks(text: str) -> tuple[Network, ...]:
    """Return addresses and networks."""
    try:
        return tuple(ip_network(item.strip()) for item in text.split(","))
    except ValueError:
        raise ValueError("must be addresses or networks such as 127.0.0.1,10.0.0.0/8,::1") from None


def to_address(text: str) -> tuple[str, int]:
    """Return host and port; an IPv6 address stands in brackets."""
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"\[[0-9A-Fa-f:.%]+\]|[^:\[\]\s]+", host):
        raise ValueError("must be an address and a port, such as 127.0.0.1:9090 or [::1]:9090")
    return host.strip("[]"), to_port(port)


def to_text(text: str) -> str:
    """Return the text, which must not be blank."""
    if not text.strip():
        raise ValueError("must not be empty")
    return text


OPTIONS = ("max_tokens", "temperature", "top_p", "top_k", "seed",
            "repetition_penalty", "frequency_penalty", "presence_penalty")  # fmt: skip
