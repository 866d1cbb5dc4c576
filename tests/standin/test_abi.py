"""The stand-in's interface is the vendor's: symbols, layouts and prototypes against the tables."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.standin.conftest import ROOT
from tests.standin.vendor import Library, table

NUMBERS = {"1.1.4": 10104, "1.2.0": 10200, "1.2.3": 10203, "1.3.0": 10300}


def compiled(source: str, release: str, into: Path) -> str:
    """What a C program that includes our header prints."""
    (into / "probe.c").write_text('#include <stdio.h>\n#include "rkllm.h"\n' + source)
    command = [
        "cc",
        "-std=c11",
        "-Werror",
        "-O0",
        f"-I{ROOT / 'standin'}",
        f"-DSTANDIN_RELEASE={NUMBERS[release]}",
    ]
    subprocess.run([*command, "probe.c", "-o", "probe"], cwd=into, check=True)
    return subprocess.run([into / "probe"], check=True, capture_output=True, text=True).stdout


def members(fields: list[dict[str, Any]], base: int = 0, path: str = "") -> Iterator[tuple[str, int, int]]:
    """Every field as C writes it, with its offset and size; members of an anonymous union by themselves."""
    for field in fields:
        is_anonymous = field["name"].startswith("<")
        name, offset = path + field["name"], base + field["offset"]
        if not is_anonymous:
            yield name, offset, field["size"]
        if "fields" in field:
            yield from members(field["fields"], offset, path if is_anonymous else f"{name}.")


def test_exports_the_functions_of_its_release_and_no_others(release: str, build: Path) -> None:
    library = build / release / "librkllmrt.so"
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True
    )
    exported = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert exported == set(table(release)["functions"])


def test_needs_nothing_but_the_system(release: str, build: Path) -> None:
    shown = subprocess.run(
        ["readelf", "-d", build / release / "librkllmrt.so"], check=True, capture_output=True, text=True
    ).stdout
    needed = {line.split("[")[1].rstrip("]") for line in shown.splitlines() if "NEEDED" in line}
    assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0"}


def test_structs_and_enums_lie_as_the_vendors(release: str, tmp_path: Path) -> None:
    expected, lines = [], []
    for name, struct in table(release)["structs"].items():
        expected.append(f"{name} {struct['sizeof']}")
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        for field, offset, size in members(struct["fields"]):
            expected.append(f"{name}.{field} {offset} {size}")
            where = f"offsetof({name}, {field}), sizeof((({name} *)0)->{field})"
            lines.append(f'printf("{name}.{field} %zu %zu\\n", {where});')
    for name, enum in table(release)["enums"].items():
        for member, value in enum.items():
            expected.append(f"{member} {value}")
            measured = f"(int)sizeof({name})" if member == "__sizeof__" else f"(int){member}"
            lines.append(f'printf("{member} %d\\n", {measured});')
    printed = compiled("int main(void) {" + "\n".join(lines) + "}", release, tmp_path)
    assert printed.splitlines() == expected
    assert len(expected) > 60


def test_prototypes_are_the_vendors(release: str, tmp_path: Path) -> None:
    lines = []
    for name, function in table(release)["functions"].items():
        parameters = ", ".join(function["params"]) or "void"
        types = f"__typeof__({name}), {function['returns']}({parameters})"
        lines.append(f'_Static_assert(__builtin_types_compatible_p({types}), "{name}");')
    for name, type_ in table(release)["typedefs"].items():
        lines.append(f'_Static_assert(__builtin_types_compatible_p({name}, {type_}), "{name}");')
    compiled("\n".join(lines) + "\nint main(void) { return 0; }", release, tmp_path)


def test_default_parameters_are_the_documented_ones(release: str, load: Callable[[str], Library]) -> None:
    param = load(release).lib.rkllm_createDefaultParam()
    assert (param.top_k, round(param.top_p, 3), round(param.temperature, 3)) == (40, 0.9, 0.8)
    assert (round(param.repeat_penalty, 3), param.frequency_penalty, param.presence_penalty) == (1.1, 0, 0)
    assert (param.mirostat, param.mirostat_tau, round(param.mirostat_eta, 3)) == (0, 5.0, 0.1)


def test_default_parameters_fill_exactly_the_releases_size(release: str, tmp_path: Path, build: Path) -> None:
    """This is how a loader tells releases apart whose symbols are the same."""
    source = """
    #include <dlfcn.h>
    #include <string.h>
    typedef struct { unsigned char bytes[512]; } Oversized;
    int main(void) {
        static Oversized made;
        int end[2];
        for (int i = 0; i < 2; i++) {
            unsigned char poison = i ? 0x5A : 0xA5;
            memset(&made, poison, sizeof made);
            void *library = dlopen("LIBRARY", RTLD_NOW);
            if (!library) { puts(dlerror()); return 1; }
            void *(*create)(void *) = (void *(*)(void *))dlsym(library, "rkllm_createDefaultParam");
    #if defined(__x86_64__)
            create(&made);
    #else
            register void *x8 __asm__("x8") = &made;
            __asm__ volatile("blr %1" : "+r"(x8) : "r"(create) : "memory", "x0", "x1", "x2", "x9", "x30");
    #endif
            for (end[i] = sizeof made; end[i] && made.bytes[end[i] - 1] == poison; end[i]--);
        }
        printf("%d", end[0] > end[1] ? end[0] : end[1]);
    }""".replace("LIBRARY", str(build / release / "librkllmrt.so"))
    assert int(compiled(source, release, tmp_path)) == table(release)["structs"]["RKLLMParam"]["sizeof"]


def test_a_wrong_layout_would_be_noticed(tmp_path: Path) -> None:
    """The header of one release against the table of the next."""
    sizes = compiled('int main(void) { printf("%zu", sizeof(RKLLMParam)); }', "1.2.3", tmp_path)
    assert int(sizes) != table("1.3.0")["structs"]["RKLLMParam"]["sizeof"]
    with pytest.raises(subprocess.CalledProcessError):
        compiled('_Static_assert(sizeof(RKLLMParam) == 200, ""); int main(void) {}', "1.2.3", tmp_path)
