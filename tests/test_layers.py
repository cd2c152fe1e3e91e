"""How the package hangs together: imports point downwards, and the core needs torch alone."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import quiesce
from quiesce import public

SOURCE = Path(quiesce.__file__).parent
ORDER = (
    {"errors"},
    {
        "batches",
        "deferred",
        "extras",
        "files",
        "flat",
        "fusing",
        "grid",
        "modes",
        "reports",
        "schedules",
    },
    {"foreign", "shards"},
    {"estimators", "history", "ranges", "ranks"},
    {"fake_quantize", "passes"},
    {"kernels"},
    {"quantizer", "scheme"},
    {"layers", "additions"},
    {"dataflow"},
    {"residual"},
    {"faults", "weights"},
    {"explaining"},
    {"watching"},
    {"prepare"},
    {"syncing"},
    {"arena", "batchnorm", "calibrate", "compile"},
    {"distance", "tracked"},
    {"tracking"},
    {"cures"},
    {"control"},
    {"verifying"},
    {"toy"},
    {"export"},
    {"public"},
    {"diagnosis"},
    {"lightning_watch"},
    {"lightning"},
    {"mobilenet", "weight_files"},
    {"data", "models"},
    {"training"},
    {"comparison"},
    {"report"},
    {"sweeping"},
    {"cli"},
)
"""From the bottom up: a part imports from sets before its own, and freely inside itself."""

WAIST = {
    *("weights", "arena", "passes", "history", "distance", "tracked"),
    *("reports", "schedules", "shards", "flat", "grid", "errors"),
}
"""All that trackers, cures and Control may know of the package, besides one another."""

MODULES = sorted(SOURCE.rglob("*.py"))


def part_of(path: Path) -> str:
    """First name below the package: `data` for data/mnist5k.py, `grid` for grid.py."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def parts_imported(path: Path) -> set[str]:
    """Parts of quiesce that a file names in its imports, wherever in the file they stand."""
    dotted = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            dotted += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            dotted += [f"{node.module}.{alias.name}" for alias in node.names]
    names = [name.split(".") for name in dotted]
    return {name[1] for name in names if name[0] == "quiesce" and len(name) > 1}


def test_every_part_has_its_place() -> None:
    placed = [part for level in ORDER for part in level]
    assert len(placed) == len(set(placed))
    assert {part_of(path) for path in MODULES} - {"__init__"} == set(placed)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downwards(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return  # the face of all of them; what it costs to import is tested below
    level = next(i for i, level in enumerate(ORDER) if part in level)
    below = set().union(*ORDER[:level])
    assert parts_imported(path) - {part} <= below


@pytest.mark.parametrize("part", ["tracking", "cures", "control"])
def test_nothing_above_the_waist_knows_what_is_below(part: str) -> None:
    files = [path for path in MODULES if part_of(path) == part]
    assert files
    for path in files:
        assert parts_imported(path) <= WAIST | {"tracking", "cures", "control"}


def test_importing_quiesce_imports_torch_and_nothing_optional() -> None:
    code = """
import sys, torch
before = set(sys.modules)
from quiesce import *
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - set(sys.stdlib_module_names) - {"quiesce", "torch"}))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def imported_by(code: str) -> set[str]:
    """Names of all modules that a fresh interpreter has after `code`."""
    code += "\nimport sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize("code", ["import quiesce", "import quiesce.cli"])
def test_what_needs_no_torch_does_not_wait_for_it(code: str) -> None:
    assert "torch" not in imported_by(code)
    assert "torch" in imported_by(f"{code}; import quiesce; quiesce.Grid")


def test_functions_named_like_their_file_are_the_functions_in_any_order() -> None:
    files = {path.stem for path in SOURCE.glob("*.py")}
    shared = sorted(files & set(quiesce.__all__))
    assert shared == sorted(quiesce._NAMED_LIKE_THEIR_FILE)
    files_first = "; ".join(f"import quiesce.{name}" for name in shared)
    functions = ", ".join(f"quiesce.{name}" for name in shared)
    assert "torch" in imported_by(f"{files_first}; assert all(map(callable, [{functions}]))")


def test_the_package_has_the_public_names_and_no_others() -> None:
    assert all(getattr(quiesce, name) is getattr(public, name) for name in quiesce.__all__)
    with pytest.raises(ImportError, match="cannot import name 'preprare' from 'quiesce'"):
        from quiesce import preprare  # noqa: F401


def test_all_names_what_is_visible() -> None:
    visible = {
        name
        for name, value in vars(public).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert set(quiesce.__all__) == visible
    assert len(quiesce.__all__) == len(visible)
