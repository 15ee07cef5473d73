"""The rules of the house as tests: who may import whom, what is public, what is documented, what must not be in the repo."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "panorama"

CORE = {
    "errors",
    "files",
    "csvscan",
    "labels",
    "config",
    "countdown",
    "events",
    "metrics",
    "noise",
    "suspects",
    "split",
    "charts",
    "bootstrap",
    "drawing",
    "decisions",
    "serving",
}
PICTURES = {
    "decoding",
    "images",
    "thumbnails",
    "terrain",
    "scenery",
    "demo",
}  # Pillow and numpy, so that pages can show pictures without torch
CACHE = {"cache"}  # between torch, which fills it, and pages, which show its size
TORCH = {
    "preprocessing", "hardware", "processes", "model", "activations", "depthwise", "fusing", "blocked", "folding", "steps", "features", "training", "kernel", "crossval", "checkpoint", "prediction", "onnx", "engine",
}  # fmt: skip
STORAGE = {
    "archives",
    "pictures",
    "finding",
    "datasets",
    "runs",
    "heat",
    "reviews",
    "reviewing",
    "reviewfiles",
    "export",
    "workbench",
    "cards",
    "effect",
    "report",
    "planted",
    "report_html",
    "workspace",
}
WORKER = {"worker", "preparing", "runlog", "outcome"}  # a run in its own process
SHELL = WORKER | {"bulk", "demo_job", "launch", "ui", "terminal", "quick", "cli", "__main__", "__init__"}


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """The modules a file imports; panorama's own as panorama.x."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"panorama.{alias.name}" for alias in node.names} if node.module == "panorama" else {node.module}
    return found


def own(found: set[str]) -> set[str]:
    return {name.split(".")[1] for name in found if name.startswith("panorama.")}


def third_party(found: set[str]) -> set[str]:
    import sys

    return {name.split(".")[0] for name in found} - set(sys.stdlib_module_names) - {"panorama"}


def test_every_module_has_a_layer() -> None:
    modules = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert modules == CORE | PICTURES | CACHE | TORCH | STORAGE | SHELL


@pytest.mark.parametrize("module", sorted(CORE))
def test_core_imports_only_core_numpy_pandas_and_altair(module: str) -> None:
    found = imports(PACKAGE / f"{module}.py")
    assert own(found) <= CORE
    allowed = {"numpy", "pandas", "altair"} if module == "charts" else {"numpy", "pandas"}
    assert third_party(found) <= allowed


@pytest.mark.parametrize("module", sorted(PICTURES))
def test_pictures_need_only_pillow_and_numpy(module: str) -> None:
    found = imports(PACKAGE / f"{module}.py")
    assert own(found) <= CORE | PICTURES
    assert third_party(found) <= {"numpy", "PIL"}


@pytest.mark.parametrize("module", sorted(CACHE))
def test_the_cache_imports_neither_torch_nor_anything_of_ours_but_core(module: str) -> None:
    found = imports(PACKAGE / f"{module}.py")
    assert own(found) <= CORE
    assert third_party(found) <= {"numpy", "filelock"}


@pytest.mark.parametrize("module", sorted(TORCH))
def test_torch_modules_import_core_pictures_and_each_other(module: str) -> None:
    found = imports(PACKAGE / f"{module}.py")
    assert own(found) <= CORE | PICTURES | CACHE | TORCH
    assert not third_party(found) & {"streamlit", "altair"}


@pytest.mark.parametrize("module", sorted(STORAGE))
def test_storage_never_imports_torch_or_streamlit(module: str) -> None:
    found = imports(PACKAGE / f"{module}.py")
    assert own(found) <= CORE | PICTURES | STORAGE
    assert not third_party(found) & {"torch", "torchvision", "safetensors", "streamlit", "altair"}


@pytest.mark.parametrize("module", sorted(WORKER))
def test_the_worker_imports_no_streamlit_and_no_altair(module: str) -> None:
    assert not third_party(imports(PACKAGE / f"{module}.py")) & {"streamlit", "altair"}
    assert "ui" not in own(imports(PACKAGE / f"{module}.py"))


def test_in_the_library_only_ui_imports_streamlit() -> None:
    users = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if "streamlit" in third_party(imports(path))}
    assert users == {"ui"}


@pytest.mark.parametrize("page", sorted((ROOT / "pages").glob("*.py")), ids=lambda path: path.stem)
def test_pages_guard_first_and_import_torch_only_where_a_model_runs(page: Path) -> None:
    tree = ast.parse(page.read_text(encoding="utf-8"))
    statements = [node for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    assert ast.unparse(statements[0]) == "ui.ensure_entrypoint()", "the first thing a page does"
    assert not own(imports(page, top_level_only=True)) & TORCH
    assert not third_party(imports(page, top_level_only=True)) & {"torch", "torchvision"}


def test_importing_the_app_does_not_import_torch() -> None:
    import sys

    script = "import sys, panorama.ui, panorama.reviewing, panorama.launch; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_nothing_loads_pickles_but_torch_weights_only() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) (pickle|joblib|dill|shelve|marshal)", text, re.M), path
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, path
        for call in re.findall(r"np\.load\([^)]*\)", text):
            assert "allow_pickle=False" in call, path


def test_every_public_function_and_class_says_what_the_caller_gets() -> None:
    silent = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) or path.stem == "__init__", path
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                silent.append(f"{path.stem}.{node.name}")
    # An event whose fields say it all needs no sentence.
    assert [name for name in silent if not name.startswith("events.")] == []


def test_the_public_names_are_the_ones_the_package_lists() -> None:
    import panorama

    assert sorted(panorama.__all__) == panorama.__all__
    for name in panorama.__all__:
        assert getattr(panorama, name) is not None


def test_every_command_is_in_the_readme() -> None:
    from panorama.__main__ import _parser

    commands = next(action for action in _parser()._actions if action.dest == "command").choices
    assert commands
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in commands if f"panorama {name}" not in readme] == []
