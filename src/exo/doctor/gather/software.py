"""The interpreter, exo's own package with all that it needs, and its engines."""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import exo
from exo.doctor.evidence import Engine, Package, Software
from exo.doctor.gather import probe
from exo.store.catalogue import BUNDLED

_NAME = "exo-rkllama"
# Which package brings an engine of ours.
_PACKAGES = {"llamacpp": "xllamacpp", "mlx": "mlx", "tinygrad": "tinygrad"}


def software() -> Software:
    installed, lost, packages = _installed()
    return Software(
        python=sys.version_info[:3],
        bits=64 if sys.maxsize > 2**32 else 32,
        prefix=sys.prefix,
        virtual=sys.prefix != sys.base_prefix,
        exo=exo.__version__,
        installed=installed,
        lost=(*lost, *_not_beside()),
        packages=packages,
    )


async def engines() -> tuple[Engine, ...]:
    """Ours that compute, and those of other packages. llama.cpp is loaded in a process of its own, which a
    CPU that it was not compiled for would end."""
    ours = await probe.in_thread(_engines)
    loads = await probe.program(sys.executable, "-c", "import xllamacpp") if _can_try(ours) else (0, b"", b"")
    code, _, said = loads
    if code == 0:
        return ours
    why = f"the package xllamacpp does not load: {probe.ending(code, said)}"
    return tuple(
        Engine(name=each.name, there=each.there, formats=each.formats, problem=why)
        if each.name == "llamacpp"
        else each
        for each in ours
    )


def _engines() -> tuple[Engine, ...]:
    from exo.engines import ENGINES, EngineOptions, others
    from exo.errors import EngineFailed

    options = EngineOptions()
    found = [
        Engine(
            name=name,
            there=importlib.util.find_spec(_PACKAGES[name]) is not None,
            formats=tuple(sorted(engine.formats)),
            problem=engine.unavailable(),
        )
        for name, engine in ((name, make(options)) for name, make in ENGINES.items() if name in _PACKAGES)
    ]
    for name in others.names():
        try:
            engine = others.make(name, options)
        except EngineFailed as error:
            found.append(Engine(name=name, there=True, formats=(), problem=error.message))
        else:
            formats = tuple(sorted(engine.formats))
            found.append(Engine(name=name, there=True, formats=formats, problem=engine.unavailable()))
    return tuple(found)


def _can_try(engines: tuple[Engine, ...]) -> bool:
    return any(engine.name == "llamacpp" and engine.problem is None for engine in engines)


def _installed() -> tuple[str | None, list[str], tuple[Package, ...]]:
    """The release by the package's record, its files that are gone, and what it needs and is not there."""
    from packaging.requirements import Requirement

    try:
        found = importlib.metadata.distribution(_NAME)
    except importlib.metadata.PackageNotFoundError:
        return None, [], ()
    files = (Path(str(file.locate())) for file in found.files or () if file.suffix != ".pyc")
    lost = [str(file) for file in files if not file.exists()]
    packages = []
    for each in map(Requirement, found.requires or ()):
        if each.marker is not None and not each.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(each.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        if version is None or not each.specifier.contains(version, prereleases=True):
            packages.append(Package(each.name, str(each.specifier), version))
    return found.version, lost, tuple(packages)


def _not_beside() -> list[str]:
    """Of what comes in the same package, what cannot be found beside this file: copies are made by hand."""
    lost = [] if importlib.util.find_spec("rkllama") else ["rkllama"]
    bundled = BUNDLED / "exo-demo" / "model.gguf"
    return lost if bundled.is_file() else [*lost, str(bundled)]
