"""`rkllama config`: flags, environment, file and defaults, and what is wrong with any of them."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from exo.configuration.setting import Flag, Setting
from rkllama.cli.configured import Given, server_settings
from rkllama.cli.keys import SETTINGS, VARIABLES
from rkllama.cli.serve import serve
from rkllama.vendor.library import NAME
from tests.cli.config_values import as_flags, in_environment, in_file
from tests.rkllama import config_files
from tests.rkllama.config_values import bare, library, rkllama, three

MASK = "********"
EVERY = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / "RKLLAMA").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def file(home: Path) -> Path:
    """Where one is looked for that nobody names."""
    return home / "RKLLAMA" / "rkllama.toml"


# What counts


@EVERY
def test_the_most_explicit_counts_and_is_named(
    setting: Setting, home: Path, file: Path, tmp_path: Path
) -> None:
    in_the_file, in_the_environment, as_flag = three(setting, tmp_path)
    assert in_the_file.shown != in_the_environment.shown != as_flag.shown
    file.write_text(in_file(setting, in_the_file.in_file))
    file.chmod(0o600)
    variables = in_environment(setting, in_the_environment)
    steps: list[tuple[dict[str, str], list[str], Any, str, str]] = [
        ({}, [], in_the_file.shown, "file", f"{file}:3"),
        (variables, [], in_the_environment.shown, "environment", setting.variable),
    ]
    if setting.flag is not None:
        steps.append((variables, as_flags(setting, as_flag), as_flag.shown, "flag", setting.flag))
    for env, flags, value, origin, where in steps:
        shown = rkllama(home, "config", "--json", *flags, env=env).settings()[setting.key]
        assert shown == {
            "key": setting.key, "value": MASK if setting.secret else value, "origin": origin, "where": where
        }  # fmt: skip


def test_nothing_said_is_the_default(home: Path) -> None:
    shown = rkllama(home, "config", "--json").settings()
    assert {each["origin"] for each in shown.values()} == {"default"}
    reckoned = {"limits.memory", "npu.platform", "npu.library"}
    assert shown["npu.platform"]["value"] == "rk3588"
    assert shown["limits.memory"]["value"] > 0
    usual = {setting.key: setting.usual for setting in SETTINGS if setting.key not in reckoned}
    assert {key: each["value"] for key, each in shown.items() if key not in reckoned} == usual


def test_an_empty_variable_says_nothing(home: Path) -> None:
    empty = {each.variable: "" for each in SETTINGS}
    shown = rkllama(home, "config", "--json", env=empty).settings()
    assert {each["origin"] for each in shown.values()} == {"default"}


def test_a_file_that_is_named_counts_instead(home: Path, file: Path, tmp_path: Path) -> None:
    file.write_text("[http]\nport = 1\n")
    for number in (2, 3):
        (tmp_path / f"{number}.toml").write_text(f"[http]\nport = {number}\n")
    variable = {"RKLLAMA_CONFIG": str(tmp_path / "2.toml")}
    named = ("--config", str(tmp_path / "3.toml"))
    for flags, env, port in (((), {}, 1), ((), variable, 2), (named, variable, 3)):
        shown = rkllama(home, "config", "--json", *flags, env=env)
        assert shown.settings()["http.port"]["value"] == port
    missing = rkllama(home, "config", env={"RKLLAMA_CONFIG": "/nowhere.toml"})
    assert missing.code == 2
    assert "RKLLAMA_CONFIG" in missing.err
    assert "/nowhere.toml" in missing.err


@EVERY
def test_what_is_said_reaches_the_servers_settings(
    setting: Setting, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setting.key in ("log.debug", "http.api_key_file"):
        assert setting.name in Given.__annotations__
        return
    for name, text in bare(home, {"RKLLM_LIB_PATH": str(library(tmp_path / "any"))}).items():
        monkeypatch.delenv(name, raising=False) if text is None else monkeypatch.setenv(name, text)
    before = server(tmp_path)
    said = three(setting, tmp_path)[2 if setting.key != "npu.platform" else 0]
    for name, text in in_environment(setting, said).items():
        monkeypatch.setenv(name, text)
    assert server(tmp_path) != before


def server(root: Path, here: str = "rk3562") -> object:
    with serve.make_context("serve", []) as context:
        return server_settings(context, here, root)


def test_the_library_of_the_file_is_the_one(
    home: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in bare(home).items():
        monkeypatch.delenv(name, raising=False) if text is None else monkeypatch.setenv(name, text)
    library(file.with_name("mine"))
    file.write_text('[npu]\nlibrary = "mine"\n')
    with serve.make_context("serve", []) as context:
        found = server_settings(context, None, tmp_path).library
    assert found == file.with_name("mine") / NAME


def test_a_key_is_read_from_its_own_file(
    home: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in bare(home, {"RKLLM_LIB_PATH": str(library(tmp_path / "any"))}).items():
        monkeypatch.delenv(name, raising=False) if text is None else monkeypatch.setenv(name, text)
    file.write_text('[http]\napi_key_file = "key"\n')
    key = file.with_name("key")
    key.write_text("s3cret\n")
    key.chmod(0o600)
    with serve.make_context("serve", []) as context:
        assert server_settings(context, None, tmp_path).http.key == "s3cret"
    assert "s3cret" not in rkllama(home, "config").out
    key.chmod(0o644)
    shown = rkllama(home, "config", "--check")
    assert shown.code == 2
    assert f"{file}:2: http.api_key_file: others can read {key}: chmod 600 {key}" in shown.err


# What is wrong


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[http]\nprot = 1\n", "2: http.prot is no key; did you mean http.port?"),
        ("[htpp]\nport = 1\n", "1: htpp is no table; did you mean [http]?"),
        ("port = 1\n", "1: port is in the wrong table; it is http.port"),
        ("[models]\nmodels = '/m'\n", "2: models.models is no key; --models is models.folder here"),
        ("[npu]\ntarget_platform = 'rk3588'\n",
         "2: npu.target_platform is no key; --target_platform is npu.platform here"),
        ("RKLLM_LIB_PATH = 'm'\n", "1: RKLLM_LIB_PATH is no key; RKLLM_LIB_PATH is npu.library here"),
        ("[cluster]\nname = 'x'\n", "1: cluster is no table; there are [http], [limits], [log],"),
        ("[http]\nport = '1'\n", '2: http.port is the string "1"; expected an integer from 0 to 65535'),
        ("[npu]\nplatform = 'rk3399'\n", "2: npu.platform is wrong: 'rk3399' is not one of 'rk3588',"),
        ("[npu]\nrelease = '7'\n", "2: npu.release is wrong: '7'; known are 1.1.0-1.1.4, 1.2.0,"),
        ("[npu]\nlibrary = '/nowhere'\n", "2: npu.library is wrong: /nowhere: there is no file /nowhere."),
        ("[limits]\nmemory = 'much'\n", "2: limits.memory is wrong: 'much' is no size; write 6GB"),
        ("[http\n", "1: is no TOML: "),
    ],
    ids=lambda text: text,
)  # fmt: skip
def test_a_fault_names_its_place_and_what_was_meant(home: Path, file: Path, text: str, said: str) -> None:
    file.write_text(text)
    for command in (["config", "--check"], ["serve", "--host", "127.0.0.1", "--port", "0"]):
        shown = rkllama(home, *command)
        assert (shown.code, shown.out) == (2, "")
        assert shown.err.startswith(f"Error: {file}:{said}")


def test_faults_of_the_file_and_the_environment_are_told_together(home: Path, file: Path) -> None:
    file.write_text("[http]\nprot = 1\n")
    env = {"RKLLAMA_GRACE": "long", "RKLLM_RELEASE": "7", "RKLLM_LIB_PATH": "/nowhere/a.so"}
    shown = rkllama(home, "serve", env=env)
    assert shown.code == 2
    assert "4 faults" in shown.err
    for part in (f"{file}:2: http.prot", "RKLLAMA_GRACE: 'long'", "RKLLM_RELEASE: '7'", "/nowhere/a.so"):
        assert part in shown.err


@pytest.mark.parametrize("command", ["serve", "config", "tune"])
def test_a_variable_that_nothing_reads_is_an_error(home: Path, command: str) -> None:
    shown = rkllama(home, command, env={"RKLLAMA_MAX_WAITNG": "1"})
    assert shown.code == 2
    assert "RKLLAMA_MAX_WAITNG, which rkllama does not know; did you mean RKLLAMA_MAX_WAITING?" in shown.err


def test_variables_of_others_are_their_own_affair(home: Path) -> None:
    env = {"EXO_WHATEVER": "1", "RKLLM_SERVER_HOST": "board", "RKLLM_WHATEVER": "1", "RKLLAMAS": "1"}
    assert rkllama(home, "config", "--check", env=env).code == 0


def test_a_check_does_not_ask_for_a_library(home: Path, file: Path) -> None:
    """It is the board's, and `rkllama doctor` tells of it; the file may be checked elsewhere."""
    file.write_text("[http]\nport = 1\n")
    assert rkllama(home, "config", "--check") == (0, f"{file} can be used.\n", "")


# rkllama doctor


def test_the_doctor_looks_where_the_file_says(home: Path, file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "demo").mkdir(parents=True)
    (tmp_path / "mine" / "demo" / "there.rkllm").write_bytes(b"x" * 2000)
    chosen = library(tmp_path / "chosen")
    file.write_text(f'[models]\nfolder = "{tmp_path / "mine"}"\n[npu]\nlibrary = "{chosen}"\n')
    shown = rkllama(home, "doctor")
    assert "there.rkllm" in shown.out
    assert f"{chosen}/librkllmrt.so" in shown.out
    assert "Configuration" not in shown.out


def test_the_doctor_tells_what_is_wrong_with_file_and_environment(home: Path, file: Path) -> None:
    file.write_text('[http]\napi_key_file = "/nowhere"\n')
    assert (
        f"BROKEN  Configuration: {file}:2: http.api_key_file: /nowhere: No such"
        in rkllama(home, "doctor").out
    )
    file.write_text("[http]\nprot = 1\n")
    shown = rkllama(home, "doctor", "--json", env={"RKLLAMA_PROT": "1"})
    assert shown.code == 1
    broken = [each for each in json.loads(shown.out)["findings"] if each["level"] == "broken"]
    assert [each["subject"] for each in broken[:2]] == ["Environment", "Configuration"]
    assert "RKLLAMA_PORT?" in broken[0]["says"]
    assert broken[1]["says"].startswith(f"{file}:2: http.prot")


# The table, and what is made of it


def test_every_parameter_of_serve_is_in_the_table_and_has_its_names() -> None:
    assert [each for each in serve.params if isinstance(each, Setting)] == list(SETTINGS)
    assert {"config", *(each.name for each in SETTINGS)} == Given.__annotations__.keys()
    for names in (
        [each.key for each in SETTINGS],
        [each.variable for each in SETTINGS],
        [flag for each in SETTINGS for flag in each.opts],
    ):
        assert len(names) == len(set(names))
    tables = [each.table for each in SETTINGS]
    assert len(dict.fromkeys(tables)) == sum(a != b for a, b in zip(["-", *tables], tables, strict=False))


@EVERY
def test_a_flag_gives_its_variable_its_name(setting: Setting) -> None:
    assert setting.variable in VARIABLES
    if isinstance(setting, Flag):
        assert setting.variable == "RKLLAMA_" + setting.opts[0].removeprefix("--").replace("-", "_").upper()
    assert setting.about.endswith(".")
    assert setting.usual is not None or setting.sample is not None


@pytest.mark.parametrize("made", config_files.made(), ids=lambda made: made.name)
def test_the_files_are_up_to_date(made: Path) -> None:
    assert made.read_text(encoding="utf-8") == config_files.made()[made], config_files.REMEDY


def test_the_example_and_the_schema_are_printed_whatever_is_configured(home: Path, file: Path) -> None:
    file.write_text("nonsense")
    assert rkllama(home, "config", "--example") == (0, config_files.EXAMPLE.read_text(), "")
    assert rkllama(home, "config", "--schema") == (0, config_files.SCHEMA.read_text(), "")
    assert "--port" in rkllama(home, "serve", "--help").out


def test_the_example_has_every_key_and_fits_the_schema() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(config_files.SCHEMA.read_text()))
    lines = config_files.EXAMPLE.read_text().splitlines()
    said = [line.removeprefix("#") for line in lines if line.startswith("#") and line[1:2].strip()]
    example = tomllib.loads("\n".join(said))
    assert {f"{table}.{name}" for table, keys in example.items() for name in keys} == {
        setting.key for setting in SETTINGS
    }
    validator.validate(example)
    for typo in ('{"htpp":{}}', '{"http":{"prot":1}}', '{"port":1}'):
        assert not validator.is_valid(json.loads(typo))
