"""API keys and the file that lists them."""

from __future__ import annotations

import pytest
from guard_inputs import KEY, OTHER

from cfchat.errors import Unauthorized
from cfchat.guard.keys import parse_keys


def test_a_key_has_a_label() -> None:
    keys = parse_keys(f"# mine\n\nlaptop {KEY}\nphone\t{OTHER}  # hers\n")
    assert len(keys) == 2
    assert keys.find_label(f"Bearer {KEY}") == "laptop"
    assert keys.find_label(f"bearer  {OTHER}") == keys.find_label(f"BEARER {OTHER}") == "phone"


@pytest.mark.parametrize(
    "sent", [None, "", "Bearer", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Bearer {KEY} x"]
)
def test_a_wrong_key_is_refused(sent: str | None) -> None:
    with pytest.raises(Unauthorized) as caught:
        parse_keys(f"laptop {KEY}").find_label(sent)
    assert (caught.value.status, caught.value.type) == (401, "authentication_error")
    assert dict(caught.value.fields) == {"WWW-Authenticate": "Bearer"}
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        ("# nothing", "holds no key"),
        (KEY, "line 1 is not"),
        (f"a {KEY}\nb short", "line 2 is not"),
        (f"a b {KEY}", "line 1 is not"),
        (f"a {KEY}\na {OTHER}", "line 2 has"),
        (f"a {KEY}\nb {KEY}", "line 2 has"),
    ],
)
def test_a_malformed_file_of_keys_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_keys(text)
    assert KEY not in str(caught.value)


def test_only_hashes_are_kept() -> None:
    keys = parse_keys(f"laptop {KEY}")
    assert KEY not in repr(vars(keys)) and KEY.encode() not in keys._hashes
