"""Every struct, enum and function of every release, against tables compiled from the vendor's headers."""

import ctypes
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rkllama.vendor.abi import ALL, CALLBACKS, FUNCTIONS, RECORDS, Release, declarations
from tests.rkllama.cheader import header

TABLES = {path.stem.removeprefix("abi_"): path for path in (Path(__file__).parents[2] / "abi").glob("*.json")}

AARCH64_CC, QEMU = "aarch64-linux-gnu-gcc", "qemu-aarch64"


@pytest.fixture(params=sorted(TABLES))
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def table(version: str) -> Any:
    # 1.2.1 and earlier spell it so; a name is not part of the binary interface.
    return json.loads(TABLES[version].read_text().replace("RKLLMMultiModel", "RKLLMMultiModal"))


def layouts(table: Any) -> dict[str, tuple[int, list[tuple[str, int, int]]]]:
    """Size and (field, offset, size) of each record, those without a name under "Outer.field"."""
    found = {}

    def add(name: str, size: int, fields: list[Any]) -> None:
        found[name] = (size, [(each["name"], each["offset"], each["size"]) for each in fields])
        for each in fields:
            if "fields" in each:
                inner = "value" if each["name"] == "<anonymous>" else each["name"]
                add(f"{name}.{inner}", each["size"], each["fields"])

    for name, struct in table["structs"].items():
        add(name, struct["sizeof"], struct["fields"])
    return found


def test_there_is_a_table_for_every_release() -> None:
    assert {Release.of(version) for version in TABLES} == set(Release)


def test_layout_of_every_record(version: str, table: Any) -> None:
    ours = {}
    for name, struct in declarations(Release.of(version)).structs.items():
        fields = [(field, getattr(struct, field)) for field, *_ in struct._fields_]
        ours[name] = (
            ctypes.sizeof(struct),
            [("<anonymous>" if n == "_value" else n, field.offset, field.size) for n, field in fields],
        )
    assert ours == layouts(table)


def test_type_of_every_field(version: str, table: Any) -> None:
    """Sizes do not tell a float from an int."""
    release = Release.of(version)

    def theirs(name: str, fields: list[Any]) -> Iterator[tuple[str, str, str]]:
        for each in fields:
            if "fields" in each:
                inner = f"{name}.{'value' if each['name'] == '<anonymous>' else each['name']}"
                yield name, each["name"].replace("<anonymous>", ""), inner
                yield from theirs(inner, each["fields"])
            else:
                yield name, each["name"], each["ctype"]

    ours = {
        (name, field.name, field.ctype)
        for name, record in RECORDS.items()
        if release in record.releases
        for field in record.members(release)
    }
    assert ours == {
        each for name, struct in table["structs"].items() for each in theirs(name, struct["fields"])
    }


def test_ctypes_of_every_basic_field() -> None:
    """Signedness and kind, which offsets cannot show."""
    kinds = {
        "bool": "?", "int": "i", "int8_t": "b", "int32_t": "i", "uint8_t": "B", "uint32_t": "I",
        "size_t": "L", "float": "f", "const char*": "z", "char*": "z", "void*": "P",
    }  # fmt: skip
    for release in Release:
        structs = declarations(release).structs
        for name, struct in structs.items():
            for field, made in zip(RECORDS[name].members(release), struct._fields_, strict=True):
                if field.ctype in kinds:
                    assert made[1]._type_ == kinds[field.ctype], (release, name, field.name)


def test_enums(version: str, table: Any) -> None:
    enums = {
        name: {constant: value for constant, value in values.items() if constant != "__sizeof__"}
        for name, values in table["enums"].items()
    }
    assert declarations(Release.of(version)).enums == enums
    assert {values["__sizeof__"] for values in table["enums"].values()} == {ctypes.sizeof(ctypes.c_int)}


def test_functions_and_callbacks(version: str, table: Any) -> None:
    release = Release.of(version)
    functions = [each for each in FUNCTIONS if release in each.releases]
    assert [each.name for each in functions] == table["declared_functions_in_order"]
    assert {each.name: {"returns": each.returns, "params": list(each.params)} for each in functions} == table[
        "functions"
    ]
    callbacks = {
        each.name: f"{each.returns}(*)({', '.join(each.params)})"
        for each in CALLBACKS
        if release in each.releases
    }
    assert callbacks | {"LLMHandle": "void*"} == table["typedefs"]


def test_prototypes(version: str, table: Any) -> None:
    abi = declarations(Release.of(version))
    assert abi.functions.keys() == table["functions"].keys()
    for name, prototype in abi.functions.items():
        returns = ctypes.c_int if name != "rkllm_createDefaultParam" else abi.structs["RKLLMParam"]
        assert prototype.returns is returns
        for made, ctype in zip(prototype.params, table["functions"][name]["params"], strict=True):
            match ctype:
                case "int":
                    assert made is ctypes.c_int
                case "LLMHandle":
                    assert made is ctypes.c_void_p
                case "LLMHandle*":
                    assert made is ctypes.POINTER(ctypes.c_void_p)
                case "const char*":
                    assert made is ctypes.c_char_p
                case "void*":
                    assert made is ctypes.c_void_p
                case "LLMResultCallback":
                    assert made is abi.callbacks[ctype]
                case "int*":
                    assert made is ctypes.POINTER(ctypes.c_int)
                case _:
                    assert made is ctypes.POINTER(abi.structs[ctype[:-1]])


def test_the_callback_returns_something_from_1_2_1_only() -> None:
    returns = [declarations(release).callbacks["LLMResultCallback"]._restype_ for release in Release]
    assert returns == [None, None, ctypes.c_int, ctypes.c_int]


def test_versions_and_names() -> None:
    assert [str(release) for release in Release] == ["1.1.0-1.1.4", "1.2.0", "1.2.1-1.2.3", "1.3.0"]
    assert Release.of("1.1.4") < Release.of("1.2.0") < Release.of("1.2.2") < Release.of("1.3.0")
    assert Release.of("1.2.1") is Release.of("1.2.3")
    for unknown in ("1.0.1", "1.3.1", ""):
        with pytest.raises(ValueError, match="no interface is known"):
            Release.of(unknown)


def test_nothing_is_declared_for_no_release() -> None:
    spans = [field.releases for record in RECORDS.values() for field in record.fields]
    spans += [each.releases for each in (*FUNCTIONS, *CALLBACKS)]
    assert all(span and span <= ALL for span in spans)


def measure(release: Release, place: Path, compiler: list[str], runner: list[str]) -> dict[str, int]:
    """What a C compiler makes of our declarations: sizes and offsets, by a C expression."""
    records = {
        name: record for name, record in RECORDS.items() if release in record.releases and "." not in name
    }
    expressions = [
        f"sizeof({name})" for name in (*records, "LLMCallState", "RKLLMInputType", "RKLLMInferMode")
    ]
    for name, record in records.items():
        expressions += [f"offsetof({name}, {path})" for path in paths(record, release)]
    prints = "\n".join(f'printf("%s=%zu\\n", "{each}", {each});' for each in expressions)
    (place / "rkllm.h").write_text(header(release))
    (place / "measure.c").write_text(f'#include <stdio.h>\n#include "rkllm.h"\nint main(void) {{ {prints} }}')
    subprocess.run([*compiler, "-Wall", "-Werror", "-o", "measure", "measure.c"], check=True, cwd=place)
    output = subprocess.run(
        [*runner, "./measure"], check=True, cwd=place, capture_output=True, text=True
    ).stdout
    return {name: int(value) for name, _, value in (line.rpartition("=") for line in output.splitlines())}


def paths(record: Any, release: Release) -> Iterator[str]:
    for field in record.members(release):
        if field.name:
            yield field.name
        if "." in field.ctype:
            inner = paths(RECORDS[field.ctype], release)
            yield from (f"{field.name}.{each}" if field.name else each for each in inner)


def expected(table: Any) -> dict[str, int]:
    sizes = {f"sizeof({name})": values["__sizeof__"] for name, values in table["enums"].items()}

    def add(outer: str, path: str, offset: int, fields: list[Any]) -> None:
        for each in fields:
            anonymous = each["name"] == "<anonymous>"
            name = path if anonymous else f"{path}{each['name']}"
            if not anonymous:
                sizes[f"offsetof({outer}, {name})"] = offset + each["offset"]
            if "fields" in each:
                add(outer, path if anonymous else f"{name}.", offset + each["offset"], each["fields"])

    for name, struct in table["structs"].items():
        sizes[f"sizeof({name})"] = struct["sizeof"]
        add(name, "", 0, struct["fields"])
    return sizes


def test_layout_as_the_compiler_of_this_machine_has_it(
    version: str, table: Any, tmp_path: Path, cc: str
) -> None:
    assert measure(Release.of(version), tmp_path, [cc], []) == expected(table)


def test_layout_as_the_compiler_of_a_board_has_it(version: str, table: Any, tmp_path: Path) -> None:
    if not (shutil.which(AARCH64_CC) and shutil.which(QEMU)):
        pytest.skip(f"needs {AARCH64_CC} and {QEMU} (apt install gcc-aarch64-linux-gnu qemu-user)")
    assert measure(Release.of(version), tmp_path, [AARCH64_CC, "-static"], [QEMU]) == expected(table)
