"""Judge the fields by which browsers decide whether a page may use the server (WHATWG Fetch §3.2). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cfchat.cli.check_url.answers import describe_sender, error_code, excerpt
from cfchat.cli.check_url.call import Answer
from cfchat.cli.results import Result, Status
from cfchat.wire.fields import members

ASKED = ("authorization", "content-type")  # names that a page of cfchat's sends
ALLOW_ORIGIN = "Access-Control-Allow-Origin"


def preflight_fields(origin: str) -> list[tuple[str, str]]:
    """Return what a browser sends before a POST of JSON with a key."""
    return [
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", ",".join(ASKED)),
    ]


def judge_cors(preflight: Answer, simple: Answer, origin: str, own: bool, secrets: Sequence[str]) -> Result:
    """Judge the replies to a preflight and to a simple GET, both as from a page of `origin`.

    `own` says that this is the server's own origin, whose pages need no permission.
    """
    ms = round(preflight.ms + simple.ms, 1)
    about = f"as from {origin}: preflight {preflight.status}, GET {simple.status}"
    for name, answer in (("preflight", preflight), ("GET", simple)):
        if answer.head is None:
            step = "see the logs of the proxy and of cfchat"
            return Result("cors", Status.FAIL, f"{about}; the {name} got no reply: {answer.fault}", step, ms)
        allowed = members(answer.fields, ALLOW_ORIGIN.lower())
        if len(allowed) > 1:
            detail = f"{about}; the {name}'s reply has {len(allowed)} {ALLOW_ORIGIN}, and browsers refuse two"
            step = (
                f"let the proxy add none (nginx: `add_header {ALLOW_ORIGIN}`), because cfchat sends its own: "
                "--allow-origin names the origins"
            )
            return Result("cors", Status.FAIL, detail, step, ms)
    if error_code(simple) == "origin_not_allowed":
        return Result("cors", Status.FAIL, f"{about}: origin_not_allowed", f"give cfchat --allow-origin {origin}", ms)
    faults = [fault for name, answer in (("preflight", preflight), ("GET", simple))
              if (fault := _find_fault(name, answer, origin, secrets))]  # fmt: skip
    faults += _missing(preflight)
    if not faults:
        return Result("cors", Status.OK, f"{about}; allowed {_allowed(simple)}", ms=ms)
    if own and 200 <= preflight.status < 300 and ALLOW_ORIGIN.lower() not in preflight.fields:
        detail = f"{about}; its own pages may ask, those of other origins only if cfchat names them"
        return Result("cors", Status.OK, detail, ms=ms)
    step = f"give cfchat --allow-origin {origin}, and let the proxy pass on OPTIONS and leave CORS to cfchat"
    # Browsers ask no permission for pages of the server's own origin.
    return Result("cors", Status.WARN if own else Status.FAIL, f"{about}; {'; '.join(faults)}", step, ms)


def _allowed(answer: Answer) -> str:
    return "for every origin" if answer.fields.get(ALLOW_ORIGIN.lower()) == "*" else "for this origin"


def _find_fault(name: str, answer: Answer, origin: str, secrets: Sequence[str]) -> str:
    """Return why a browser would not let a page use this reply; empty if it would."""
    allowed = answer.fields.get(ALLOW_ORIGIN.lower())
    if name == "preflight" and not 200 <= answer.status < 300:
        return f"the preflight was refused: {describe_sender(answer, secrets)}"
    if allowed is None:
        return f"the {name}'s reply has no {ALLOW_ORIGIN}"
    if allowed not in ("*", origin):
        return f"the {name}'s reply allows only {excerpt(allowed, secrets)}"
    return ""


def _missing(preflight: Answer) -> list[str]:
    """Return a fault if the preflight's reply does not allow all the fields that a page sends."""
    echoed = {name.lower() for name in members(preflight.fields, "access-control-allow-headers")}
    # `*` does not cover Authorization (WHATWG Fetch §4.9).
    missing = [name for name in ASKED if name not in echoed and ("*" not in echoed or name == "authorization")]
    return [f"the preflight's reply does not allow {', '.join(missing)}"] if missing else []
