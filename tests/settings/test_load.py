"""Settings from flags, environment and files, and all faults at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfchat.conversation.model import Options
from cfchat.errors import ConfigError
from cfchat.settings.load import load
from cfchat.upstream.cloudflare.models import DEFAULT_MODEL, FALLBACK_MODELS

ACCOUNT = "0123456789abcdef0123456789abcdef"
ENVIRON = {"CLOUDFLARE_ACCOUNT_ID": ACCOUNT, "CLOUDFLARE_API_TOKEN": "abc-DEF_123"}


def faults(flags: dict[str, str | None], environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(flags, environ)
    return caught.value.message.split("\n")


def test_defaults() -> None:
    config = load({}, ENVIRON)
    assert (config.where.host, config.where.port, config.server.drain) == ("127.0.0.1", 8787, 30.0)
    assert config.upstream is not None
    assert (config.upstream.account, config.upstream.token.reveal()) == (ACCOUNT, "abc-DEF_123")
    assert (config.upstream.origin.authority, config.upstream.origin.base_path) == (
        "api.cloudflare.com",
        "/client/v4",
    )


def test_flag_wins_over_environment_and_own_name_over_port() -> None:
    environ = {**ENVIRON, "PORT": "1", "CFCHAT_PORT": "2"}
    assert load({"port": "3"}, environ).where.port == 3
    assert load({}, environ).where.port == 2
    assert load({}, {**ENVIRON, "PORT": "1"}).where.port == 1


def test_secret_and_prompt_from_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    (tmp_path / "prompt").write_text("Be brief.\nBe kind.\n")
    environ = {
        "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
        "CLOUDFLARE_API_TOKEN_FILE": str(tmp_path / "token"),
        "CFCHAT_SYSTEM_PROMPT_FILE": str(tmp_path / "prompt"),
    }
    config = load({}, environ)
    assert config.upstream is not None
    assert config.upstream.token.reveal() == "from-file"
    assert config.app.system_prompt == "Be brief.\nBe kind."


def test_no_repr_shows_the_token() -> None:
    assert "abc-DEF_123" not in repr(load({}, ENVIRON))


def test_all_faults_are_reported_at_once() -> None:
    said = faults(
        {"port": "99999", "model": "../../evil"},
        {"CLOUDFLARE_ACCOUNT_ID": "your-account-id", "CLOUDFLARE_API_TOKEN": 'a"b', "CFCHAT_MAX_TOKENS": "many"},
    )
    for name in ("--port", "--model", "CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_API_TOKEN", "CFCHAT_MAX_TOKENS"):
        assert sum(line.startswith(name) for line in said) == 1
    assert not any('a"b' in line for line in said)


def test_missing_credentials_are_both_named() -> None:
    assert [line.split()[0] for line in faults({}, {})] == ["CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_API_TOKEN"]


@pytest.mark.parametrize("token", ["xy zt", "xy\nzt", "'xyzt'", "\u00fcber", "xy\tzt"])
def test_token_of_impossible_form(token: str) -> None:
    (line,) = faults({}, {**ENVIRON, "CLOUDFLARE_API_TOKEN": token})
    assert "6003" in line and token not in line


@pytest.mark.parametrize("variable", ["CLOUDFLARE_API_TOKEN_FILE", "CFCHAT_SYSTEM_PROMPT_FILE", "SSL_CERT_FILE"])
def test_a_file_that_is_missing(variable: str) -> None:
    environ = {**ENVIRON, variable: "/no/such/file"}
    if variable == "CLOUDFLARE_API_TOKEN_FILE":
        del environ["CLOUDFLARE_API_TOKEN"]
    (line,) = faults({}, environ)
    assert line.startswith(variable) and "/no/such/file" in line


@pytest.mark.parametrize(
    "url",
    ["http://api.example", "ftp://x", "https://", "https://u:p@x/", "https://x:99999/", "https://x/?q", "https://x/ y"],
)
def test_base_url_that_is_refused(url: str) -> None:
    (line,) = faults({"base_url": url}, ENVIRON)
    assert line.startswith("--base-url must")


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://127.0.0.1:9/v4/", "127.0.0.1:9"),
        ("http://[::1]:9", "[::1]:9"),
        ("https://gateway.example:443", "gateway.example"),
    ],
)
def test_base_url_that_is_taken(url: str, authority: str) -> None:
    config = load({"base_url": url}, ENVIRON)
    assert config.upstream is not None
    assert config.upstream.origin.authority == authority


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("log_level", "loud"), ("connect_timeout", "soon"), ("host", " "), ("max_streams", "0"), ("max_body", "1e6")),
        ("images", "17"),
    ],
)
def test_values_that_are_wrong(flag: str, value: str) -> None:
    (line,) = faults({flag: value}, ENVIRON)
    assert line.startswith("--" + flag.replace("_", "-"))


def test_a_body_with_images_may_be_larger() -> None:
    for flags, images, size in (
        ({}, 0, 1 << 20),
        ({"images": "16"}, 16, 8 << 20),
        ({"images": "1", "max_body": "5000"}, 1, 5000),
        ({"max_body": "3000000"}, 0, 3_000_000),
    ):
        config = load({**flags}, ENVIRON)
        assert (config.app.images, config.app.max_body, config.server.read.body) == (images, size, size)


def test_demo_needs_no_account() -> None:
    assert load({}, {}, demo=True).upstream is None


MODEL, OTHER = "@cf/meta/llama-3.2-3b-instruct", "@cf/zai-org/glm-4.7-flash"


@pytest.mark.parametrize(
    ("flags", "chain", "offered"),
    [
        ({}, (DEFAULT_MODEL, *FALLBACK_MODELS), (DEFAULT_MODEL, *FALLBACK_MODELS)),
        ({"fallback_models": "none"}, (DEFAULT_MODEL,), (DEFAULT_MODEL,)),
        ({"model": MODEL}, (MODEL,), (MODEL,)),
        ({"model": MODEL, "fallback_models": f"{OTHER}, {MODEL},{OTHER}"}, (MODEL, OTHER), (MODEL, OTHER)),
        ({"model": MODEL, "models": OTHER}, (MODEL,), (OTHER,)),
        ({"model": MODEL, "models": "none"}, (MODEL,), ()),
    ],
)
def test_models_to_ask_and_models_to_offer(
    flags: dict[str, str | None], chain: tuple[str, ...], offered: tuple[str, ...]
) -> None:
    config = load(flags, ENVIRON)
    assert config.upstream is not None
    assert (config.upstream.models, config.app.models) == (chain, offered)
    assert config.app.model == chain[0]


@pytest.mark.parametrize(
    ("flags", "caps"),
    [
        ({}, {"max_tokens": 4096}),
        ({"max_tokens": "8000"}, {"max_tokens": 8000}),
        ({"caps": "max_tokens=100,temperature=1.5"}, {"max_tokens": 100, "temperature": 1.5}),
        ({"caps": "temperature=1.5", "max_tokens": "9"}, {"max_tokens": 4096, "temperature": 1.5}),
    ],
)
def test_caps(flags: dict[str, str | None], caps: dict[str, float]) -> None:
    assert load(flags, ENVIRON).app.caps == caps


def test_the_options_of_a_reply() -> None:
    flags: dict[str, str | None] = {
        "temperature": "0", "top_p": "0.5", "top_k": "40", "seed": "7",
        "repetition_penalty": "1.1", "frequency_penalty": "-1", "presence_penalty": "2",
    }  # fmt: skip
    config = load(flags, ENVIRON)
    assert config.upstream is not None
    assert config.upstream.defaults == Options(None, None, 0.0, 0.5, 40, 7, 1.1, -1.0, 2.0)


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("temperature", "5.1", "number from 0 to 5"),
        ("top_k", "1.5", "whole number from 1 to 50"),
        ("seed", "0", "whole number from 1"),
        ("top_p", "nan", "number from 0 to 1"),
        ("fallback_models", "a,b", "model name"),
        ("caps", "tokens=1", "the names are max_tokens"),
        ("caps", "max_tokens=lots", "a number behind max_tokens="),
        ("trim", "perhaps", "1 or 0"),
        ("gateway", "my/gateway", "id of an AI Gateway"),
        ("warm", "-1", "whole number"),
        ("model_options", "/no/such/file", "cannot read /no/such/file"),
    ],
)
def test_options_that_are_wrong(flag: str, value: str, words: str) -> None:
    (line,) = faults({flag: value}, ENVIRON)
    assert line.startswith("--" + flag.replace("_", "-")) and words in line


def test_model_options_override_the_built_in_ones(tmp_path: Path) -> None:
    (tmp_path / "o.toml").write_text(f'["{DEFAULT_MODEL}"]\nlora = "x"\n["{MODEL}"]\nstop = ["a"]\n')
    config = load({"model_options": str(tmp_path / "o.toml")}, ENVIRON)
    assert config.upstream is not None
    thinking_off = {"chat_template_kwargs": {"enable_thinking": False}}
    assert config.upstream.fields == {
        DEFAULT_MODEL: {**thinking_off, "lora": "x"},
        OTHER: thinking_off,
        MODEL: {"stop": ["a"]},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lora = 1", "takes a table for each model"),
        ('["@cf/a/b"]\nmessages = []', "cannot set messages"),
        ('["@cf/a/b"]\nx = [2026-01-01]', "cannot send x"),
        ('["@cf/a/b"]\nx = {a = inf}', "cannot send x"),
        ("[", "is not TOML"),
        (f'["@cf/a/b"]\nx{".x" * 2000} = 1', "nested too deeply"),
        ("\udcff", "is not UTF-8"),
    ],
)
def test_model_options_that_cannot_be_sent(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "o.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    (line,) = faults({"model_options": str(path)}, ENVIRON)
    assert line.startswith("--model-options") and words in line


def test_the_gateway_and_its_own_secret(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("gw-token\n")
    flags: dict[str, str | None] = {"gateway": "my-gw", "gateway_cache": "60"}
    config = load(flags, {**ENVIRON, "CF_AIG_TOKEN_FILE": str(tmp_path / "token")})
    assert config.upstream is not None and config.upstream.gateway is not None
    gateway = config.upstream.gateway
    assert (gateway.id, gateway.cache, gateway.token and gateway.token.reveal()) == ("my-gw", 60, "gw-token")
    assert "gw-token" not in repr(config)
    (line,) = faults(flags, {**ENVIRON, "CF_AIG_TOKEN": "g w"})
    assert line.startswith("CF_AIG_TOKEN")


@pytest.mark.parametrize(
    ("url", "gateway", "flags"),
    [
        ("https://gateway.ai.cloudflare.com/v1", "my-gw", []),
        ("https://gateway.ai.cloudflare.com/v1", None, ["--gateway"]),
        ("https://gateway.ai.cloudflare.com/v1/0a/my-gw/workers-ai", None, ["--base-url", "--gateway"]),
    ],
)
def test_the_gateways_own_url(url: str, gateway: str | None, flags: list[str]) -> None:
    try:
        load({"base_url": url, "gateway": gateway}, ENVIRON)
        said = []
    except ConfigError as error:
        said = [line.split()[0] for line in error.message.split("\n")]
    assert said == flags


def test_a_route_needs_a_gateway(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('fallback-models = ["@cf/a/b", "dynamic/y"]\nmodels = "none"\n')
    flags: dict[str, str | list[str] | None] = {"config": str(config), "model": "cloudflare/auto"}
    flags |= {"alias": ["a=@cf/a/b,b=dynamic/z"]}
    what = "is a route of an AI Gateway, which --gateway must name"
    with pytest.raises(ConfigError) as caught:
        load(flags, ENVIRON)
    assert caught.value.message.split("\n") == [
        f"--model cloudflare/auto {what}",
        f"{config}: fallback-models dynamic/y {what}",
        f"--alias dynamic/z {what}",
    ]
    loaded = load({**flags, "gateway": "my-gw"}, ENVIRON)
    assert loaded.upstream is not None
    assert loaded.upstream.models == ("cloudflare/auto", "@cf/a/b", "dynamic/y")
    assert loaded.app.models == ("@cf/a/b", "dynamic/z")
    (line,) = faults({"model": "dynamic/x", "gateway": "my gateway"}, ENVIRON)
    assert line.startswith("--gateway must be")
    assert load({"model": "dynamic/x"}, {}, demo=True).upstream is None


def test_the_proxy_is_for_the_way_out_and_its_password_stays_secret() -> None:
    environ = {**ENVIRON, "HTTPS_PROXY": "http://me:s3cret@proxy.example:3128"}
    config = load({}, environ)
    assert config.upstream is not None and config.upstream.proxy is not None
    assert (config.upstream.proxy.host, config.upstream.proxy.port) == ("proxy.example", 3128)
    assert "s3cret" not in repr(config)
    for flags, more in (({}, {"NO_PROXY": ".cloudflare.com"}), ({"base_url": "http://127.0.0.1:9"}, {})):
        straight = load(flags, {**environ, **more}).upstream
        assert straight is not None and straight.proxy is None
    (line,) = faults({}, {**ENVIRON, "HTTPS_PROXY": "socks5://me:s3cret@proxy.example"})
    assert line.startswith("HTTPS_PROXY") and "s3cret" not in line


def test_settings_of_the_guard(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("laptop 0123456789abcdef\n")
    flags: dict[str, str | list[str] | None] = {
        "allow_origin": ["https://a.example", "https://b.example,http://localhost:3000"],
        "api_keys_file": str(tmp_path / "keys"), "rate_limit": "20/minute", "daily_tokens": "1000",
        "daily_tokens_each": "100", "trusted_proxies": "10.0.0.0/8, ::1", "client_system": "drop",
        "max_queue": "0", "queue_timeout": "0.5", "keep_alive": "620",
    }  # fmt: skip
    config = load(flags, ENVIRON)
    settings = config.guard
    assert settings.origins.allowed == ("https://a.example", "https://b.example", "http://localhost:3000")
    assert settings.keys is not None and settings.keys.find_label("Bearer 0123456789abcdef") == "laptop"
    assert settings.rate is not None and (settings.rate.requests, settings.rate.seconds) == (20, 60)
    assert (settings.daily_tokens, settings.daily_tokens_each) == (1000, 100)
    assert list(map(str, config.trusted_proxies)) == ["10.0.0.0/8", "::1/128"]
    assert (config.app.client_system, config.app.max_queue, config.app.queue_timeout) == ("drop", 0, 0.5)
    assert (config.keys_file, config.server.keep_alive) == (str(tmp_path / "keys"), 620)
    assert "0123456789abcdef" not in repr(config.guard)


def test_replies_are_kept_by_one_process() -> None:
    assert load({"resume": "600", "workers": "1"}, ENVIRON).app.keeping.seconds == 600
    assert load({}, ENVIRON).app.keeping.seconds == 0
    (line,) = faults({"resume": "1", "workers": "2"}, ENVIRON)
    assert line.startswith("--resume cannot go with --workers above 1")


def test_one_client_may_have_a_quarter_unless_another_share_is_set() -> None:
    assert load({}, ENVIRON).server.connections_each == 256
    assert load({"max_connections": "10"}, ENVIRON).server.connections_each == 3
    assert load({"max_connections": "10", "max_connections_each": "10"}, ENVIRON).server.connections_each == 10
    assert load({"max_streams_each": "7"}, ENVIRON).app.max_streams_each == 7


def test_origins_are_kept_as_browsers_write_them_and_hosts_are_told() -> None:
    given = "https://a.example:443,https://a.example,http://b.example:80,http://c.example:443,http://[0:0::1]:80"
    kept = ("https://a.example", "http://b.example", "http://c.example:443", "http://[::1]")
    assert load({"allow_origin": given, "host": "Our.example"}, ENVIRON).guard.origins == (kept, ("our.example",))


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("resume", "601", "600 seconds at most"),
        ("resume", "ten", "number of seconds"),
        ("keep_alive", "0.5", "1 second at least"),
        ("keep_alive", "1m", "number of seconds"),
        ("allow_origin", "example.com", "origins such as"),
        ("allow_origin", "https://a.example/", "origins such as"),
        ("allow_origin", "https://a.example:0443", "origins such as"),
        ("allow_origin", "https://[::1::]", "no IPv6 address"),
        ("rate_limit", "0/minute", "20/minute"),
        ("rate_limit", "20/fortnight", "20/minute"),
        ("trusted_proxies", "10.0.0.1/8", "networks such as"),
        ("client_system", "obey", "merge, drop, reject"),
        ("api_keys_file", "/no/such/file", "cannot read /no/such/file"),
    ],
)
def test_settings_of_the_guard_that_are_wrong(flag: str, value: str, words: str) -> None:
    (line,) = faults({flag: value}, ENVIRON)
    assert line.startswith("--" + flag.replace("_", "-")) and words in line


def test_aliases_are_offered_with_their_models() -> None:
    config = load({"alias": ["gpt-4o-mini=@cf/a/b", "gpt-4o=@cf/c/d,x=@cf/a/b"], "models": "@cf/a/b"}, ENVIRON)
    assert config.app.aliases == {"gpt-4o-mini": "@cf/a/b", "gpt-4o": "@cf/c/d", "x": "@cf/a/b"}
    assert config.app.models == ("@cf/a/b", "@cf/c/d")


@pytest.mark.parametrize("alias", ["gpt-4o", "=@cf/a/b", "gpt-4o=gpt-4", "a b=@cf/a/b"])
def test_an_alias_that_is_wrong(alias: str) -> None:
    (line,) = faults({"alias": alias}, ENVIRON)
    assert line.startswith("--alias must be") and ("=@cf/" in line or alias == "gpt-4o=gpt-4")


# --- AI Search -----------------------------------------------------------------------------------

DOCS = "ai-search/docs"


@pytest.mark.parametrize(
    ("flags", "asked", "offered"),
    [
        ({}, (DOCS,), (DOCS, DEFAULT_MODEL)),
        ({"model": OTHER}, (DOCS,), (DOCS, OTHER)),
        ({"fallback_models": "none"}, (DOCS,), (DOCS, DEFAULT_MODEL)),
        ({"fallback_models": OTHER}, (DOCS, OTHER), (DOCS, DEFAULT_MODEL, OTHER)),
        ({"models": OTHER}, (DOCS,), (DOCS, OTHER)),
        ({"ai_search": "team/docs_1"}, ("ai-search/team/docs_1",), ("ai-search/team/docs_1", DEFAULT_MODEL)),
    ],
)
def test_a_search_is_asked_first(flags: dict[str, str | None], asked: tuple[str], offered: tuple[str]) -> None:
    config = load(flags, {**ENVIRON, "CFCHAT_AI_SEARCH": "docs"})
    assert config.upstream is not None and config.upstream.models == asked
    assert (config.app.model, config.app.models) == (asked[0], offered)


def test_a_search_gets_what_the_operator_sets_and_no_default(tmp_path: Path) -> None:
    flags: dict[str, str | None] = {"ai_search": "docs"}
    config = load(flags, ENVIRON)
    assert config.upstream is not None
    assert (config.upstream.fields[DOCS], config.app.system_prompt) == ({}, "")
    (tmp_path / "models.toml").write_text('["ai-search/docs"]\ntemperature = 1\nai_search_options = { cache = {} }\n')
    flags |= {"model": OTHER, "max_tokens": "99", "temperature": "0.1", "system_prompt": "Be brief."}
    config = load({**flags, "model_options": str(tmp_path / "models.toml")}, ENVIRON)
    assert config.upstream is not None and config.app.system_prompt == "Be brief."
    assert config.upstream.fields[DOCS] == {
        "model": OTHER, "max_tokens": 99, "temperature": 1, "ai_search_options": {"cache": {}}
    }


@pytest.mark.parametrize("name", ["", "/docs", "docs/", "a/b/c", "Docs", "a b", "../docs", "döcs", "d" * 65, "docs\n"])
def test_a_name_that_no_instance_has(name: str) -> None:
    (fault,) = faults({"ai_search": name}, ENVIRON)
    assert "NAMESPACE/NAME" in fault


def test_an_alias_may_name_the_search_that_is_asked() -> None:
    config = load({"ai_search": "docs", "alias": f"gpt-4o-mini={DOCS}"}, ENVIRON)
    assert config.app.aliases == {"gpt-4o-mini": DOCS} and config.app.models == (DOCS, DEFAULT_MODEL)
    for search in (None, "other"):
        (fault,) = faults({"ai_search": search, "alias": f"gpt-4o-mini={DOCS}"}, ENVIRON)
        assert "--alias" in fault and "--ai-search" in fault


def test_where_a_search_cannot_be_asked() -> None:
    url = "https://gateway.ai.cloudflare.com/v1"
    (fault,) = faults({"ai_search": "docs", "gateway": "g1", "base_url": url}, ENVIRON)
    assert "--ai-search" in fault and "--base-url" in fault
    assert load({"ai_search": "docs", "gateway": "g1"}, ENVIRON).upstream
    with pytest.raises(ConfigError, match="--ai-search must be demo"):
        load({"ai_search": "docs"}, {}, demo=True)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://example.com", "https://example.com/"),
        ("http://example.com:8080/docs/", "http://example.com:8080/docs/"),
        ("https://example.com/a%20b", "https://example.com/a%20b/"),
    ],
)
def test_the_base_of_sources_is_a_folder(text: str, url: str) -> None:
    config = load({"source_base_url": text}, ENVIRON)
    assert config.upstream is not None and config.upstream.source_base_url == config.source_base_url == url


@pytest.mark.parametrize(
    "text",
    ["example.com", "/docs", "ftp://example.com", "javascript:x", "https://u:p@example.com", "https://example.com/?a=b"]
    + ["https://example.com/#a", "https:///a", "https://a b/", "https://ü.example", "https://example.com:x/", ""],
)
def test_a_base_of_sources_that_is_wrong(text: str) -> None:
    assert len(faults({"source_base_url": text}, ENVIRON)) == 1
