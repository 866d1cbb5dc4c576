"""Finding the vendor's library, and telling its releases from each other and from anything else."""

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from exo.errors import NotReady
from rkllama.vendor import library
from rkllama.vendor.abi import Release, declarations
from rkllama.vendor.library import NAME, chosen_release, find_library, open_library, probe, written_by
from tests.rkllama.conftest import Compile

# Search


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The linker's cache knows no library."""
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)


def put(place: Path) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / NAME).touch()
    return place / NAME


@pytest.mark.usefixtures("nowhere")
def test_places_are_searched_in_order(tmp_path: Path) -> None:
    environ: Mapping[str, str] = {
        "RKLLM_LIB_PATH": str(put(tmp_path / "chosen")),
        "LD_LIBRARY_PATH": f":{tmp_path / 'empty'}:{put(tmp_path / 'linked').parent}",
    }
    homes, first, second = (
        put(tmp_path / "home/RKLLAMA/lib"),
        put(tmp_path / "first"),
        put(tmp_path / "second"),
    )
    system = [first.parent, second.parent]

    def find() -> Path:
        return find_library(environ, tmp_path / "home", system)

    assert find() == tmp_path / "chosen" / NAME
    environ = {name: value for name, value in environ.items() if name != "RKLLM_LIB_PATH"}
    for expected in (homes, tmp_path / "linked" / NAME, first, second):
        assert find() == expected
        expected.unlink()
    with pytest.raises(NotReady):
        find()


@pytest.mark.usefixtures("nowhere")
def test_the_library_missing_everywhere(tmp_path: Path) -> None:
    with pytest.raises(NotReady) as caught:
        find_library({}, tmp_path, [Path("/usr/lib")])
    message = caught.value.message
    assert f"{tmp_path}/RKLLAMA/lib" in message
    assert "/usr/lib" in message
    assert "RKLLM_LIB_PATH" in message
    assert "https://github.com/airockchip/rknn-llm" in message


def test_the_linkers_cache_is_the_last_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.util.find_library", {"rkllmrt": "librkllmrt.so.1"}.get)
    assert find_library({}, tmp_path, []) == Path("librkllmrt.so.1")


def test_the_choice_may_name_a_directory(tmp_path: Path) -> None:
    assert find_library({"RKLLM_LIB_PATH": str(put(tmp_path).parent)}, tmp_path) == tmp_path / NAME


def test_the_choice_is_never_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "RKLLAMA/lib")
    with pytest.raises(NotReady, match=r"RKLLM_LIB_PATH is /no/such/lib.so"):
        find_library({"RKLLM_LIB_PATH": "/no/such/lib.so"}, tmp_path)


# Probing


@pytest.mark.parametrize("release", Release)
def test_each_release_is_recognised(scripted: Callable[[Release], Path], release: Release) -> None:
    opened = open_library(scripted(release))
    assert opened.release is release
    assert opened.abi is declarations(release)
    assert opened.cdll.rkllm_createDefaultParam().top_k == 40


def returning(written: int, names: set[str]) -> str:
    """A library whose rkllm_createDefaultParam writes just the first `written` bytes of what it returns.

    Compilers may copy more, so this takes the hidden pointer by hand.
    """
    functions = "".join(f"void {name}(void) {{}}\n" for name in sorted(names - {"rkllm_createDefaultParam"}))
    return f"""
        {functions}
        #ifndef VALUE
        #define VALUE at
        #endif
        #ifdef __x86_64__
        void *rkllm_createDefaultParam(volatile unsigned char *room) {{
        #else
        void *rkllm_createDefaultParam(void) {{
            volatile unsigned char *room;
            __asm__ volatile("mov %0, x8" : "=r"(room));
        #endif
            for (int at = 0; at < {written}; at++) room[at] = VALUE;
            return (void *)room;
        }}
    """


NAMES = {release: set(declarations(release).functions) for release in Release}


@pytest.mark.parametrize(
    ("written", "release"),
    [
        (184, Release.V1_3),
        (180, Release.V1_3),  # the struct's own padding is not written
        (178, Release.V1_3),  # nor that of its last member
        (74, Release.V1_3),  # nor the reserved bytes
        (208, Release.V1_2_1),
        (206, Release.V1_2_1),
        (102, Release.V1_2_1),
    ],
)
def test_a_library_may_leave_padding_and_reserved_bytes(
    compiled: Compile, written: int, release: Release
) -> None:
    opened = ctypes.CDLL(str(compiled(returning(written, NAMES[release]))))
    assert written_by(opened, "rkllm_createDefaultParam") == written
    assert probe(opened) is release


def test_no_two_releases_end_alike_where_symbols_cannot_tell() -> None:
    ends = [library._ends(release) for release in (Release.V1_1, Release.V1_2_1, Release.V1_3)]
    assert len(set.union(*ends)) == sum(map(len, ends))


@pytest.mark.parametrize("written", [0, 8, 100, 176, 185, 192, 200, 205, 209, 212, 512, 1023])
def test_a_library_of_unknown_size_is_refused(compiled: Compile, written: int) -> None:
    opened = ctypes.CDLL(str(compiled(returning(written, NAMES[Release.V1_3]))))
    with pytest.raises(NotReady, match=f"fills {written} bytes") as caught:
        probe(opened)
    assert "1.2.1-1.2.3 or 1.3.0" in caught.value.message
    assert "184 (1.3.0)" in caught.value.message


def test_what_writes_further_than_can_be_seen_is_refused(compiled: Compile) -> None:
    opened = ctypes.CDLL(str(compiled(returning(4096, NAMES[Release.V1_3]))))
    assert written_by(opened, "rkllm_createDefaultParam") is None
    with pytest.raises(NotReady, match="beyond all that can be seen"):
        probe(opened)


def test_bytes_that_look_like_poison_are_counted(compiled: Compile) -> None:
    source = returning(184, NAMES[Release.V1_3])
    for poison in library._POISONS:
        opened = ctypes.CDLL(str(compiled(f"#define VALUE {poison}\n{source}")))
        assert written_by(opened, "rkllm_createDefaultParam") == 184


def test_a_size_is_not_taken_for_another_releases(compiled: Compile) -> None:
    """Symbols of 1.1 with the struct of 1.3.0."""
    opened = ctypes.CDLL(str(compiled(returning(184, NAMES[Release.V1_1]))))
    with pytest.raises(NotReady, match=r"by its symbols it is 1\.1\.0-1\.1\.4, .* fills 184 bytes"):
        probe(opened)


def test_a_library_with_other_symbols_is_refused(compiled: Compile) -> None:
    lacking = NAMES[Release.V1_3] - {"rkllm_abort"}
    with pytest.raises(NotReady, match=r"Nearest is .*: it lacks rkllm_abort of that and adds nothing"):
        open_library(compiled(returning(184, lacking)))
    adding = NAMES[Release.V1_1] | {"rkllm_set_function_tools"}
    with pytest.raises(NotReady, match=r"Nearest is 1\.1.*lacks nothing .* adds rkllm_set_function_tools"):
        open_library(compiled(returning(200, adding)))


def test_a_library_of_something_else_is_refused(compiled: Compile) -> None:
    path = compiled("int nothing;")
    with pytest.raises(NotReady, match="exports nothing") as caught:
        open_library(path)
    assert caught.value.message.startswith(str(path))


def test_a_release_chosen_is_not_probed_for(compiled: Compile) -> None:
    """The way out for a build that this module takes for none, or for the wrong one."""
    path = compiled(returning(90, NAMES[Release.V1_3]))
    with pytest.raises(NotReady, match=r"RKLLM_RELEASE=1\.2\.3"):
        open_library(path)
    assert open_library(path, chosen_release({"RKLLM_RELEASE": "1.3.0"})).release is Release.V1_3
    with pytest.raises(NotReady, match="lacks rkllm_clear_kv_cache"):
        open_library(compiled(returning(200, NAMES[Release.V1_1])), Release.V1_2_0)


def test_the_release_chosen_must_be_a_known_one() -> None:
    assert chosen_release({}) is None
    assert chosen_release({"RKLLM_RELEASE": "1.2.2"}) is Release.V1_2_1
    with pytest.raises(NotReady, match=r"RKLLM_RELEASE is 9\.9"):
        chosen_release({"RKLLM_RELEASE": "9.9"})


def test_what_is_no_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("<html>404</html>")
    with pytest.raises(NotReady, match="cannot be loaded") as caught:
        open_library(tmp_path / NAME)
    assert str(tmp_path / NAME) in caught.value.message


def test_probing_anywhere_on_any_stack(scripted: Callable[[Release], Path]) -> None:
    """On a thread, deep down, again and again, and whatever happened on that stack before."""
    opened = ctypes.CDLL(str(scripted(Release.V1_3)))
    seen: list[Release] = []

    def deep(levels: int) -> None:
        if levels:
            # Through C each time, so that the C stack grows too.
            list(map(deep, [levels - 1]))
        else:
            seen.append(probe(opened))

    for levels in (0, 5, 100):
        thread = threading.Thread(target=deep, args=(levels,))
        thread.start()
        thread.join()
        deep(levels)
    assert seen == [Release.V1_3] * 6


def test_probing_does_not_disturb_the_types_of_functions(scripted: Callable[[Release], Path]) -> None:
    opened = open_library(scripted(Release.V1_3)).cdll
    before = opened.rkllm_createDefaultParam.restype
    probe(opened)
    assert opened.rkllm_createDefaultParam.restype is before


def test_importing_loads_nothing() -> None:
    """The parent process imports the values, never the vendor's library nor what wraps it."""
    code = (
        "import sys, rkllama.vendor.asks; "
        "print([n for n in sys.modules if n in ('ctypes', 'rkllama.vendor.library')])"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-c", code], env=environ, check=True, capture_output=True, text=True
    )
    assert output.stdout.strip() == "[]"
