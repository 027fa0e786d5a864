"""Cloudflare's errors: every recorded one, and bodies that were never recorded."""

from __future__ import annotations

import json
import re

import pytest
from expected import status_and_code
from hypothesis import given
from hypothesis import strategies as st
from recorded import ERRORS, REPLIES, load

from cfchat.upstream.cloudflare.faults import error_in_event, error_in_reply, read_error

# Faults of one model, which another need not share.
ELSEWHERE = {
    "200_success_false",
    "400_5007_no_such_model",
    "403_5016_model_agreement",
    "403_5018_model_not_allowed",
    "403_5035_needs_paid_plan",
    "404_3042_invalid_model",
    "408_3007_timeout",
    "408_3008_aborted",
    "410_5028_model_deprecated",
    "429_3021_per_minute",
    "429_3040_capacity",
    "500_3043_internal",
    "524_html",
    "gw_400_2005_provider_failed",
}
WAITS = {"429_971_api_throttle": 30.0, "429_3021_per_minute": 10.0, "429_1015_edge_text": 60.0}


@pytest.mark.parametrize("name", [name for name in ERRORS if not load("errors", name).get("empty")])
def test_recorded_errors(name: str) -> None:
    recorded = load("errors", name)
    error = read_error(recorded["status"], recorded["headers"], recorded["body"].encode())
    assert (error.status, error.code) == status_and_code(name, recorded)
    assert error.retryable is recorded["retryable"]
    assert error.message == recorded["user_message"] or not recorded["user_message"]
    assert error.elsewhere or not recorded.get("fallback")
    assert error.elsewhere is (name in ELSEWHERE)
    assert error.retry_after == WAITS.get(name)
    assert (error.origin_status, error.origin_code) == (recorded["status"], recorded["code"])


@pytest.mark.parametrize("name", [name for name in ERRORS if not load("errors", name).get("empty")])
def test_ids_and_names_are_for_the_log_only(name: str) -> None:
    recorded = load("errors", name)
    error = read_error(recorded["status"], recorded["headers"], recorded["body"].encode())
    assert not re.search(r"[0-9a-f]{8}|@cf|://|dash|[Cc]loudflare|account|token", error.message)
    assert f"status {recorded['status']}" in error.detail
    assert recorded["headers"].get("cf-ray", "cf-ray none") in error.detail
    assert f"code {recorded['code'] or 'none'}" in error.detail
    assert error.detail.isprintable()
    assert len(error.detail) < 500


@pytest.mark.parametrize("message", ["Internal Server Error", "flagged content"])
def test_code_3030_is_about_length_only_where_it_says_so(message: str) -> None:
    body = json.dumps({"errors": [{"code": 3030, "message": message}]}).encode()
    assert read_error(400, {}, body).code == "upstream_refused"


@pytest.mark.parametrize(
    ("status", "code", "message", "expected"),
    [
        (402, 2021, "Invalid User Credentials", "upstream_auth"),
        (402, 2021, "Authentication failed", "upstream_auth"),
        (402, 2021, "Insufficient credits", "upstream_quota"),
        (402, 2021, "", "upstream_quota"),
        (200, 2021, "Invalid User Credentials", "upstream_auth"),
        (402, None, "Payment required", "upstream_quota"),
        (422, 2017, "Response blocked", "content_blocked"),
        (424, 2017, "Response blocked", "upstream_refused"),
        (424, 2016, "Prompt blocked", "content_blocked"),
        (429, None, "Spend limit reached", "upstream_quota"),
        (429, None, "Monthly budget exceeded", "upstream_quota"),
        (429, 99, "You have spent all of it", "upstream_quota"),
        (429, "spend_limit_exceeded", "Limit exceeded", "upstream_quota"),
        (429, None, "Bespending", "upstream_rate_limited"),
        (429, None, "Too many requests", "upstream_rate_limited"),
        (429, 2003, "Rate limited, budget your requests", "upstream_rate_limited"),
        (400, None, "budget is no field", "upstream_refused"),
    ],
)
def test_words_and_status_tell_what_a_code_leaves_open(
    status: int, code: int | str | None, message: str, expected: str
) -> None:
    error = read_error(status, {}, json.dumps({"error": [{"code": code, "message": message}]}).encode())
    assert error.code == expected
    assert not error.elsewhere
    assert error.retryable is (expected == "upstream_rate_limited")


@pytest.mark.parametrize("status", [200, 400, 424, 500, 502])
@pytest.mark.parametrize(("code", "elsewhere"), [(2005, True), (7009, False), (7013, False)])
def test_a_passing_fault_is_one_under_any_status(status: int, code: int, elsewhere: bool) -> None:
    error = read_error(status, {}, json.dumps({"error": {"code": code, "message": "?"}}).encode())
    assert (error.code, error.retryable, error.elsewhere) == ("upstream_unavailable", True, elsewhere)


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (301, "upstream_refused", False),
        (400, "upstream_refused", False),
        (401, "upstream_auth", False),
        (404, "upstream_refused", False),
        (408, "upstream_timeout", True),
        (410, "upstream_model", False),
        (413, "context_length_exceeded", False),
        (425, "upstream_unavailable", True),
        (429, "upstream_rate_limited", True),
        (500, "upstream_unavailable", True),
        (530, "upstream_unavailable", True),
        (504, "upstream_timeout", True),
    ],
)
def test_a_status_without_a_code(status: int, code: str, retryable: bool) -> None:
    error = read_error(status, {}, b"")
    assert (error.code, error.retryable) == (code, retryable)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 7.0),
        ("Sun, 06 Nov 1994 08:49:00 GMT", 0.0),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 0000 08:49:37 GMT", None),
        ("Sun, 06 Abc 1994 08:49:37 GMT", None),
        *((value, None) for value in ("", "-1", "+5", "1.5", "1_0", " 5", "5\n", "²", "soon", "9" * 5000)),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert read_error(429, {"retry-after": value}, b"", now=784111770.0).retry_after == seconds


def test_a_retry_after_date_needs_a_clock() -> None:
    assert read_error(429, {"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, b"").retry_after is None


def test_the_day_that_is_used_up_ends_at_midnight() -> None:
    body = load("errors", "429_4006_daily_allowance")["body"].encode()
    assert read_error(429, {}, body, now=784111770.0).retry_after == 86400 - (8 * 3600 + 49 * 60 + 30)
    assert read_error(429, {"retry-after": "7"}, body, now=784111770.0).retry_after == 7
    spent = load("errors", "gw_429_2045_spend_limit")["body"].encode()
    assert read_error(429, {}, spent, now=784111770.0).retry_after is None


def test_a_wait_of_two_minutes_is_not_spent_three_times() -> None:
    assert read_error(524, {}, b"").most_tries == 2
    assert read_error(504, {}, b"").most_tries is None


@pytest.mark.parametrize(
    "body",
    [
        {"name": "AiGatewayError", "httpCode": 401, "internalCode": 2009, "message": "Unauthorized"},
        {"success": False, "error": [{"code": None, "internalCode": "2009", "message": "Unauthorized"}]},
        {"success": False, "errors": [], "error": [{"code": "2009", "message": "Unauthorized"}]},
        {"errors": {"code": 2009, "message": "Unauthorized"}, "success": False},
        {"errors": {"code": 401, "internalCode": 2009, "message": "Unauthorized"}},
        {"errors": [{"code": 7, "message": "?"}, {"code": 2009, "message": "Unauthorized"}]},
        {"error": {"code": 2009, "message": "Unauthorized"}},
    ],
)
def test_the_shapes_of_an_error(body: dict[str, object]) -> None:
    error = read_error(401, {}, json.dumps(body).encode())
    assert (error.code, error.origin_code) == ("upstream_auth", 2009)
    assert (error.detail, error.origin_text) == ("status 401, code 2009, cf-ray none", "Unauthorized")
    inside = error_in_reply(body)
    assert inside is not None
    assert (inside.code, inside.origin_code, inside.origin_status) == ("upstream_auth", 2009, 200)


def test_the_log_has_both_ids_and_the_text_is_the_whole_chain() -> None:
    body = {"errors": [{"code": 6003, "message": "Bad", "error_chain": [{"code": 6111, "message": "Format"}, 1]}]}
    error = read_error(400, {"cf-ray": "8f-IAD", "cf-ai-req-id": "77"}, json.dumps(body).encode())
    assert error.detail == "status 400, code 6003, cf-ray 8f-IAD, cf-ai-req-id 77"
    assert error.origin_text == "Bad: Format"


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        (5006, "5006"),
        ("5006", "5006"),
        ("invalid_prompt", "invalid_prompt"),
        (1234567, "none"),
        (-1, "none"),
        (1.5, "none"),
        ("password", "none"),
        ("my_token" * 6, "none"),
        ("a_b\n", "none"),
        ("Bearer x", "none"),
    ],
)
def test_only_what_looks_like_a_code_is_one(code: object, shown: str) -> None:
    body = json.dumps({"errors": [{"code": code, "message": "no"}]}).encode()
    assert read_error(400, {}, body).detail == f"status 400, code {shown}, cf-ray none"


@pytest.mark.parametrize("ray", ["Bearer abc", "0123456789abcdef" * 2, "8f-IAD\n", "8f-iad", "x" * 1000, "my-token"])
def test_only_what_looks_like_a_ray_is_one(ray: str) -> None:
    fields = {"cf-ray": ray, "cf-ai-req-id": ray}
    assert read_error(502, fields, b"").detail == "status 502, code none, cf-ray malformed, cf-ai-req-id malformed"


@given(st.text(max_size=40) | st.from_regex("Bearer [a-z_0-9-]{8,20}"))
def test_no_text_of_a_reply_is_in_what_is_logged(text: str) -> None:
    said = json.dumps({"errors": [{"code": text, "message": text, "error_chain": [{"message": text}]}]})
    allowed = {read_error(400, {}, said.encode()).detail, error_in_event(said).detail, error_in_event(text).detail}
    codes = "none" if read_error(400, {}, said.encode()).origin_code is None else text
    assert allowed <= {
        f"status 400, code {codes}, cf-ray none",
        f"status 200, code {codes}, inside a reply",
        "status 200, code none, inside a reply",
    }


@given(st.binary(max_size=60) | REPLIES.map(lambda reply: json.dumps(reply).encode()), st.integers(100, 999))
def test_any_body_is_an_upstream_error(body: bytes, status: int) -> None:
    fields = {"cf-ray": "x\x1b\udc80", "retry-after": body.decode("latin-1")}
    assert read_error(status, fields, body).detail.isprintable()
    assert error_in_event(body.decode("latin-1")).detail.isprintable()
