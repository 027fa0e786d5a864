"""Which replies a browser would let a page use."""

from __future__ import annotations

import pytest

from cfchat.cli.check_url.call import Answer
from cfchat.cli.check_url.cors import judge_cors
from cfchat.cli.results import Status
from cfchat.wire.fields import Fields
from cfchat.wire.messages import ResponseHead

PAGE = "https://a.example"
ORIGIN = "Access-Control-Allow-Origin"
ALL = (ORIGIN, "*")
NAMES = ("Access-Control-Allow-Headers", "authorization,content-type")


def answer(status: int, *fields: tuple[str, str]) -> Answer:
    made = Answer()
    made.head = ResponseHead(status, "", 1, Fields(fields)) if status else None
    return made


@pytest.mark.parametrize(
    ("preflight", "simple", "own", "status", "words"),
    [
        (answer(204, ALL, NAMES), answer(200, ALL), False, Status.OK, "for every origin"),
        (answer(200, (ORIGIN, PAGE), NAMES), answer(401, (ORIGIN, PAGE)), False, Status.OK, "for this origin"),
        (answer(405, ALL, NAMES), answer(200, ALL), False, Status.FAIL, "preflight was refused"),
        (answer(405, ALL, NAMES), answer(200, ALL), True, Status.WARN, "preflight was refused"),
        (answer(302, ALL, NAMES), answer(200, ALL), False, Status.FAIL, "preflight 302"),
        (answer(204, ALL), answer(200, ALL), False, Status.FAIL, "does not allow authorization, content-type"),
        (answer(204, ALL, (NAMES[0], "*")), answer(200, ALL), False, Status.FAIL, "does not allow authorization"),
        (answer(204, ALL, NAMES), answer(200), False, Status.FAIL, f"the GET's reply has no {ORIGIN}"),
        (answer(204, NAMES), answer(200), False, Status.FAIL, f"has no {ORIGIN}"),
        (answer(204, NAMES), answer(200), True, Status.OK, "its own pages may ask"),
        (answer(204, (ORIGIN, "https://b.example"), NAMES), answer(200, ALL), False, Status.FAIL, "allows only"),
        (answer(204, ALL, NAMES), answer(200, ALL, ALL), True, Status.FAIL, "GET's reply has 2"),
        (
            answer(204, (ORIGIN, f"{PAGE}, {PAGE}"), NAMES),
            answer(200, ALL),
            True,
            Status.FAIL,
            "preflight's reply has 2",
        ),
        (answer(0), answer(200, ALL), True, Status.FAIL, "the preflight got no reply"),
    ],
)
def test_a_page(preflight: Answer, simple: Answer, own: bool, status: Status, words: str) -> None:
    result = judge_cors(preflight, simple, PAGE, own, [])
    assert (result.status, words in result.detail) == (status, True), result
    assert bool(result.next) is (status is not Status.OK)
