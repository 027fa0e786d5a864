"""Encode the requests of one account to Cloudflare's API, direct or through AI Gateway. Pure.

The fields that all requests share, the token among them, are encoded once. AI Gateway can be reached in two ways: by
header, at the same address as the API, or at a base URL of its own, which has other paths. Its retries and its cache
are switched off unless the operator asks for the cache. A route of the gateway is asked as OpenAI's API would be.
"""

from __future__ import annotations

import json
import re
from hashlib import blake2b
from typing import NamedTuple

from cfchat.conversation.model import Conversation
from cfchat.errors import UpstreamRefused
from cfchat.secret import Secret
from cfchat.upstream.cloudflare.models import SEARCH, is_route, is_search
from cfchat.upstream.origin import Origin
from cfchat.wire.writer import encode_fields, encode_request_head


class Gateway(NamedTuple):
    """An AI Gateway. `token` is for a gateway that demands one; `cache` is for how many seconds it may keep a reply."""

    id: str
    token: Secret | None = None
    cache: int = 0

    def fields(self, by_header: bool, request_id: str, label: str, trace: str) -> list[tuple[str, str]]:
        """Return the request fields that configure the gateway; its name is one of them only if `by_header`.

        `label` names the client's key for the gateway's spend limits. `trace` is the id of the client's trace, in which
        the request is our span. Source: developers.cloudflare.com/ai-gateway/glossary.
        """
        fields = [("cf-aig-gateway-id", self.id)] if by_header else []
        if self.token is not None:
            fields.append(("cf-aig-authorization", f"Bearer {self.token.reveal()}"))
        # At most five entries, none of them nested: with more, AI Gateway drops them all.
        metadata = {"request_id": request_id}
        if label:
            metadata["key"] = _short(label)
        if trace:
            fields += [("cf-aig-otel-trace-id", trace), ("cf-aig-otel-parent-span-id", request_id)]
        fields += [
            ("cf-aig-metadata", json.dumps(metadata)),
            # We retry ourselves; retries of the gateway would multiply ours.
            ("cf-aig-max-attempts", "1"),
        ]
        # A cache gives all clients the same reply, so it is used only if the operator asks for it.
        fields.append(("cf-aig-cache-ttl", str(self.cache)) if self.cache else ("cf-aig-skip-cache", "true"))
        return fields


def _short(label: str) -> str:
    """Return a label of at most 96 characters. One that is longer ends with its hash, so that no two become alike."""
    if not label[96:]:
        return label
    return f"{label[:63]}-{blake2b(label.encode(errors='surrogatepass'), digest_size=16).hexdigest()}"


class Api:
    """The API at one origin, for one account and token, and perhaps through a gateway."""

    def __init__(self, origin: Origin, account: str, token: Secret, gateway: Gateway | None = None) -> None:
        self._origin = origin
        self._account = account
        self._gateway = gateway
        shared = (
            ("Host", origin.authority),
            ("Authorization", f"Bearer {token.reveal()}"),
            # Compression makes a stream arrive in one lump (cloudflare/workers-sdk#5614).
            ("Accept-Encoding", "identity"),
            ("User-Agent", "cfchat"),
        )
        asking = (("Content-Type", "application/json"), ("Accept", "text/event-stream"))
        self._fields = encode_fields(shared)  # of every request
        self._run_fields = self._route_fields = encode_fields((*shared, *asking))  # of each request that asks a model
        if self.on_gateway:
            # There `Authorization` is for the provider, which may be another company: the token must not get there.
            host, authorization, *more = (*shared, *asking)
            own = () if gateway is None or gateway.token else (("cf-aig-authorization", authorization[1]),)
            self._route_fields = encode_fields((host, *own, *more))
        self._heads: dict[str, bytes] = {}  # by model
        self._key = blake2b(token.reveal().encode()).digest()  # keeps others from computing an affinity

    @property
    def on_gateway(self) -> bool:
        """Whether the base URL is AI Gateway's own (`https://gateway.ai.cloudflare.com/v1`)."""
        return self._gateway is not None and self._origin.base_path.endswith("/v1")

    def run(
        self, model: str, body: bytes, affinity: str, request_id: str, label: str = "", trace: str = ""
    ) -> bytes:
        """Return the POST that asks the model, or an instance of AI Search, for a streamed reply.

        `body` is what encode_request or encode_search returned, `affinity` what the method of that name returned. The
        request tells a gateway the `label` of the client's key and the id of its `trace`, if there are any.
        """
        head = self._heads.get(model)
        if head is None:
            head = self._heads[model] = self._prepare(model)
        gateway = self._gateway
        more = b""
        if gateway is not None and not is_search(model):  # AI Search has a gateway in its own settings
            fields = gateway.fields(not self.on_gateway, request_id, label, trace)
            if is_route(model):  # its turns then go to one model, and find its warm cache
                fields.append(("cf-aig-session-id", affinity))
            more = encode_fields(fields)
        own = b"Content-Length: %d\r\nX-Session-Affinity: %b\r\n\r\n" % (len(body), affinity.encode("ascii"))
        return head + more + own + body

    def _prepare(self, model: str) -> bytes:
        """Return what all requests to one model begin with. Few models are offered, so each is kept.

        Raises:
            UpstreamRefused: the model is a route, and there is no gateway.
        """
        base, gateway, route = self._origin.base_path, self._gateway, is_route(model)
        if route and gateway is None:  # a hook may name one
            raise UpstreamRefused(detail=f"only a gateway knows the route {model}: --gateway names yours")
        if is_search(model):
            target = search_path(base, self._account, model)
        elif gateway is not None and self.on_gateway:
            below = "compat/chat/completions" if route else f"workers-ai/{model}"
            target = f"{base}/{self._account}/{gateway.id}/{below}"
        else:
            target = route_path(base, self._account) if route else run_path(base, self._account, model)
        fields = self._route_fields if route else self._run_fields
        return encode_request_head("POST", target, (), fields)[:-2]  # without its empty line

    def catalogue(self) -> bytes:
        """Return the GET of the account's list of models. It costs nothing."""
        target = models_path(self._origin.base_path, self._account)
        return encode_request_head("GET", target, [("Accept", "application/json")], self._fields)

    def affinity(self, conversation: Conversation, client: str) -> str:
        """Return an id that all turns of one conversation share, so that Cloudflare finds its warm prefix cache.

        It is a keyed hash of the client's name, the first message and the first one of the user: no state is kept
        here, and Cloudflare does not learn the name.
        """
        begin, first = conversation.messages[0].content, ""
        for message in conversation.messages:
            if message.role == "user":
                first = message.content
                break
        whole = f"{len(client)}:{client}{len(begin)}:{begin}{first}".encode(errors="surrogatepass")
        return blake2b(whole, digest_size=16, key=self._key).hexdigest()


_ACCOUNT_ID = re.compile(r"[0-9a-fA-F]{32}")
_TOKEN = re.compile(r"[!#-&(-~]+")  # visible ASCII without quotes


def is_account_id(text: str) -> bool:
    """Return whether it could be an account's id: 32 hexadecimal digits."""
    return _ACCOUNT_ID.fullmatch(text) is not None


def is_token(text: str) -> bool:
    """Return whether it could be an API token. Cloudflare answers 6003 if a newline or a quote was pasted with it."""
    return _TOKEN.fullmatch(text) is not None


def run_path(base_path: str, account: str, model: str) -> str:
    """Return the path that runs a model. Its name is not escaped, as in Cloudflare's own examples."""
    return f"{base_path.rstrip('/')}/accounts/{account}/ai/run/{model}"


def search_path(base_path: str, account: str, model: str) -> str:
    """Return the path that asks an instance of AI Search, which has the name `ai-search/[NAMESPACE/]NAME`."""
    namespace, _, name = model.removeprefix(SEARCH).rpartition("/")
    within = f"namespaces/{namespace}/" if namespace else ""
    return f"{base_path.rstrip('/')}/accounts/{account}/ai-search/{within}instances/{name}/chat/completions"


def route_path(base_path: str, account: str) -> str:
    """Return the path that asks a route of the gateway that `cf-aig-gateway-id` names. The body names the route."""
    return f"{base_path.rstrip('/')}/accounts/{account}/ai/v1/chat/completions"


def models_path(base_path: str, account: str) -> str:
    """Return the path of the list of the account's text models. It is one page, whatever size is asked for."""
    return f"{base_path.rstrip('/')}/accounts/{account}/ai/models/search?task=Text%20Generation"
