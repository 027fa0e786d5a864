"""The one error tree. Every error knows the HTTP status, type and code that a front end is told."""

from __future__ import annotations

from collections.abc import Sequence


class CfchatError(Exception):
    """Base of all errors of cfchat.

    `message` is for the client and holds no secret; `detail` is for the operator's log only.
    `retry_after` is in seconds. `fields` are extra fields of the error reply (`Allow`, for one).
    """

    status = 500
    type = "server_error"
    code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        detail: str = "",
        param: str | None = None,
        retry_after: float | None = None,
        fields: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.param = param
        self.retry_after = retry_after
        self.fields = tuple(fields)

    def __str__(self) -> str:
        return f"{self.message} ({self.detail})" if self.detail else self.message


class ConfigError(CfchatError):
    """Settings that cannot work; the message names every one of them."""

    code = "invalid_config"


# --- what a peer's bytes can be wrong in (raised by cfchat.wire) ---------------------------------


class ProtocolError(CfchatError):
    """The bytes are not what the RFC allows. Framing is in doubt: the connection ends."""

    status = 400
    type = "invalid_request_error"
    code = "bad_request"


class TargetTooLong(ProtocolError):
    """RFC 9110 §15.5.15."""

    status = 414
    code = "target_too_long"


class HeadTooLarge(ProtocolError):
    """RFC 6585 §5: the fields, one of them or all together, or their number."""

    status = 431
    code = "head_too_large"


class BodyTooLarge(ProtocolError):
    """RFC 9110 §15.5.14."""

    status = 413
    code = "body_too_large"


class UnknownCoding(ProtocolError):
    """RFC 9112 §6.1: a transfer coding that is known, but not spoken here."""

    status = 501
    code = "not_implemented"


class UnsupportedVersion(ProtocolError):
    """RFC 9110 §15.6.6."""

    status = 505
    code = "http_version_not_supported"


class Incomplete(ProtocolError):
    """The peer ended the connection inside a message."""

    code = "incomplete_message"


class EventTooLarge(ProtocolError):
    """A line or an event of an event stream is over its limit."""

    code = "event_too_large"


# --- what a client can ask wrongly ---------------------------------------------------------------


class RequestError(CfchatError):
    """A well-formed HTTP request that cannot be served."""

    status = 400
    type = "invalid_request_error"
    code = "bad_request"


class NotFound(RequestError):
    status = 404
    code = "not_found"


class MethodNotAllowed(RequestError):
    status = 405
    code = "method_not_allowed"


class UnknownMethod(RequestError):
    status = 501
    code = "not_implemented"


class LengthRequired(RequestError):
    status = 411
    code = "length_required"


class UnsupportedMediaType(RequestError):
    status = 415
    code = "unsupported_media_type"


class ExpectationFailed(RequestError):
    status = 417
    code = "expectation_failed"


class RequestTimeout(RequestError):
    status = 408
    code = "request_timeout"


class BadChatRequest(RequestError):
    """The body is not a conversation; `param` names the place, such as `messages[2].role`."""

    code = "invalid_messages"


class InvalidJSON(BadChatRequest):
    code = "invalid_json"


class BadOption(BadChatRequest):
    """An option such as `temperature` is no number, out of its range, or over the operator's cap."""

    code = "invalid_option"


class UnknownModel(BadOption):
    """The client names a model that this server does not offer."""


class ModelNotFound(RequestError):
    """The same in OpenAI's API, whose clients tell it by this status and code."""

    status = 404
    code = "model_not_found"


class NotAcceptable(RequestError):
    """RFC 9110 §15.5.7: the client takes none of the forms that a reply can have."""

    status = 406
    code = "not_acceptable"


class Unauthorized(RequestError):
    """RFC 9110 §15.5.2: no key where one is wanted, or one that opens nothing."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def __init__(self, message: str) -> None:
        super().__init__(message, fields=[("WWW-Authenticate", "Bearer")])


class OriginNotAllowed(RequestError):
    """A page of an origin that the operator did not name."""

    status = 403
    code = "origin_not_allowed"


class RateLimited(RequestError):
    """RFC 6585 §4: this client asks more often than this server allows."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limited"


class BudgetSpent(RateLimited):
    """The tokens of this day, this client's or all clients', are used up."""

    code = "daily_tokens_spent"


class Overloaded(CfchatError):
    """Too many connections or streams at once, or draining."""

    status = 503
    type = "overloaded_error"
    code = "overloaded"


# --- what can go wrong on the way to Cloudflare --------------------------------------------------


class UpstreamError(CfchatError):
    """Cloudflare, or the way to it, failed.

    `retryable` says whether the same request may pass when it is sent again, `elsewhere` whether another
    model may not share the fault.
    """

    status = 502
    type = "upstream_error"
    code = "upstream_error"
    retryable = True
    elsewhere = False
    most_tries: int | None = None  # no more requests than this are worth it, whatever the policy allows
    tries = 0  # how many requests this reply has cost; set by upstream.client, as is `model`, asked last
    model = ""
    origin_status: int | None = None  # the HTTP status that Cloudflare answered with
    origin_code: int | str | None = None  # the code in Cloudflare's body


class UpstreamConnectError(UpstreamError):
    """No TLS connection: name, route, refusal, certificate."""

    code = "upstream_connect"


class UpstreamProtocolError(UpstreamError):
    """What came back is not HTTP, or not what this API sends."""

    code = "upstream_protocol"


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"


class UpstreamInterrupted(UpstreamError):
    """The reply ended before its end. After the first delta nothing can be tried again."""

    code = "upstream_interrupted"


class UpstreamEmpty(UpstreamError):
    """A complete reply with no text in it. It was paid for, and would be again."""

    code = "upstream_empty"
    retryable = False


class UpstreamUnavailable(UpstreamError):
    """5xx of Cloudflare, or a fault inside it that may pass."""

    code = "upstream_unavailable"


class UpstreamRefused(UpstreamError):
    """Cloudflare refused the request as such: sending it again cannot help."""

    code = "upstream_refused"
    retryable = False


class UpstreamAuthError(UpstreamError):
    """Cloudflare refused our token or account. Which and why is the operator's business."""

    code = "upstream_auth"
    retryable = False


class UpstreamModelGone(UpstreamRefused):
    """The model does not exist, was removed, or is not for this account."""

    code = "upstream_model"
    elsewhere = True


class ContextLengthExceeded(UpstreamError):
    status = 400
    type = "invalid_request_error"
    code = "context_length_exceeded"
    retryable = False


class ContentBlocked(UpstreamError):
    """AI Gateway's guardrails blocked what the user wrote."""

    status = 400
    type = "invalid_request_error"
    code = "content_blocked"
    retryable = False


class UpstreamRateLimited(UpstreamError):
    status = 429
    type = "rate_limit_error"
    code = "upstream_rate_limited"


class UpstreamQuota(UpstreamRateLimited):
    """The day's allowance or a budget is used up: no use in trying again."""

    code = "upstream_quota"
    retryable = False


class UpstreamOverloaded(UpstreamError):
    status = 503
    type = "overloaded_error"
    code = "upstream_overloaded"
