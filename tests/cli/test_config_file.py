"""What a configuration file says wrong: each fault with its line, its key, and what was meant."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo.cli.keys import SETTINGS
from exo.cli.serve import serve
from exo.configuration.check import examine
from exo.configuration.document import Document, dotted, has, written
from exo.configuration.forms import form
from exo.configuration.schema import schema
from exo.configuration.setting import Setting

from .config_values import exo_config, in_file, path_in_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "exo.toml"


def faults(file: Path, text: str) -> list[str]:
    """What `exo config --check` says, without the file's name; it cannot be used then."""
    file.write_text(text)
    shown = exo_config("--check", str(file), env={"EXO_HOME": str(file.parent)})
    assert (shown.code, shown.out) == (2, "")
    said = shown.err.removeprefix("Error: ").splitlines()
    if len(said) > 1:
        assert said.pop(0) == f"{len(said)} faults in the configuration:"
    assert all(line.strip().startswith(f"{file}:") for line in said), said
    return [line.strip().removeprefix(f"{file}:") for line in said]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[http]\nprot = 1\n", "2: http.prot is no key; did you mean http.port?"),
        ("[http]\n\nPort = 1\n", "3: http.Port is no key; did you mean http.port?"),
        ("port = 1\n", "1: port is in the wrong table; it is http.port or cluster.port or npu.port"),
        ("[models]\nslots = 1\n", "2: models.slots is in the wrong table; it is limits.slots"),
        ("[http]\ntimeout = 1\n",
         '2: http.timeout is in the wrong table; it is models.timeout or models."MODEL".timeout'),
        ("default_model = 'm'\n", "1: default_model is no key; --default-model is models.default here"),
        ("[http]\nchatgpt_api_port = 1\n", "2: http.chatgpt_api_port is no key; --port is http.port here"),
        ("EXO_HOME = 'm'\n", "1: EXO_HOME is no key; EXO_HOME is home here"),
        ("[htpp]\nport = 1\n", "1: htpp is no table; did you mean [http]?"),
        ("[models.m]\ntimeuot = 1\n", '2: models.m.timeuot is no key; did you mean models."MODEL".timeout?'),
        ("[models.m.timeout]\nx = 1\n", "1: models.m.timeout is a table; expected a number above 0"),
        ("[models.m.n]\nx = 1\n", "1: models.m.n is no table; there are [auto],"),
        ("[log]\nqqqqqq = 1\n", "2: log.qqqqqq is no key; there are log.plain, log.debug"),
        ("http = 1\n", "1: http is a table, and here the number 1: write [http] and its keys below"),
        ("[http]\nport = '1'\n", '2: http.port is the string "1"; expected an integer from 0 to 65535'),
        ("[http]\nport = 1.0\n", "2: http.port is the number 1.0; expected an integer from 0 to 65535"),
        ("[http]\nport = true\n", "2: http.port is true; expected an integer from 0 to 65535"),
        ("[http]\nport = 70000\n", "2: http.port is wrong: 70000 is not in the range 0<=x<=65535."),
        ("[http]\nhost = 1\n", "2: http.host is the number 1; expected a string"),
        ("[http]\ncors_origins = '*'\n",
         '2: http.cors_origins is the string "*"; expected an array of strings, like ["one", "two"]'),
        ("[http]\ncors_origins = [\n'*',\n1\n]\n",
         "2: http.cors_origins is an array with the number 1 in it; expected an array of strings,"),
        ("[models]\ntimeout = nan\n", "2: models.timeout is the number nan; expected a number above 0"),
        ("[models]\ntimeout = 0\n", "2: models.timeout is wrong: 0.0 is not in the range x>0."),
        ("[log]\nplain = 'yes'\n", '2: log.plain is the string "yes"; expected true or false'),
        ("[engine]\ndtype = 'int3'\n", "2: engine.dtype is wrong: 'int3' is not one of 'auto',"),
        ("[engine]\nonly = 'warp'\n", "2: engine.only is wrong: 'warp': there is no such engine."),
        ("[limits]\nmemory = 'much'\n", "2: limits.memory is wrong: 'much' is no size; write 6GB"),
        ("[limits]\nmemory = 1.5\n", "2: limits.memory is the number 1.5; expected a size like"),
        ("[models]\nseed_dir = 'nowhere'\n", "2: models.seed_dir is wrong: Directory"),
        ("[upstreams]\nurls = ['http://h/v1/models']\n", "2: upstreams.urls is wrong: 'http://h/v1/models'"),
        ("[models.m]\nsplit = 'a:0-1,b:4-5'\n", "2: models.m.split is wrong: 'b:4-5' in the split of m"),
        ("[cluster]\nname = 1979-05-27\n", "2: cluster.name is a date or a time; expected a string"),
        ("x = 1\n[http\n", "2: is no TOML: "),
        ("x = 1\nx = 2\n", "2: is no TOML: cannot overwrite a value"),
        ("x = '''\n", " at its end: is no TOML: "),
    ],
    ids=lambda text: text,
)  # fmt: skip
def test_a_fault_names_its_place_and_what_was_meant(file: Path, text: str, said: str) -> None:
    [fault] = faults(file, text)
    assert fault.startswith(said)


def test_all_faults_are_told_in_the_files_order(file: Path) -> None:
    text = "[log]\ndebug = 'x'\n[http]\nprot = 1\nport = -1\n[models.m]\nsplit = 1\n[x]\n"
    told = faults(file, text)
    assert [fault.partition(" ")[0] for fault in told] == ["2:", "4:", "5:", "7:", "8:"]


def test_faults_of_the_file_and_the_environment_are_told_together(file: Path) -> None:
    file.write_text("[http]\nprot = 1\n")
    env = {"EXO_HOME": str(file.parent), "EXO_SLOTS": "few", "EXO_PORT": "http"}
    shown = exo_config("--config", str(file), env=env)
    assert shown.code == 2
    assert "3 faults" in shown.err
    for part in (f"{file}:2: http.prot", "EXO_SLOTS: 'few'", "EXO_PORT: 'http'"):
        assert part in shown.err


def test_what_would_drive_the_terminal_is_shown_harmless(file: Path) -> None:
    [fault] = faults(file, '[http]\nport = "\\u001b[2J"\n"\\u001b" = 1\n')[:1]
    assert "\x1b" not in fault
    assert "\\u001b" in fault


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "is no UTF-8"),
        (b"x = " + b"[" * 5000, "nested too deep"),
        (b"#" * (1 << 19), "more than"),
    ],
)
def test_what_is_no_text_or_far_too_large_is_refused(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    shown = exo_config("--config", str(file), env={"EXO_HOME": str(file.parent)})
    assert shown.code == 2
    assert said in shown.err


def test_paths_count_from_the_files_folder(file: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    file.write_text('[models]\nseed_dir = "models"\n')
    shown = exo_config("--config", str(file), "--json", env={"EXO_HOME": str(tmp_path)}).settings()
    assert shown["models.seed_dir"]["value"] == str(tmp_path / "models")


# Where it is looked for


def test_the_file_named_counts_and_then_the_home_and_then_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {name: tmp_path / name / "config.toml" for name in ("flag", "variable", "home", "system")}
    for name, place in places.items():
        place.parent.mkdir()
        place.write_text(f'[cluster]\nname = "{name}"\n')
    monkeypatch.setattr("exo.cli.keys.SYSTEM_FILE", places["system"])
    env = {"EXO_HOME": str(tmp_path / "home"), "EXO_CONFIG": str(places["variable"])}
    flag = ["--config", str(places["flag"])]
    assert name_of(exo_config("--json", *flag, env=env)) == ("flag", str(places["flag"]))
    assert name_of(exo_config("--json", str(places["flag"]), env=env)) == ("flag", str(places["flag"]))
    assert name_of(exo_config("--json", env=env)) == ("variable", str(places["variable"]))
    del env["EXO_CONFIG"]
    assert name_of(exo_config("--json", env=env)) == ("home", str(places["home"]))
    places["home"].unlink()
    assert name_of(exo_config("--json", env=env)) == ("system", str(places["system"]))
    places["system"].unlink()
    assert name_of(exo_config("--json", env=env)) == ("exo", None)


def name_of(shown: Any) -> tuple[str, str | None]:
    return shown.settings()["cluster.name"]["value"], json.loads(shown.out)["file"]


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_file_that_is_named_has_to_be_there(tmp_path: Path, by: str) -> None:
    gone = str(tmp_path / "gone.toml")
    named = ["--config", gone] if by == "flag" else []
    shown = exo_config(*named, env={"EXO_HOME": str(tmp_path), **({} if named else {"EXO_CONFIG": gone})})
    assert shown.code == 2
    assert ("EXO_CONFIG" if by == "variable" else "--config") in shown.err
    assert gone in shown.err


# Lines

_NAMES = st.text("abz_-", min_size=1, max_size=3)
_STATEMENTS = st.sampled_from(
    ["{} = 1", "{} = [\n  1, # one\n\n  2,\n]", '{} = """\n[x]\na = 1\n"""', "{} = {{a = 1}}", "{}.a.b = 1"]
)
_NOISE = st.sampled_from(["", "\n", "# a = 1\n", "\n\n#\n"])


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(_NOISE, _NAMES, st.booleans(), _STATEMENTS), unique_by=lambda each: each[1], max_size=6
    )
)
def test_a_keys_line_is_where_its_statement_begins(
    tmp_path_factory: pytest.TempPathFactory, statements: list[tuple[str, str, bool, str]]
) -> None:
    text = ""
    expected: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for noise, name, opens, statement in statements:
        text += noise
        if opens:
            table = (f"t-{name}",)
            text += f"[t-{name}]\n"
            expected[table] = text.count("\n")
        expected[(*table, name)] = text.count("\n") + 1
        text += statement.format(name) + "\n"
    file = tmp_path_factory.getbasetemp() / "lines.toml"
    for ends in ("\n", "\r\n"):
        file.write_bytes(text.replace("\n", ends).encode())
        document = Document(file)
        assert {key: document.line(key) for key in expected} == expected
        assert document.line(("never",)) is None
        assert str(document.place(("never",))) == str(file)


_NUMBERS = st.integers(-99, 99) | st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.text(min_size=1), min_size=1),
    st.text() | st.booleans() | _NUMBERS | st.lists(st.text()),
)
def test_what_is_written_is_read_again(path: list[str], value: Any) -> None:
    found = tomllib.loads(f"{dotted(path)} = {written(value)}\n")
    assert has(found, path)
    for name in path:
        found = found[name]
    assert found == value


# The schema and the check agree

_PROBES: tuple[Any, ...] = (
    True, False, -1, 0, 1, 3, 63, 64, 65, 65535, 65536, 2**31, 0.05, 0.1, 0.5, 2.0, 2.5,
    "", "x", "auto", "none", "6GB", "1.5 GB", "7TB", [], ["a"], ["a", 1], {}, {"a": 1},
)  # fmt: skip
_SCHEMA = jsonschema.Draft202012Validator(schema(SETTINGS, ""))
# These are looked up, which no schema can do.
_MORE_THAN_A_FORM = {
    "engine.only",
    "upstreams.urls",
    "models.*.split",
    "models.seed_dir",
    "cluster.nodes_file",
    "traces.url",
}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_the_schema_takes_what_the_check_takes(setting: Setting, file: Path) -> None:
    for probe in _PROBES:
        if setting.key in _MORE_THAN_A_FORM and isinstance(probe, str | list):
            continue
        if setting.secret and probe == "":
            continue
        tree = nested(path_in_file(setting), probe)
        file.write_text(in_file(setting, probe) if not isinstance(probe, dict) else as_table(setting, probe))
        file.chmod(0o600)
        assert tomllib.loads(file.read_text()) == tree
        with click.Context(serve) as context:
            _, found = examine(context, Document(file), SETTINGS)
        assert _SCHEMA.is_valid(tree) == (not found), (probe, found)


def nested(path: tuple[str, ...], value: Any) -> Mapping[str, Any]:
    return {path[0]: nested(path[1:], value) if path[1:] else value}


def as_table(setting: Setting, value: Mapping[str, int]) -> str:
    lines = "".join(f"{name} = {each}\n" for name, each in value.items())
    return f"[{dotted(path_in_file(setting))}]\n{lines}"


def test_every_form_is_said_in_words() -> None:
    words = {form(setting).words for setting in SETTINGS}
    assert all(re.match(r"(an?|one|true) ", each) for each in words), words
