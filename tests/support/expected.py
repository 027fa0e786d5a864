"""The status and the code that a front end gets for each recorded error."""

from __future__ import annotations

from typing import Any

# Of the errors for which status_and_code knows no rule.
_EXPECTED = {
    "400_3030_sequence_too_long": (400, "context_length_exceeded"),
    "413_3006_too_large": (400, "context_length_exceeded"),
    "413_5021_context_window": (400, "context_length_exceeded"),
    "403_3023_account_blocked": (502, "upstream_auth"),
    "403_5016_model_agreement": (502, "upstream_refused"),
    "gw_424_2016_prompt_blocked": (400, "content_blocked"),
    "gw_422_2017_blocked": (400, "content_blocked"),
    "408_3007_timeout": (504, "upstream_timeout"),
    "408_3008_aborted": (504, "upstream_timeout"),
    "408_3046_timeout_240s": (504, "upstream_timeout"),
    "524_html": (504, "upstream_timeout"),
    "429_3040_capacity": (503, "upstream_overloaded"),
    "gw_402_2021_wholesale": (429, "upstream_quota"),
    "gw_429_spend_limit": (429, "upstream_quota"),
    "429_3036_daily_allowance": (429, "upstream_quota"),
    "429_4006_daily_allowance": (429, "upstream_quota"),
    "gw_429_2045_spend_limit": (429, "upstream_quota"),
    "429_1015_edge_text": (429, "upstream_rate_limited"),
    "429_3021_per_minute": (429, "upstream_rate_limited"),
    "429_971_api_throttle": (429, "upstream_rate_limited"),
    "gw_429_2003_rate_limited": (429, "upstream_rate_limited"),
    "200_success_false": (502, "upstream_unavailable"),
    "500_3043_internal": (502, "upstream_unavailable"),
    "502_7009_upstream": (502, "upstream_unavailable"),
    "gw_400_2005_provider_failed": (502, "upstream_unavailable"),
    "gw_503_7013_no_scanner": (502, "upstream_unavailable"),
    "502_html": (502, "upstream_unavailable"),
    "503_empty": (502, "upstream_unavailable"),
    "520_text": (502, "upstream_unavailable"),
}


def status_and_code(name: str, recorded: dict[str, Any]) -> tuple[int, str]:
    if recorded.get("user_message") == "The server is not set up correctly.":
        return 502, "upstream_auth"
    return _EXPECTED.get(name, (502, "upstream_model" if recorded.get("fallback") else "upstream_refused"))
