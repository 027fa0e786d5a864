"""The one error tree: every error knows the HTTP status, type and code that the client gets.

An error is raised where its fact is known and becomes a reply in one place, in `app`. The client reads `message`,
`type`, `code` and `param`; only the operator's log has `detail`. The groups below name the party that must change
something: the peer whose bytes are wrong, the client that asks, or Cloudflare.
"""

from __future__ import annotations

from collections.abc import Sequence

DAY = 86_400.0  # seconds; a day's budgets, ours and Cloudflare's, begin at 00:00 UTC


class CfchatError(Exception):
    """The base of all errors of cfchat.

    `message` is for the client and holds no secret. `words` is the message of an error that is raised without one.
    `detail` is for the operator's log only. `param` names the place in the request. `retry_after` is in seconds.
    `fields` are extra header fields of the error reply, such as `Allow`.

    >>> import cfchat
    >>> class Forbidden(cfchat.CfchatError):
    ...     status, type, code = 403, "authentication_error", "forbidden"
    >>> str(Forbidden("Log in first.", detail="no cookie"))
    'Log in first. (no cookie)'
    """

    status = 500
    type = "server_error"
    code = "internal_error"
    words = "Something went wrong in this server."

    def __init__(
        self,
        message: str = "",
        *,
        detail: str = "",
        param: str | None = None,
        retry_after: float | None = None,
        fields: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.message = message or self.words
        super().__init__(self.message)
        self.detail = detail
        self.param = param
        self.retry_after = retry_after
        self.fields = tuple(fields)

    def __str__(self) -> str:
        return f"{self.message} ({self.detail})" if self.detail else self.message


class ConfigError(CfchatError):
    """Settings that cannot work; the message names every setting that is wrong.

    >>> import cfchat
    >>> try:
    ...     cfchat.load_config(demo=True, port="many")
    ... except cfchat.ConfigError as error:
    ...     print(error)
    port ...
    """

    code = "invalid_config"


# --- the peer's bytes are wrong (raised by cfchat.wire) ------------------------------------------


class ProtocolError(CfchatError):
    """Bytes that the RFC does not allow. The framing is in doubt, so the connection ends."""

    status, type, code = 400, "invalid_request_error", "bad_request"


class TargetTooLong(ProtocolError):
    """A request line or status line over its limit (RFC 9110 §15.5.15)."""

    status, code = 414, "target_too_long"


class HeadTooLarge(ProtocolError):
    """Header fields that are too long, one of them or all together, or too many (RFC 6585 §5)."""

    status, code = 431, "head_too_large"


class BodyTooLarge(ProtocolError):
    """A body over its limit (RFC 9110 §15.5.14)."""

    status, code = 413, "body_too_large"


class UnknownCoding(ProtocolError):
    """A transfer coding that is well formed and is not `chunked` (RFC 9112 §6.1)."""

    status, code = 501, "not_implemented"


class UnsupportedVersion(ProtocolError):
    """A version of HTTP other than 1.x (RFC 9110 §15.6.6)."""

    status, code = 505, "http_version_not_supported"


class Incomplete(ProtocolError):
    """The peer ended the connection inside a message."""

    code = "incomplete_message"


class EventTooLarge(ProtocolError):
    """A line or an event of an event stream is over its limit."""

    code = "event_too_large"


# --- the client asks wrongly ---------------------------------------------------------------------


class RequestError(CfchatError):
    """A well-formed HTTP request that cannot be served."""

    status, type, code = 400, "invalid_request_error", "bad_request"


class NotFound(RequestError):
    """A path that this server does not have (RFC 9110 §15.5.5)."""

    status, code = 404, "not_found"
    words = "There is nothing at this path. The chat is at POST /api/chatbot."


class MethodNotAllowed(RequestError):
    """A method that this path does not take; `Allow` in `fields` lists the others (RFC 9110 §15.5.6)."""

    status, code = 405, "method_not_allowed"


class UnknownMethod(RequestError):
    """A method that no path of this server takes (RFC 9110 §15.6.2)."""

    status, code = 501, "not_implemented"


class LengthRequired(RequestError):
    """A request without a body on a path that needs one (RFC 9110 §15.5.12)."""

    status, code = 411, "length_required"


class UnsupportedMediaType(RequestError):
    """A body that is compressed, or labelled as an HTML form (RFC 9110 §15.5.16)."""

    status, code = 415, "unsupported_media_type"


class ExpectationFailed(RequestError):
    """An `Expect` other than `100-continue` (RFC 9110 §15.5.18)."""

    status, code = 417, "expectation_failed"


class RequestTimeout(RequestError):
    """A client that is too slow in sending its request (RFC 9110 §15.5.9)."""

    status, code = 408, "request_timeout"


class BadChatRequest(RequestError):
    """A body that is not a conversation; `param` names the place, such as `messages[2].role`."""

    code = "invalid_messages"


class InvalidJSON(BadChatRequest):
    """A body that is not JSON in UTF-8 (RFC 8259)."""

    code = "invalid_json"


class InvalidImage(BadChatRequest):
    """An image that is no `data:` URL, is wrong or too large, or that this server does not take."""

    code = "invalid_image"


class BadOption(BadChatRequest):
    """An option such as `temperature` that is not a number, is out of its range, or is over the operator's cap."""

    code = "invalid_option"


class UnknownModel(BadOption):
    """A model that this server does not offer."""


class UnsupportedState(BadChatRequest):
    """A request that refers to what an earlier one left behind: this server keeps neither replies nor prompts."""

    code = "unsupported_state"


class ResponseNotFound(RequestError):
    """A reply of an earlier request, which is not kept."""

    status, code = 404, "response_not_found"
    words = "This server does not keep this response."


class ModelNotFound(RequestError):
    """A model that this server does not offer, as clients of OpenAI expect that error: status and code differ."""

    status, code = 404, "model_not_found"


class NotAcceptable(RequestError):
    """An `Accept` field that takes none of the forms of a reply (RFC 9110 §15.5.7)."""

    status, code = 406, "not_acceptable"


class Unauthorized(RequestError):
    """A request without the API key that this server wants, or with an unknown key (RFC 9110 §15.5.2)."""

    status, type, code = 401, "authentication_error", "invalid_api_key"

    def __init__(self, message: str) -> None:
        super().__init__(message, fields=[("WWW-Authenticate", "Bearer")])


class OriginNotAllowed(RequestError):
    """A request from a page of an origin that the operator did not name."""

    status, code = 403, "origin_not_allowed"


class RateLimited(RequestError):
    """A client that asks more often than this server allows (RFC 6585 §4)."""

    status, type, code = 429, "rate_limit_error", "rate_limited"


class BudgetSpent(RateLimited):
    """The day's tokens are used up, or too few are left: of this client's budget, or of that of all clients."""

    code = "daily_tokens_spent"


class TooManyReaders(RateLimited):
    """A kept reply that as many clients read as may."""

    code = "too_many_readers"


class BadIdempotencyKey(RequestError):
    """An `Idempotency-Key` that is too short, too long or has other characters than visible ASCII."""

    code = "invalid_idempotency_key"


class IdempotencyKeyReused(RequestError):
    """An `Idempotency-Key` that another question has had (draft-ietf-httpapi-idempotency-key-header-07 §2.7)."""

    status, code = 422, "idempotency_key_reused"


class Stopped(RequestError):
    """A reply that its user has stopped. OpenAI's SDKs would try again after a 409."""

    status, code = 409, "stopped"
    words = "This reply was stopped."

    def __init__(self) -> None:
        super().__init__(fields=[("x-should-retry", "false")])


class Overloaded(CfchatError):
    """Too many connections or streams at once, or a server that is shutting down."""

    status, type, code = 503, "overloaded_error", "overloaded"


# --- Cloudflare failed, or the way to it ---------------------------------------------------------


class UpstreamError(CfchatError):
    """Cloudflare, or the way to it, failed.

    `retryable` says whether the same request may succeed if it is sent again. `elsewhere` says whether it may succeed
    with another model.
    """

    status, type, code = 502, "upstream_error", "upstream_error"
    retryable = True
    elsewhere = False
    most_tries: int | None = None  # the limit of requests after this error, if it is below that of the policy
    tries = 0  # how many requests were sent for this reply; upstream.client sets it, and `model` too
    model = ""  # the model that was asked last
    origin_status: int | None = None  # the HTTP status that Cloudflare answered with
    origin_code: int | str | None = None  # the code in Cloudflare's body
    origin_text = ""  # its text, which may repeat the request and its token: for no log, and for no client


class UpstreamConnectError(UpstreamError):
    """No TLS connection: the name, the route, a refusal or the certificate."""

    code = "upstream_connect"
    words = "The model's server could not be reached."


class NoFreeFile(UpstreamError):
    """This process has no file left for a connection to Cloudflare. A reply that ends may leave one."""

    status, type, code = 503, "overloaded_error", "overloaded"
    words = "Too many conversations at once. Please try again in a moment."


class UpstreamProtocolError(UpstreamError):
    """A response that is not HTTP, or not in a shape that Cloudflare's API has."""

    code = "upstream_protocol"
    words = "The model's server sent nonsense."


class UpstreamEndless(UpstreamProtocolError):
    """A reply far longer than was asked for. Another one would cost as much again."""

    retryable = False


class UpstreamTimeout(UpstreamError):
    """Cloudflare, or the way to it, is too slow."""

    status, code = 504, "upstream_timeout"


class UpstreamInterrupted(UpstreamError):
    """A reply that broke off. After its first delta it cannot be tried again."""

    code = "upstream_interrupted"
    words = "The connection to the model was lost."


class UpstreamEmpty(UpstreamError):
    """A complete reply without text. Cloudflare charges for it, and would charge again for another try.

    If the model wrote no token at all, another one is asked: that is `elsewhere`.
    """

    code = "upstream_empty"
    retryable = False
    cut = False  # whether the reply was cut at its max_tokens


class UpstreamUnavailable(UpstreamError):
    """A 5xx of Cloudflare, or a fault inside Cloudflare that may pass."""

    code = "upstream_unavailable"


class UpstreamRefused(UpstreamError):
    """Cloudflare refused the request itself: sending it again cannot help."""

    code = "upstream_refused"
    retryable = False


class UpstreamAuthError(UpstreamError):
    """Cloudflare refused our token or account. The client does not learn which: only the operator can change it."""

    code = "upstream_auth"
    retryable = False


class UpstreamModelGone(UpstreamRefused):
    """A model that does not exist, was removed, or is closed to this account."""

    code = "upstream_model"
    elsewhere = True


class ContextLengthExceeded(UpstreamError):
    """A conversation that is longer than the model's context."""

    status, type, code = 400, "invalid_request_error", "context_length_exceeded"
    retryable = False


class ContentBlocked(UpstreamError):
    """The guardrails of AI Gateway blocked the user's text, or the reply, where Cloudflare does not say which."""

    status, type, code = 400, "invalid_request_error", "content_blocked"
    retryable = False


class UpstreamRateLimited(UpstreamError):
    """Cloudflare gets more requests from this account than it allows."""

    status, type, code = 429, "rate_limit_error", "upstream_rate_limited"


class UpstreamQuota(UpstreamRateLimited):
    """The day's allowance or a budget at Cloudflare is used up, so another try cannot help."""

    code = "upstream_quota"
    retryable = False


class UpstreamOverloaded(UpstreamError):
    """Cloudflare has no capacity left for the model."""

    status, type, code = 503, "overloaded_error", "upstream_overloaded"
