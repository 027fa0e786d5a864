"""How many days a certificate has left, and what plain http is worth."""

from __future__ import annotations

import pytest

from cfchat.cli.check_url.tls import judge_certificate, judge_plain
from cfchat.cli.results import Status

END = 1_893_456_000  # 2030-01-01
DAY = 86_400


@pytest.mark.parametrize(
    ("now", "status", "days"),
    [(END - 14 * DAY, Status.OK, 14), (END - 14 * DAY + 1, Status.WARN, 13), (END - 1, Status.WARN, 0)],
)
def test_a_certificate_that_ends_soon(now: float, status: Status, days: int) -> None:
    result = judge_certificate("TLSv1.3", "Jan  1 00:00:00 2030 GMT", now, 1.0)
    assert result.status is status and f"for {days} more days" in result.detail
    assert bool(result.next) is (status is Status.WARN)


def test_plain_http() -> None:
    assert judge_plain(public=False, has_key=True).status is Status.OK
    public = judge_plain(public=True, has_key=True)
    assert public.status is Status.WARN and "https" in public.next and "is not sent" in public.detail
    assert "CFCHAT_CHECK_KEY" not in judge_plain(public=True, has_key=False).detail
