"""A flag counts more than the environment, that more than the file, and that more than the default."""

from pathlib import Path
from typing import Any

import pytest

from exo.cli.keys import SETTINGS
from exo.cli.serve import Given, node_settings, serve
from exo.configuration.document import dotted
from exo.configuration.setting import Flag, PerModel, Setting, Unflagged

from .config_values import as_flags, exo_config, in_environment, in_file, path_in_file, three

MASK = "********"
EVERY = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@EVERY
def test_the_most_explicit_counts_and_is_named(setting: Setting, home: Path, tmp_path: Path) -> None:
    in_the_file, in_the_environment, as_flag = three(setting, tmp_path)
    assert in_the_file.shown != in_the_environment.shown != as_flag.shown
    file = tmp_path / "exo.toml"
    file.write_text(in_file(setting, in_the_file.in_file))
    file.chmod(0o600)
    key = dotted(path_in_file(setting))
    usual = {} if setting.key == "home" else {"EXO_HOME": str(home)}
    steps: list[tuple[dict[str, str], list[str], Any, str, str]] = [
        (usual, [], in_the_file.shown, "file", f"{file}:3")
    ]
    variables = {**usual, **in_environment(setting, in_the_environment)}
    steps.append((variables, [], in_the_environment.shown, "environment", setting.variable))
    if setting.flag is not None:
        steps.append((variables, as_flags(setting, as_flag), as_flag.shown, "flag", setting.flag))
    for env, flags, value, origin, where in steps:
        shown = exo_config("--config", str(file), "--json", *flags, env=env).settings()[key]
        assert shown == {
            "key": key, "value": MASK if setting.secret else value, "origin": origin, "where": where
        }  # fmt: skip


@EVERY
def test_nothing_said_is_the_default(setting: Setting, home: Path) -> None:
    shown = exo_config("--json", env={"EXO_HOME": str(home)}).settings()
    if isinstance(setting, PerModel):
        assert not [key for key in shown if key.startswith("models.") and key.count(".") > 1]
    elif setting.key != "home":
        assert shown[setting.key]["origin"] == "default"
        reckoned = setting.key in ("limits.memory", "cluster.node_id", "cluster.discovery")
        if not reckoned:
            assert shown[setting.key]["value"] == setting.usual
        else:
            assert shown[setting.key]["value"]


def test_an_empty_variable_says_nothing(home: Path) -> None:
    empty = {each.variable: "" for each in SETTINGS if each.key not in ("home", "log.debug")}
    shown = exo_config("--json", env={**empty, "EXO_HOME": str(home)}).settings()
    assert {each["origin"] for key, each in shown.items() if key != "home"} == {"default"}


def test_a_model_keeps_what_nothing_more_explicit_says_of_it(tmp_path: Path) -> None:
    file = tmp_path / "exo.toml"
    file.write_text('[models.a]\ntimeout = 1\n[models."b c"]\ntimeout = 2\n[models.d]\ntimeout = 3\n')
    env = {"EXO_TIMEOUT_FOR": "d=4, e=5\nf=6", "EXO_HOME": str(tmp_path)}
    shown = exo_config("--config", str(file), "--json", "--timeout-for", "e=7", env=env).settings()
    timeouts = {key: (each["value"], each["origin"]) for key, each in shown.items() if ".timeout" in key[6:]}
    assert timeouts == {
        "models.timeout": (900.0, "default"),
        "models.a.timeout": (1.0, "file"),
        'models."b c".timeout': (2.0, "file"),
        "models.d.timeout": (4.0, "environment"),
        "models.e.timeout": (7.0, "flag"),
        "models.f.timeout": (6.0, "environment"),
    }


def test_what_a_flag_hides_is_checked_all_the_same(tmp_path: Path) -> None:
    env = {"EXO_TIMEOUT_FOR": "d=soon", "EXO_HOME": str(tmp_path)}
    shown = exo_config("--timeout-for", "d=7", env=env)
    assert shown.code == 2
    assert "EXO_TIMEOUT_FOR" in shown.err
    assert "soon" in shown.err


def test_values_of_a_variable_are_separated_by_commas_or_line_ends(tmp_path: Path) -> None:
    env = {
        "EXO_HOME": str(tmp_path),
        "EXO_CORS_ORIGIN": " http://a , http://b,\n",
        "EXO_PEER": "one\ntwo\n",
        "EXO_SPLIT": "m=x:0-1,y:2-3\nn=x:0-4\n",
    }
    shown = exo_config("--json", "--node-id", "x", env=env).settings()
    assert shown["http.cors_origins"]["value"] == ["http://a", "http://b"]
    assert shown["cluster.peers"]["value"] == ["one", "two"]
    assert shown["models.m.split"]["value"] == "x:0-1,y:2-3"
    assert shown["models.n.split"]["value"] == "x:0-4"


# What the terminal shows is no part of a node's settings. Keys' files are read, and tried elsewhere.
_OF_THE_TERMINAL = ("log.plain", "log.debug")
# Without these the others contradict.
_WITH = {
    "cluster.discovery": ["--host", "0.0.0.0"],
    "upstreams.key": ["--upstream", "http://h"],
    "models.*.split": ["--node-id", "c"],
    "http.tls_cert": ["--host", "127.0.0.1"],
    "http.tls_key": ["--host", "127.0.0.1"],
    "http.tls_client_ca": ["--host", "127.0.0.1", "--tls-cert", "c", "--tls-key", "k"],
}
# What is half of something, and the other half.
_OTHER_HALF = {"http.tls_cert": ["--tls-key", "k"], "http.tls_key": ["--tls-cert", "c"]}


@EVERY
def test_what_is_said_reaches_the_nodes_settings(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setting.key in _OF_THE_TERMINAL or setting.key.endswith(("key_file", "secret_file")):
        assert setting.name in Given.__annotations__
        return
    for each in SETTINGS:
        monkeypatch.delenv(each.variable, raising=False)
    monkeypatch.setenv("EXO_HOME", str(tmp_path))
    with_it = _WITH.get(setting.key, [])
    before = node_of(with_it)
    *_, said = three(setting, tmp_path)
    for name, text in in_environment(setting, said).items():
        monkeypatch.setenv(name, text)
    assert node_of([*with_it, *_OTHER_HALF.get(setting.key, [])]) != before


def node_of(flags: list[str]) -> object:
    # click takes what it has read off the list.
    with serve.make_context("serve", [*flags]) as context:
        return node_settings(context)


# The table


def test_every_parameter_of_serve_is_in_the_table_and_has_its_names() -> None:
    assert [each for each in serve.params if isinstance(each, Setting)] == list(SETTINGS)
    others = [each.name for each in serve.params if not isinstance(each, Setting)]
    assert others == ["config"]
    assert {"config", *(each.name for each in SETTINGS)} == Given.__annotations__.keys()
    for names in (
        [each.key for each in SETTINGS],
        [each.variable for each in SETTINGS],
        [flag for each in SETTINGS for flag in each.opts],
    ):
        assert len(names) == len(set(names))


@EVERY
def test_a_flag_gives_its_variable_its_name(setting: Setting) -> None:
    if isinstance(setting, Flag):
        assert setting.variable == "EXO_" + setting.opts[0].removeprefix("--").replace("-", "_").upper()
    else:
        assert isinstance(setting, Unflagged)
    assert setting.about.endswith(".")
    assert setting.usual is not None or setting.sample is not None


def test_tables_stand_in_one_piece() -> None:
    tables = [each.table for each in SETTINGS]
    assert len(dict.fromkeys(tables)) == sum(a != b for a, b in zip(["-", *tables], tables, strict=False))
