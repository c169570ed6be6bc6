"""Imports point down only: scripts -> utils -> {models, data, augment} -> libraries."""

import ast

import pytest
from conftest import ROOT

LIBRARIES = {"torch", "torchvision", "numpy", "pandas", "PIL", "matplotlib", "tqdm"}
MAY_IMPORT = {"models": set(), "data": set(), "augment": set(), "utils": {"models", "data", "augment"}}
FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).glob("*.py"))]
SCRIPTS = {"main", "test_code", "compare", "ablate"}


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_imports_point_down(path):
    package = path.parent.name
    imported = set(imported_packages(path))
    ours = imported & (MAY_IMPORT.keys() | SCRIPTS)
    assert ours <= MAY_IMPORT[package] | {package}


def test_only_declared_libraries_are_imported():
    import sys

    allowed = LIBRARIES | MAY_IMPORT.keys() | set(sys.stdlib_module_names)
    for path in [*FILES, ROOT / "main.py", ROOT / "test_code.py"]:
        assert set(imported_packages(path)) <= allowed, path
