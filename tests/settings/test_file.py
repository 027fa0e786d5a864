"""The file of settings: what it may hold, and a line with its place for each fault."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat import load_config
from cfchat.errors import ConfigError
from cfchat.settings.config import Config
from cfchat.settings.file import MOST_LINES, lines_of, read_settings
from cfchat.settings.load import load
from cfchat.settings.table import SETTINGS
from cfchat.settings.values import to_switch

ACCOUNT = "0123456789abcdef0123456789abcdef"
ENVIRON = {"CLOUDFLARE_ACCOUNT_ID": ACCOUNT, "CLOUDFLARE_API_TOKEN": "abc-DEF_123"}
MODEL = "@cf/meta/llama-3.2-3b-instruct"

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return what writes a file of settings and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "cfchat.toml"
        path.write_bytes(text.encode())
        return str(path)

    return write


def loaded(path: str, **environ: str) -> Config:
    return load({"config": path}, {**ENVIRON, **environ})


def faults(path: str) -> list[str]:
    """Return the faults without the path before each."""
    with pytest.raises(ConfigError) as caught:
        loaded(path)
    return [line.removeprefix(path) for line in caught.value.message.split("\n")]


def test_each_kind_of_value(write: Write) -> None:
    config = loaded(write(f"""
rate-limit = "20/minute"
port = 8_080
keep-alive = 620
connect-timeout = 2.5
trim = true
no-page = true
allow-origin = ["https://a.example", "https://b.example"]
trusted-proxies = "10.0.0.0/8"
fallback-models = []
models = ["@cf/a/b", "@cf/c/d"]
alias = {{ "gpt-4.1" = "@cf/a/b" }}
caps = {{ max_tokens = 100, temperature = 1.5 }}
uds-mode = "600"

[model-options."{MODEL}"]
stop = ["a"]
"""))
    assert config.upstream is not None and config.guard.rate is not None
    assert (config.guard.rate.requests, config.where.port, config.where.uds_mode) == (20, 8080, 0o600)
    assert (config.server.keep_alive, config.upstream.deadlines.connect) == (620, 2.5)
    assert (config.upstream.trim, config.page) == (True, False)
    assert config.guard.origins.allowed == ("https://a.example", "https://b.example")
    assert list(map(str, config.trusted_proxies)) == ["10.0.0.0/8"]
    assert (len(config.upstream.models), config.app.models) == (1, ("@cf/a/b", "@cf/c/d"))
    assert config.app.aliases == {"gpt-4.1": "@cf/a/b"} and config.app.caps == {"max_tokens": 100, "temperature": 1.5}
    assert config.upstream.fields[MODEL] == {"stop": ["a"]}


def test_tables_of_models_and_a_mark_of_windows(write: Write) -> None:
    path = write(f'\ufeffmax-tokens = 7\r\n[models."{MODEL}"]\r\nlora = "x"\r\n')
    config = loaded(path)
    assert config.upstream is not None
    assert (config.upstream.fields[MODEL], config.upstream.max_tokens) == ({"lora": "x"}, 7)


@pytest.mark.parametrize("setting", SETTINGS[1:], ids=lambda setting: setting.flag)
def test_every_default_may_stand_in_the_file(write: Write, setting: object) -> None:
    flag, default, parse = setting.flag, setting.default, setting.parse  # type: ignore[attr-defined]
    if default is None:
        return
    written = str(default).lower() if isinstance(default, (bool, int, float)) else f'"{default}"'
    found: list[str] = []
    entry = read_settings("--config", write(f"{flag} = {written}"), found)[flag.replace("-", "_")]
    assert not found and entry.value == (default if parse is to_switch else parse(str(default)))


def test_a_flag_wins_over_the_environment_and_that_over_the_file(write: Write) -> None:
    (prompt := Path(write("")).with_name("prompt")).write_text("from a file of its own\n")
    path = write('port = 1\nmax-body = 1\nmax-streams = 1\nsystem-prompt = "of the settings"')
    environ = {"CFCHAT_PORT": "2", "CFCHAT_MAX_BODY": "2", "CFCHAT_SYSTEM_PROMPT_FILE": str(prompt)}
    config = load({"config": path, "port": "3"}, {**ENVIRON, **environ})
    assert (config.where.port, config.app.max_body, config.app.max_streams) == (3, 2, 1)
    assert config.app.system_prompt == "from a file of its own"
    assert load({"config": path}, {**ENVIRON, "PORT": "4"}).where.port == 4
    assert load({}, {**ENVIRON, "CFCHAT_CONFIG": path}).where.port == 1


def test_a_program_that_embeds_cfchat_may_name_one(write: Write) -> None:
    path = write("max-messages = 20\nmax-queue = 3")
    config = load_config(demo=True, environ={}, config=path, max_queue=4)
    assert (config.app.max_messages, config.app.max_queue) == (20, 4)
    with pytest.raises(ConfigError, match=r"^config cannot read /no/such"):
        load_config(demo=True, environ={}, config="/no/such")


def test_all_faults_are_told_at_once_each_with_its_line(write: Write) -> None:
    path = write(f'''# a comment
rate-limit = "20/fortnight"
port = "many"
system-prompt = """
host = true
"""
rate_limit = 5
fallback-models = [
  "@cf/a/b",
  "c",
]
[server]
host = "x"
[models."{MODEL}"]
messages = []
lora = "x"
when = 2026-01-01
[models.llama]
''')
    assert [line.rstrip().partition(" must")[0].partition(" cannot")[0] for line in faults(path)] == [
        ":2: rate-limit",
        ":3: port",
        ":7: rate_limit is no setting: did you mean rate-limit?",
        ":8: fallback-models",
        ":12: server is no setting",
        f':15: models."{MODEL}".messages',
        f':17: models."{MODEL}".when',
        ':18: models.llama takes a table for each model, such as ["@cf/google/gemma-4-26b-a4b-it"]; llama is no model',
    ]  # fmt: skip


def test_a_fault_is_told_where_a_flag_wins_and_beside_those_of_others(write: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"config": write("port = 70000\nx = 1"), "port": "8", "max_body": "0"}, {})
    said = caught.value.message.split("\n")
    assert [line.rpartition("toml:")[2].split()[0] for line in said] == [
        *("1:", "2:", "--max-body", "CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_API_TOKEN"),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("port = true", "must be a whole number"),
        ("port = 80.5", "must be a whole number"),
        ("port = [80]", "must be one value and not a list"),
        ("port = {}", "must be one value and not a table"),
        ("max-tokens = inf", "must be a whole number"),
        ("host = 5", "must be a text, in quotes"),
        ("host = false", "must be a text, in quotes"),
        ("host = 2026-01-01", "must be a text, in quotes"),
        ('host = "a\\u0000"', "must not hold U+0000"),
        ("uds-mode = 0o660", "must be a text, in quotes"),
        ("uds-mode = 660", "must be a text, in quotes"),
        ("log-level = 1", "must be one of debug"),
        ("trim = 1", "must be true or false"),
        ('trim = "true"', "must be true or false"),
        ("allow-origin = [1]", "must be a list of texts"),
        ("allow-origin = []", "must be * or origins"),
        ('allow-origin = { a = "b" }', "must be one value and not a table"),
        ("caps = { max_tokens = true }", "must have a number behind max_tokens="),
        ("models = 5", "must be a Workers AI model name"),
        ("rate-limitt = 1", "is no setting: did you mean rate-limit?"),
        ("CFCHAT_RATE_LIMIT = 1", "is no setting: did you mean rate-limit?"),
        ("max-token = 1", "is no setting: did you mean max-tokens?"),
        ("tempo = 1", "is no setting"),
        ('config = "x"', "names this file, and cannot stand in it"),
        ("demo = true", "is a flag of the command line alone"),
    ],
)
def test_a_value_that_is_wrong(write: Write, line: str, words: str) -> None:
    (said,) = faults(write(f"\n{line}"))
    key = line.partition(" ")[0]
    assert said.startswith(f":2: {key} {words}") and (words != "is no setting" or said.endswith(words))


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("api-token", "CLOUDFLARE_API_TOKEN"),
        ("CLOUDFLARE_API_TOKEN", "CLOUDFLARE_API_TOKEN"),
        ("cf_aig_token", "CF_AIG_TOKEN"),
        ("account-id", "CLOUDFLARE_ACCOUNT_ID"),
        ("api-keys", "api-keys-file"),
        ("HTTPS_PROXY", "HTTPS_PROXY"),
        ("openai-secret", "environment"),
        ("cloudflare.api_token", "CLOUDFLARE_API_TOKEN"),
    ],
)
def test_a_secret_is_refused_by_name(write: Write, key: str, instead: str) -> None:
    said = faults(write(f'{key} = "s3cret-s3cret"'))
    assert said[-1].startswith(f":1: {key} ") and instead in said[-1].partition(key)[2]
    assert len(said) == 1 + key.count(".") and "s3cret" not in "\n".join(said)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('port = 1\nhost = a', ":2: this is no TOML: "),
        ("port = 1\nport = 2", ": this is no TOML: Cannot overwrite"),
        ("x = [", ": this is no TOML: "),
        (f"x = {'[' * 9999}", ": this is no TOML: its lists or tables are nested too deeply"),
        (f"x{'.x' * 2000} = 1", ": this is no TOML: its lists or tables are nested too deeply"),
        (f"x = {'1' * 9999}", ": this is no TOML: Exceeds the limit"),
    ],
)
def test_a_file_that_is_no_toml(write: Write, text: str, words: str) -> None:
    (said,) = faults(write(text))
    assert words in said


def test_a_setting_below_a_table_of_a_model_is_no_field_of_it(write: Write) -> None:
    """Who adds a line at the end of the file would set nothing, and send it to Cloudflare."""
    fields = 'temperature = 1\nmax_tokens = 7\nport = 1\nrate-limit = "20/minute"\napi-token = "hush"\n'
    told = faults(write(f'[models."{MODEL}"]\n{fields}'))
    assert [line.partition(":")[2].partition(":")[0] for line in told] == ["4", "5", "6"]
    assert "settings stand above the first table" in told[0] and "is a secret" in told[2]
    assert "hush" not in "".join(told)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigError, match=r"^CFCHAT_CONFIG cannot read .*[^\n]$"):
            load({}, {**ENVIRON, "CFCHAT_CONFIG": str(path)})


def test_a_name_of_a_stranger_is_one_line(write: Write) -> None:
    (said,) = faults(write(f'"a\\n\\u001b[2J{"x" * 999}" = 1'))
    assert said.startswith(r':1: "a\n\u001b[2Jxxx') and len(said) < 200
    (said,) = faults(write('[models."a\\nb\\u001b[2J"]'))
    assert said.startswith(r':1: models."a\nb\u001b[2J" takes a table') and said.endswith(r"a\nb\x1b[2J is no model")


def test_lines_are_not_looked_up_for_ever(write: Write) -> None:
    text = "x = [{}]\ny = 1"
    last = MOST_LINES + 2
    assert faults(write(text.format("\n" * MOST_LINES))) == [":1: x is no setting", f":{last}: y is no setting"]
    assert faults(write(text.format("\n" * 9999))) == [": x is no setting", ": y is no setting"]


# A statement, and the keys that it is the first to name.
NAMES = [f"k{number}" for number in range(12)]
STATEMENTS = st.sampled_from([
    "{} = 1", "{} = [\n1,\n2 # ]\n]", '{} = """\n[x]\nk0 = 1\n"""', "{} = '''\nk1 = 1\n'''", "{}.a.b = 1",
    "{} = {{ a = 1 }}", "[{}]", "# [{}]\n[{}.'x']", "[[{}]] # [", "", "# k2 = 1",
])  # fmt: skip


@given(st.lists(STATEMENTS, max_size=len(NAMES)), st.sampled_from(["\n", "\n\n"]))
def test_each_key_is_found_in_the_line_where_its_statement_begins(statements: list[str], between: str) -> None:
    text, expected = "", {}
    for name, statement in zip(NAMES, statements, strict=False):
        comment = statement.startswith("# [")
        if "{}" in statement:
            expected[name] = text.count("\n") + 1 + comment
        text += statement.format(name, name) + between
    tomllib.loads(text)
    lines = lines_of(text)
    assert {key[-1]: line for key, line in lines.items() if key[-1] in NAMES} == expected
