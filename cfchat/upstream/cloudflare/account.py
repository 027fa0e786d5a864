"""Cloudflare's API as one account reaches it, straight or through AI Gateway: requests as bytes."""

from __future__ import annotations

import json
import re
from hashlib import blake2b
from typing import NamedTuple

from cfchat.conversation.model import Conversation
from cfchat.secret import Secret
from cfchat.upstream.origin import Origin
from cfchat.wire.writer import encode_fields, encode_request_head


class Gateway(NamedTuple):
    """An AI Gateway. `token` is for one that wants its own; `cache` is for how many seconds it may keep a reply."""

    id: str
    token: Secret | None = None
    cache: int = 0

    def fields(self, by_header: bool, request_id: str) -> list[tuple[str, str]]:
        """Request fields (developers.cloudflare.com/ai-gateway, glossary)."""
        fields = [("cf-aig-gateway-id", self.id)] if by_header else []
        if self.token is not None:
            fields.append(("cf-aig-authorization", f"Bearer {self.token.reveal()}"))
        fields += [
            # At most five entries, none of them nested: more loses them all.
            ("cf-aig-metadata", json.dumps({"request_id": request_id})),
            # The tries are ours: its own would multiply them.
            ("cf-aig-max-attempts", "1"),
        ]
        # A chat answered from a cache gives everybody the same words: only where it is asked for.
        fields.append(("cf-aig-cache-ttl", str(self.cache)) if self.cache else ("cf-aig-skip-cache", "true"))
        return fields


class Api:
    """The way in: where, as whom, and by which gateway."""

    def __init__(self, origin: Origin, account: str, token: Secret, gateway: Gateway | None = None) -> None:
        self._origin = origin
        self._account = account
        self._gateway = gateway
        ours = (
            ("Host", origin.authority),
            ("Authorization", f"Bearer {token.reveal()}"),
            # Compression makes a stream arrive in one lump (cloudflare/workers-sdk#5614).
            ("Accept-Encoding", "identity"),
            ("User-Agent", "cfchat"),
        )
        asking = (("Content-Type", "application/json"), ("Accept", "text/event-stream"))
        self._ours = encode_fields(ours)  # the fields of every request
        self._asking = encode_fields((*ours, *asking))  # and of each that asks a model
        self._key = blake2b(token.reveal().encode()).digest()  # of what nobody else may work out

    @property
    def on_gateway(self) -> bool:
        """Whether the base URL is AI Gateway's own (`https://gateway.ai.cloudflare.com/v1`)."""
        return self._gateway is not None and self._origin.base_path.endswith("/v1")

    def run(self, model: str, body: bytes, affinity: str, request_id: str) -> bytes:
        """The POST that asks the model for a streamed reply; `affinity` is one of ours."""
        base, gateway = self._origin.base_path, self._gateway
        if gateway is not None and self.on_gateway:
            target = f"{base}/{self._account}/{gateway.id}/workers-ai/{model}"
        else:
            target = run_path(base, self._account, model)
        fields = [] if gateway is None else gateway.fields(not self.on_gateway, request_id)
        ours = b"Content-Length: %d\r\nX-Session-Affinity: %b\r\n" % (len(body), affinity.encode("ascii"))
        return encode_request_head("POST", target, fields, self._asking + ours) + body

    def catalogue(self) -> bytes:
        """The GET of the account's list of models, which is free."""
        target = models_path(self._origin.base_path, self._account)
        return encode_request_head("GET", target, [("Accept", "application/json")], self._ours)

    def affinity(self, conversation: Conversation, client: str) -> str:
        """One conversation meets one warm prefix cache, with no state here and no address there."""
        who, begin, first = client.encode(), conversation.messages[0].content.encode(), b""
        for message in conversation.messages:
            if message.role == "user":
                first = message.content.encode()
                break
        whole = b"%d:%b%d:%b%b" % (len(who), who, len(begin), begin, first)
        return blake2b(whole, digest_size=16, key=self._key).hexdigest()


_ACCOUNT_ID = re.compile(r"[0-9a-fA-F]{32}")
_TOKEN = re.compile(r"[!#-&(-~]+")  # visible ASCII without quotes, which are pasted along at times


def is_account_id(text: str) -> bool:
    return _ACCOUNT_ID.fullmatch(text) is not None


def is_token(text: str) -> bool:
    """Whether it could be an API token: a newline or a quote pasted along makes Cloudflare answer 6003."""
    return _TOKEN.fullmatch(text) is not None


def run_path(base_path: str, account: str, model: str) -> str:
    """`@` and slashes of the model's name stay as they are, as in Cloudflare's own examples."""
    return f"{base_path.rstrip('/')}/accounts/{account}/ai/run/{model}"


def models_path(base_path: str, account: str) -> str:
    """The free list of the account's models for text; it is one page, whatever one asks for."""
    return f"{base_path.rstrip('/')}/accounts/{account}/ai/models/search?task=Text%20Generation"
