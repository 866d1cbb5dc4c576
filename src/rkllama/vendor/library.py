"""The vendor's runtime library: where it is, and which release it is.

A library does not say which release it is, and one taken for another corrupts memory without a word. Symbols
tell the releases apart but for 1.2.1 and 1.3.0, which export the same; those differ in the size of
`RKLLMParam`, which `rkllm_createDefaultParam` returns. So it is called with more room than any release needs,
and what it wrote of it is looked at.

Whether the vendor's builds write the whole struct, padding and reserved bytes too, could not be tried
without them. Either is recognised: the ends of fields, reserved bytes and structs differ between releases.
A build that returned garbage in the reserved bytes would be refused, or at worst be mistaken for another;
RKLLM_RELEASE is the way out.
"""

import ctypes
import ctypes.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exo.errors import NotReady
from rkllama.vendor.abi import Abi, Release, declarations

NAME = "librkllmrt.so"
SYSTEM = (
    Path("/usr/local/lib"),
    Path("/usr/local/lib/aarch64-linux-gnu"),
    Path("/usr/lib/aarch64-linux-gnu"),
    Path("/usr/lib"),
)
GET_IT = (
    "It comes with the board's system image, or from https://github.com/airockchip/rknn-llm as "
    f"rkllm-runtime/Linux/librkllm_api/aarch64/{NAME}: take the release your .rkllm files were made with."
)


@dataclass(frozen=True)
class Library:
    """A loaded library whose release is known and whose functions carry their types."""

    path: Path
    abi: Abi
    cdll: ctypes.CDLL

    @property
    def release(self) -> Release:
        return self.abi.release


def find_library(environ: Mapping[str, str], home: Path, system: Sequence[Path] = SYSTEM) -> Path:
    """The library to load: RKLLM_LIB_PATH, else the one in ~/RKLLAMA/lib, else the system's.

    RKLLM_LIB_PATH names the file or its directory, and is never passed over: if nothing is there, NotReady is
    raised. The result may be a bare name, which the dynamic linker knows how to find.
    """
    if chosen := environ.get("RKLLM_LIB_PATH"):
        path = Path(chosen).expanduser()
        path = path / NAME if path.is_dir() else path
        if not path.is_file():
            raise NotReady(f"RKLLM_LIB_PATH is {chosen}, but there is no file {path}. {GET_IT}")
        return path.resolve()
    linked = [Path(each) for each in environ.get("LD_LIBRARY_PATH", "").split(":") if each]
    places = [home / "RKLLAMA" / "lib", *linked, *system]
    for place in places:
        if (place / NAME).is_file():
            return (place / NAME).resolve()
    if cached := ctypes.util.find_library("rkllmrt"):
        return Path(cached)
    looked = ", ".join(["$RKLLM_LIB_PATH (not set)", *map(str, places), "the linker's cache"])
    raise NotReady(f"The NPU runtime {NAME} was not found. Looked in: {looked}. {GET_IT}")


def chosen_release(environ: Mapping[str, str]) -> Release | None:
    """The release that RKLLM_RELEASE names: for a library that its owner knows and `probe` does not."""
    if not (version := environ.get("RKLLM_RELEASE")):
        return None
    try:
        return Release.of(version)
    except ValueError as error:
        raise NotReady(f"RKLLM_RELEASE is {version}; known are {', '.join(map(str, Release))}.") from error


def open_library(path: Path, release: Release | None = None) -> Library:
    """Load it into this process and find out its release, unless it is given.

    NotReady says why the library cannot be used.
    """
    try:
        cdll = ctypes.CDLL(str(path))
    except OSError as error:
        raise NotReady(
            f"{path} cannot be loaded: {error}. It must be built for this machine, as must all it links to."
        ) from error
    try:
        release = release or probe(cdll)
    except NotReady as error:
        hint = "If you know better, set RKLLM_RELEASE=1.2.3 or whichever it is."
        raise NotReady(f"{path}: {error.message} {hint}") from error
    abi = declarations(release)
    if missing := {name for name in abi.functions if not hasattr(cdll, name)}:
        raise NotReady(f"{path} is not release {release} of the NPU runtime: it lacks {_listed(missing)}.")
    abi.bind(cdll)
    return Library(path, abi, cdll)


def probe(cdll: ctypes.CDLL) -> Release:
    """Which release `cdll` is. NotReady if it is none of those known, with what was seen of it."""
    known = {name for release in Release for name in declarations(release).functions}
    symbols = {name for name in known if hasattr(cdll, name)}
    candidates = [release for release in Release if symbols == declarations(release).functions.keys()]
    if not candidates:
        nearest = min(Release, key=lambda release: len(symbols ^ declarations(release).functions.keys()))
        expected = declarations(nearest).functions.keys()
        raise NotReady(
            f"not a known release of the NPU runtime: it exports {_listed(symbols)}. Nearest is {nearest}: "
            f"it lacks {_listed(expected - symbols)} of that and adds {_listed(symbols - expected)}."
        )
    end = written_by(cdll, "rkllm_createDefaultParam")
    for release in candidates:
        if end in _ends(release):
            return release
    wrote = f"fills {end} bytes" if end is not None else "fills bytes beyond all that can be seen"
    known_sizes = [f"{ctypes.sizeof(declarations(each).structs['RKLLMParam'])} ({each})" for each in Release]
    raise NotReady(
        f"not a known release of the NPU runtime: by its symbols it is {' or '.join(map(str, candidates))}, "
        f"but its rkllm_createDefaultParam {wrote}. Known are {', '.join(known_sizes)}."
    )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _ends(release: Release) -> set[int]:
    """The bytes of RKLLMParam after which a library of `release` may stop writing."""
    param, extend = (declarations(release).structs[each] for each in ("RKLLMParam", "RKLLMExtendParam"))
    reserved = param.extend_param.offset + extend.reserved.offset
    return {reserved, *range(reserved + extend.reserved.size, ctypes.sizeof(param) + 1)}


_LOOKED_AT = 1024
_POISONS = (0xA5, 0x5A)


class _Room(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint8 * 32768),)


class _Paint(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint8 * 131072),)


def written_by(cdll: ctypes.CDLL, name: str) -> int | None:
    """How far the function `name()`, which returns a struct, writes; None if further than can be seen.

    A struct this big is returned through a hidden pointer, in rdi on x86-64 and in x8 on aarch64. ctypes
    cannot set x8, and points it at a buffer of its own: uninitialised, on the stack, copied out in full. To
    poison that buffer, paint the stack first: call something harmless with a still bigger struct by value,
    which is copied to where the buffer will be. What keeps its paint in two calls, of two colours, was not
    written. The stack may be dirtied in between, which is why there is far more paint and room than needed:
    we look at the far end of it. If the paint does not hold, nothing past the struct keeps its colour and
    the answer is None, never a wrong size. Tried with CPython 3.11 on x86-64 and, emulated, on aarch64.
    """
    # Own function objects, so that no one else's types change.
    function = ctypes.CFUNCTYPE(_Room)((name, cdll))
    harmless = ctypes.CFUNCTYPE(ctypes.c_int, _Paint)(("getpid", ctypes.CDLL(None)))
    paint = _Paint()
    seen = []
    for poison in _POISONS:
        ctypes.memset(ctypes.byref(paint), poison, ctypes.sizeof(paint))
        harmless(paint)
        seen.append(ctypes.string_at(ctypes.byref(function()), _LOOKED_AT))
    kept = [pair == _POISONS for pair in zip(*seen, strict=True)]
    if not kept[-1]:
        return None
    return max((at + 1 for at, keeps in enumerate(kept) if not keeps), default=0)
