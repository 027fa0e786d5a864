"""Requests of an account: ids, tokens, paths."""

from __future__ import annotations

from cfchat.upstream.cloudflare.account import is_account_id, is_token, run_path


def test_account_ids_and_tokens() -> None:
    assert is_account_id("0123456789abcdefABCDEF0123456789")
    assert not any(
        map(is_account_id, ("", "0" * 31, "0" * 33, "g" * 32, "0" * 32 + "\n", "٠" * 32))
    )
    assert is_token("aB-_9~!")
    assert not any(map(is_token, ("", "a b", "a\n", '"a"', "'a'", "ä", "\x7f")))


def test_the_path_has_the_model_as_it_is() -> None:
    path = "/client/v4/accounts/0a/ai/run/@cf/meta/m"
    assert run_path("/client/v4", "0a", "@cf/meta/m") == run_path("/client/v4/", "0a", "@cf/meta/m") == path
