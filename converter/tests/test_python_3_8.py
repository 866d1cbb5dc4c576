"""The converter itself runs on Python 3.8, which the oldest toolkit wants: its syntax, at least, is tried."""

import ast
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[1] / "src").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_file_is_in_the_syntax_of_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    annotated = any(isinstance(node, (ast.AnnAssign, ast.FunctionDef)) for node in ast.walk(tree))
    postponed = any(
        isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in ast.walk(tree)
    )
    # `str | None` in an annotation is only read there if annotations are not evaluated.
    assert postponed or not annotated
    newer = {"removeprefix", "removesuffix", "is_relative_to", "cache", "batched", "pairwise"}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & newer
