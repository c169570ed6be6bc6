"""The floors of the house: a file imports only from lower floors or its own room."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

FLOORS = {"utils": 1, "models": 2, "data": 2, "augment": 2, "evaluation": 3}
FLOORS |= {"training": 4, "report": 4, "photos": 4, "tools": 5}
SCRIPTS = ("main", "test_code", "predict")  # the highest floor too, and no room for others
LIBRARIES = {"torch", "torchvision", "numpy", "pandas", "PIL", "matplotlib", "tqdm", "jinja2"}
LIBRARIES |= {
    "onnx",
    "onnxruntime",
    "av",
    "timm",
    "pillow_heif",
    "gradio",
    "starlette",
}  # of the extras `export`, `predict` and `demo`
FILES = [path for room in FLOORS for path in sorted((ROOT / room).rglob("*.py"))]
FILES += [ROOT / f"{script}.py" for script in SCRIPTS]


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module.split(".")[0]


def imported_modules(path):
    """Modules of ours, with their rooms."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return {node.module for node in nodes if node.module.split(".")[0] in FLOORS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    room = path.relative_to(ROOT).parts[0]
    floor = FLOORS.get(room, 5)
    for package in set(imported_packages(path)) - {room}:
        assert package not in SCRIPTS, f"{path} imports the script {package}"
        assert FLOORS.get(package, 0) < floor, f"{path} imports {package}"


def test_every_python_file_has_a_place():
    rooms = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("*/*.py") if not path.parts[-2].startswith(".")}
    assert rooms <= FLOORS.keys() | {"tests", "benchmarks", "runs", "docs", "examples"}
    assert {path.stem for path in ROOT.glob("*.py")} == set(SCRIPTS)


def test_only_declared_libraries_are_imported():
    allowed = LIBRARIES | FLOORS.keys() | set(sys.stdlib_module_names)
    for path in FILES:
        assert set(imported_packages(path)) <= allowed, path


def test_main_is_an_outline():
    source = (ROOT / "main.py").read_text()
    assert len(source.splitlines()) <= 150
    assert len(imported_modules(ROOT / "main.py")) <= 12
    (train_fold,) = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "train_fold"]
    assert train_fold.end_lineno - train_fold.lineno + 1 <= 25
    assert len(train_fold.args.args) <= 5


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_imports_torch_without_the_garbage_collector(script):
    first = next(name for name in imported_packages(ROOT / f"{script}.py") if name in FLOORS)
    assert first == "utils"
    code = f"import gc, {script}; assert gc.isenabled() and gc.get_freeze_count() > 100_000"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_who_imports_torch_keeps_the_garbage_collector_and_no_garbage():
    code = "import gc, weakref; gc.disable(); cycle = lambda: cycle; cycle.own = cycle; seen = weakref.ref(cycle)"
    code += "; del cycle; import predict; assert not gc.isenabled() and seen() is None"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_fit_a_screen(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
            assert len(node.args.args) <= 8, f"{path}: {node.name}"


def test_the_names_of_adience_stay_with_its_loader():
    named = {str(path.relative_to(ROOT)) for path in FILES if "AGE_GROUPS" in path.read_text()}
    assert named <= {"data/adience.py", "data/demo.py"}
