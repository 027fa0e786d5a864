"""URLs that `check --url` takes, and those that it refuses without repeating them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.cli.check_url.address import follow, is_public, parse_url
from cfchat.errors import ConfigError
from cfchat.upstream.origin import Origin
from cfchat.wire.writer import encode_request_head


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://chat.example.com", "https://chat.example.com"),
        ("HTTPS://Chat.Example.com:443/", "https://chat.example.com"),
        ("http://chat.example.com:8080/a/b//", "http://chat.example.com:8080/a/b"),
        ("https://[2001:DB8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
        ("https://b\u00fccher.example/caf\u00e9", "https://xn--bcher-kva.example/caf%C3%A9"),
        ("https://my_host.local./a%20b", "https://my_host.local./a%20b"),
        ("http://127.0.0.1", "http://127.0.0.1"),
    ],
)
def test_a_url(text: str, url: str) -> None:
    assert parse_url(text).url == url


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "chat.example.com",
            "ftp://x/",
            "https://",
            "https:///x",
            "https://a b/",
            "https://a\n/",
            "https://a/\x1b",
        ),
        *("https://u:hush@x/", "https://hush@x/", "https://x/?hush", "https://x/#hush", "https://x/?", "https://x:0/"),
        *("https://x:99999/", "https://x:-1/", "https://x:y/", "https://[::1/", "https://[fe80::1%25eth0]/"),
        *("https://a..b/", "https://" + "a" * 64 + ".b/", 'https://a"b/', "https://a$b/", "https://[1.2.3.4]/"),
    ],
)
def test_what_is_no_url_of_a_server(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(text)
    assert "hush" not in str(caught.value) and "--url" in str(caught.value)


@given(st.text(max_size=40).map("https://".__add__) | st.text())
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        origin = parse_url(text)
    except ConfigError as error:
        assert str(error).isprintable()
    else:
        assert origin.url.isascii() and origin.url.isprintable() and parse_url(origin.url) == origin
        assert encode_request_head("GET", f"{origin.base_path}/x", [("Host", origin.authority)])


@given(st.text() | st.text(alphabet="/:?#%.@[]\\ ab\n\u00fc", max_size=12))
def test_any_location_leads_to_a_server_or_nowhere(location: str) -> None:
    try:
        origin, target = follow("https://a.example/api/pulse", location)
    except ConfigError:
        return
    assert encode_request_head("GET", target, [("Host", origin.authority)])


@pytest.mark.parametrize(
    ("location", "origin", "target"),
    [
        ("/b/api/pulse", Origin("a.example", 443, True, ""), "/b/api/pulse"),
        ("//b.example/x?y=1", Origin("b.example", 443, True, ""), "/x?y=1"),
        ("http://b.example:8080", Origin("b.example", 8080, False, ""), "/"),
    ],
)
def test_where_a_redirect_leads(location: str, origin: Origin, target: str) -> None:
    assert follow("https://a.example/x/api/pulse", location) == (origin, target)


@pytest.mark.parametrize(
    ("host", "addresses", "public"),
    [
        ("chat.example.com", (), True),
        ("chat.example.com", ("10.0.0.1",), False),
        ("chat.example.com", ("10.0.0.1", "1.1.1.1"), True),
        ("chat.local.", (), False),
        ("localhost", (), False),
        ("intranet", (), False),
        ("8.8.8.8", (), True),
        ("192.168.1.1", (), False),
        ("::1", ("::1",), False),
        ("x", ("fe80::1%eth0",), False),
    ],
)
def test_who_can_reach_a_host(host: str, addresses: tuple[str, ...], public: bool) -> None:
    assert is_public(host, addresses) is public
