"""Flags, variables, routes, short names and files that documents name are there."""

import json
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from exo.cli import keys, options
from exo.store import families
from rkllama.cli import keys as npu_keys
from tests.deploy.test_open_paths import TABLES, paths

from .blocks import ROOT, Block, blocks
from .commandlines import flags
from .shell import commands
from .test_commands import DOCUMENTS, names

# History, and what is made of the commands themselves.
TOLD = [each for each in DOCUMENTS if each.name not in ("CHANGELOG.md", "CLI.md", "benchmarks.md")]

OTHERS_FLAGS = {
    "--merge": "llama-gguf-split",
    "--cpus": "docker",
    "--device": "docker",
}
"""Of programs that are not ours."""

SCHEMAS = [ROOT / "src" / package / "cli" / "config.schema.json" for package in ("exo", "rkllama")]

OF_EXAMPLES = ("parrot-tiny",)
"""Names that packages in examples/ add, which are not installed here."""

OTHERS_VARIABLES = frozenset(
    {
        "RKLLM_CONVERT_PYTHON",  # the converter's
        "RKLLM_LIBRARY",  # of deploy/docker/compose.yaml
    }
)

OTHERS_ROUTES = re.compile(r"/v1/?$|/api/$|/api/v1/|/v1/traces$")
"""Prefixes, Prometheus' own, and OpenTelemetry's."""


def prose(document: Path) -> str:
    return re.sub(r"<!--.*?-->", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("document", TOLD, ids=names)
def test_flags_are_those_of_a_command(document: Path) -> None:
    named = set(re.findall(r"`(--[a-z][a-z0-9_-]*)", prose(document)))
    known = flags() | OTHERS_FLAGS.keys() | scripts()
    assert named - known == set()


@cache
def scripts() -> frozenset[str]:
    """Flags of our scripts, which read them by argparse."""
    listed = subprocess.run(
        ["git", "grep", "-hoE", r'add_argument\("--[a-z-]+"', "--", "*.py", "scripts"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return frozenset(re.findall(r"--[a-z-]+", listed.stdout))


@pytest.mark.parametrize("document", TOLD, ids=names)
def test_variables_are_read_by_something(document: Path) -> None:
    text = prose(document)
    named = set(re.findall(r"(?<![\w/-])((?:EXO|RKLLAMA|RKLLM)_[A-Z][A-Z_]*[A-Z])(?![\w…*])", text))
    known = options.ENVIRONMENT | keys.VARIABLES | npu_keys.VARIABLES | OTHERS_VARIABLES
    # What a text shows as a mistake, or as another program's.
    mistaken = set(re.findall(r"`(EXO_[A-Z_]+)=tcp", text))
    assert named - known - mistaken == set()


@pytest.mark.parametrize("document", TOLD, ids=names)
def test_routes_are_answered(document: Path) -> None:
    known = [
        re.compile(re.sub(r"\{[^}]*:[^}]*\}|\{[^}]*\}", "[^/]+", path) + "/?") for _, path in paths(TABLES)
    ]
    named = set(re.findall(r"(?<![\w./-])/(?:v1|api)/[a-z_/{}A-Z0-9-]*", prose(document)))
    lost = [
        each for each in named if not OTHERS_ROUTES.match(each) and not any(k.fullmatch(each) for k in known)
    ]
    assert lost == []


@pytest.mark.parametrize("document", TOLD, ids=names)
def test_short_names_are_known(document: Path) -> None:
    """Of models that are to be pulled, or looked up before that."""
    for block in blocks(document, "sh"):
        for command in commands(block.text):
            if command.program == "exo" and command.words[1:2] in (("pull",), ("show",)):
                model = command.words[2]
                known = families.find(model) or model in OF_EXAMPLES
                assert "/" in model or model.isupper() or known, f"{block.place}: {model}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        page = (document.parent / file).resolve() if file else document
        assert page.exists(), target
        assert not heading or heading in anchors(page), target


@cache
def anchors(page: Path) -> frozenset[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return frozenset(re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles)


@pytest.mark.parametrize("document", TOLD, ids=names)
def test_files_of_the_repository_are_there(document: Path) -> None:
    """Named from its root, or from the document's own folder."""
    folders = "src|tests|docs|deploy|scripts|bench|converter|standin|demo|auto|examples|requirements"
    named = set(re.findall(rf"`((?:{folders})/[\w./-]*\w)`", prose(document)))
    places = (ROOT, document.parent)
    assert sorted(each for each in named if not any((place / each).exists() for place in places)) == []


# Codex' own configuration.
TOML = [each for document in TOLD if document.name != "CLIENTS.md" for each in blocks(document, "toml")]


@pytest.mark.parametrize("block", TOML, ids=lambda block: block.place)
def test_configurations_are_as_one_of_the_programs_takes_them(block: Block) -> None:
    said = tomllib.loads(block.text)
    problems = [
        [error.message for error in Draft202012Validator(json.loads(schema.read_text())).iter_errors(said)]
        for schema in SCHEMAS
    ]
    assert [] in problems, problems


def test_a_key_that_nothing_reads_is_found() -> None:
    for schema in SCHEMAS:
        assert not Draft202012Validator(json.loads(schema.read_text())).is_valid({"http": {"prot": 1}})
