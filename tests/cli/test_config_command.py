"""`exo config`: what it prints, and that a node goes by the same."""

import json
import tomllib
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from exo.cli import options
from exo.cli.keys import SETTINGS
from exo.cli.serve import node_settings, serve
from exo.configuration.setting import ANY_MODEL

from . import config_files
from .config_values import exo_config


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"EXO_HOME": str(tmp_path)}


def test_it_is_grouped_as_the_file_and_says_where_each_is_from(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[http]\nhost = "127.0.0.1"\n\n[models."qwen3:0.6b"]\ntimeout = 7\n')
    shown = exo_config("--port", "1", env={**env, "EXO_GRACE": "2"})
    assert (shown.code, shown.err) == (0, "")
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert lines[0] == f"# {file}"
    for line in (
        "[http]",
        f'host = "127.0.0.1" # {file}:2',
        "port = 1 # flag --port",
        "grace = 2 # environment EXO_GRACE",
        "keepalive = 5 # default",
        "# api_key = # not set",
        '[models."qwen3:0.6b"]',
        f"timeout = 7 # {file}:5",
    ):
        assert line in lines


def test_what_it_prints_is_a_file_that_says_the_same(env: dict[str, str], tmp_path: Path) -> None:
    flags = [
        "--host",
        "127.0.0.1",
        "--peer",
        "x",
        "--timeout-for",
        'a "b"=3',
        "--system-prompt",
        "a\n\tb",
        "--memory",
    ]
    flags = ["--timeout-for", 'a "b"=3', "--system-prompt", "a\n\tb", "--memory", "3GB", "--cors-origin", "*"]
    file = tmp_path / "printed.toml"
    file.write_text(exo_config(*flags, env=env).out)
    one, other = (
        exo_config("--json", *each, env=env).settings() for each in (flags, ["--config", str(file)])
    )
    assert {key: each["value"] for key, each in one.items()} == {
        key: each["value"] for key, each in other.items()
    }


def test_what_is_reckoned_is_shown_as_the_node_has_it(env: dict[str, str]) -> None:
    shown = exo_config("--json", "--host", "127.0.0.1", "--port", "7", env=env).settings()
    assert shown["cluster.node_id"]["value"] == options.node_id(7)
    assert shown["cluster.discovery"]["value"] == "none"
    assert shown["limits.memory"]["value"] > 0


def test_what_contradicts_is_shown_and_then_refused(env: dict[str, str]) -> None:
    shown = exo_config("--discovery-module", "manual", env=env)
    assert shown.code == 2
    assert 'discovery = "manual"' in shown.out
    assert "--discovery-config-path" in shown.err
    assert exo_config("--check", "--discovery-module", "manual", env=env).out == ""


def test_a_check_of_what_can_be_used_says_so(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[http]\nport = 1\n")
    for arguments in (["--check", str(file)], ["--check", "--config", str(file)]):
        shown = exo_config(*arguments, env=env)
        assert (shown.code, shown.err) == (0, "")
        assert str(file) in shown.out


def test_flags_are_checked_as_serve_does(env: dict[str, str]) -> None:
    shown = exo_config("--port", "70000", env=env)
    assert shown.code == 2
    assert "--port" in shown.err


# Keys

KEYS = (
    ("http.api_key", "EXO_API_KEY"),
    ("cluster.secret", "EXO_CLUSTER_SECRET"),
    ("upstreams.key", "EXO_UPSTREAM_KEY"),
)


def used(key: str, *arguments: str) -> str | None:
    """The secret that a node would go by, with the environment as it is."""
    with serve.make_context("serve", ["--upstream", "http://h", *arguments]) as context:
        settings, cluster = node_settings(context)
    found = {
        "http.api_key": settings.http.key,
        "cluster.secret": None if cluster.secret is None else cluster.secret.decode(),
        "upstreams.key": settings.upstreams[0].key,
    }
    return found[key]


def written_file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def saying(key: str, value: object) -> str:
    table, _, leaf = key.rpartition(".")
    return f'[{table}]\n{leaf} = "{value}"\n'


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment that says only where the home is."""
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.setenv("EXO_HOME", str(tmp_path))
    return monkeypatch


@pytest.mark.parametrize(("key", "variable"), KEYS)
def test_a_key_is_taken_from_the_most_explicit_place(
    key: str, variable: str, tmp_path: Path, bare: pytest.MonkeyPatch
) -> None:
    alone = written_file(tmp_path / "alone", "from its file\n")
    other = written_file(tmp_path / "other", "from a variable's file")
    config = tmp_path / "config.toml"
    assert used(key) is None
    written_file(config, saying(key, "inline"))
    assert used(key) == "inline"
    written_file(config, saying(f"{key}_file", alone), 0o644)
    assert used(key) == "from its file"
    written_file(config, saying(f"{key}_file", "alone"), 0o644)
    assert used(key) == "from its file"
    bare.setenv(f"{variable}_FILE", str(other))
    assert used(key) == "from a variable's file"
    bare.delenv(f"{variable}_FILE")
    bare.setenv(variable, "from a variable")
    assert used(key) == "from a variable"


@pytest.mark.parametrize(("key", "variable"), KEYS)
def test_a_key_that_others_can_read_is_refused(
    key: str, variable: str, tmp_path: Path, env: dict[str, str]
) -> None:
    config = tmp_path / "config.toml"
    for mode in (0o640, 0o604, 0o620, 0o666):
        written_file(config, saying(key, "s3cret-value"), mode)
        shown = exo_config("--check", env=env)
        assert shown.code == 2
        assert f"chmod 600 {config}" in shown.err
        assert f"{key}_file" in shown.err
        alone = written_file(tmp_path / "alone", "s3cret-value", mode)
        written_file(config, saying(f"{key}_file", alone))
        shown = exo_config("--check", env=env)
        assert shown.code == 2
        assert f"{config}:2: {key}_file: others can read {alone}: chmod 600 {alone}" in shown.err
        config.unlink()
        assert f"chmod 600 {alone}" in exo_config("--check", env={**env, f"{variable}_FILE": str(alone)}).err


@pytest.mark.parametrize(("key", "variable"), KEYS)
def test_a_key_is_never_shown(key: str, variable: str, tmp_path: Path, env: dict[str, str]) -> None:
    config = written_file(tmp_path / "config.toml", saying(key, "s3cret-value"))
    for more in ({}, {variable: "s3cret-value"}):
        for arguments in ([], ["--json"], ["--check"], ["--port", "70000"]):
            shown = exo_config(*arguments, env={**env, **more})
            assert "s3cret" not in shown.out + shown.err
    assert "# " + key.rpartition(".")[2] + ' = "********"' in exo_config(env=env).out
    written_file(config, "[http]\napi_key = [\"s3cret-value\"]\n[x]\nkey = 's3cret-value'\n")
    assert "s3cret" not in exo_config("--check", env=env).err


@pytest.mark.parametrize(("key", "variable"), KEYS)
def test_two_keys_from_the_same_place_are_refused(
    key: str, variable: str, tmp_path: Path, env: dict[str, str]
) -> None:
    alone = written_file(tmp_path / "alone", "x")
    shown = exo_config("--check", env={**env, variable: "x", f"{variable}_FILE": str(alone)})
    assert shown.code == 2
    assert f"{variable} and {variable}_FILE are both set" in shown.err
    leaf = key.rpartition(".")[2]
    written_file(tmp_path / "config.toml", saying(key, "x") + f'{leaf}_file = "alone"\n')
    shown = exo_config("--check", env=env)
    assert shown.code == 2
    assert f"{key} and {key}_file are both set" in shown.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "one line"),
        (b"\n", "one line"),
        (b"a\nb\n", "one line"),
        (b"\xff", "no text"),
        (None, "No such"),
    ],
)
def test_a_file_that_holds_no_key_is_refused(
    content: bytes | None, said: str, tmp_path: Path, env: dict[str, str]
) -> None:
    file = tmp_path / "alone"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o600)
    shown = exo_config("--check", env={**env, "EXO_API_KEY_FILE": str(file)})
    assert shown.code == 2
    assert "EXO_API_KEY_FILE" in shown.err
    assert said in shown.err


def test_an_empty_key_in_the_file_is_refused(tmp_path: Path, env: dict[str, str]) -> None:
    written_file(tmp_path / "config.toml", saying("http.api_key", ""))
    assert "http.api_key is empty" in exo_config("--check", env=env).err


# Which node a command asks


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ({}, "http://127.0.0.1:52415"),
        ({"port": 8000}, "http://127.0.0.1:8000"),
        ({"port": 0}, "http://127.0.0.1:52415"),
        ({"host": '"127.0.0.1"'}, "http://127.0.0.1:52415"),
        ({"host": '"192.168.1.9"', "port": 1}, "http://192.168.1.9:1"),
        ({"host": '"::"', "port": 1}, "http://[::1]:1"),
        ({"host": '"fe80::1"'}, "http://[fe80::1]:52415"),
        ({"host": '"board"'}, "http://board:52415"),
    ],
    ids=str,
)
def test_a_command_asks_this_machines_node_where_it_is_told_to_listen(
    said: dict[str, Any], asked: str, tmp_path: Path, bare: pytest.MonkeyPatch
) -> None:
    lines = "".join(f"{name} = {value}\n" for name, value in said.items())
    (tmp_path / "config.toml").write_text(f"[http]\n{lines}")
    assert options.asked(None) == (asked, None, None)
    bare.setenv("EXO_PORT", "77")
    assert options.asked(None).url.endswith(":77")
    assert options.asked("http://elsewhere") == ("http://elsewhere", None, None)


def test_the_key_of_this_machines_node_is_not_sent_elsewhere(
    tmp_path: Path, bare: pytest.MonkeyPatch
) -> None:
    written_file(tmp_path / "config.toml", saying("http.api_key", "ours"))
    assert options.asked(None).key == "ours"
    assert options.asked("http://elsewhere").key is None
    bare.setenv("EXO_API_KEY", "theirs")
    assert options.asked("http://elsewhere").key == "theirs"
    assert options.asked(None).key == "theirs"


def test_models_are_looked_for_where_the_configuration_says(tmp_path: Path, bare: pytest.MonkeyPatch) -> None:
    bare.delenv("EXO_HOME")
    config = tmp_path / "config.toml"
    (tmp_path / "seed").mkdir()
    config.write_text('home = "data"\n[models]\nseed_dir = "seed"\n')
    bare.setenv("EXO_CONFIG", str(config))
    assert options.home() == tmp_path / "data"
    assert options.model_folders()[1:] == (tmp_path / "seed", tmp_path / "data" / "models")
    with serve.make_context("serve", ["--config", str(config)]) as context:
        settings, _ = node_settings(context)
    assert settings.folders == options.model_folders()


def test_a_variable_that_is_a_typo_names_the_nearest() -> None:
    with pytest.raises(click.UsageError, match=r"EXO_MAX_WAITNG.*did you mean EXO_MAX_WAITING"):
        options.check_environment({"EXO_MAX_WAITNG": "1"})
    options.check_environment({setting.variable: "" for setting in SETTINGS} | {"EXO_CONFIG": ""})


# What is made of the table


@pytest.mark.parametrize("file", config_files.made(), ids=lambda file: file.name)
def test_the_files_are_up_to_date(file: Path) -> None:
    assert file.read_text(encoding="utf-8") == config_files.made()[file], config_files.REMEDY


def test_the_example_and_the_schema_are_printed_whatever_is_configured(
    env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text("nonsense")
    assert exo_config("--example", env=env) == (0, config_files.EXAMPLE.read_text(), "")
    assert exo_config("--schema", env=env) == (0, config_files.SCHEMA.read_text(), "")


def uncommented() -> dict[str, Any]:
    lines = config_files.EXAMPLE.read_text().splitlines()
    settings = [line.removeprefix("#") for line in lines if line.startswith("#") and line[1:2].strip()]
    return tomllib.loads("\n".join(settings))


def keys_of(values: dict[str, Any], path: tuple[str, ...] = ()) -> set[str]:
    found = set()
    for name, value in values.items():
        here = (*path, name)
        if isinstance(value, dict):
            found |= keys_of(value, here)
        else:
            found.add(
                ".".join(ANY_MODEL if len(here) == 3 and i == 1 else part for i, part in enumerate(here))
            )
    return found


def test_the_example_has_every_key_and_fits_the_schema() -> None:
    schema = json.loads(config_files.SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    example = uncommented()
    assert keys_of(example) == {setting.key for setting in SETTINGS}
    validator.validate(example)
    validator.validate(tomllib.loads(config_files.EXAMPLE.read_text()))
    assert tomllib.loads(config_files.EXAMPLE.read_text()) == {}


def test_the_schema_has_every_key_and_takes_no_other() -> None:
    schema = json.loads(config_files.SCHEMA.read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for setting in SETTINGS:
        place = schema
        for name in setting.key.split("."):
            assert place["additionalProperties"] is not True
            place = place["additionalProperties"] if name == ANY_MODEL else place["properties"][name]
        assert place["description"] == setting.about
    for typo in ('{"htpp":{}}', '{"http":{"prot":1}}', '{"models":{"m":{"timeuot":1}}}', '{"prot":1}'):
        assert not validator.is_valid(json.loads(typo))
