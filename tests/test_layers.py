"""How the package hangs together: imports point downwards, and the core needs torch alone."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import quiesce
from quiesce import public

SOURCE = Path(quiesce.__file__).parent
ORDER = (
    {"errors", "schedules", "text_table", "arithmetic"},
    {"extras", "parallel", "user_code"},
    {"inference"},
    {"files", "models", "quantization"},
    {"data", "export", "health", "oscillation", "run_folder", "stacks"},
    {"cures", "comparison", "recipes"},
    {"diagnosis", "integrations", "report", "toy"},
    {"lightning", "training"},
    {"after_training", "sweeps"},
    {"tuning"},
    {"cli", "public"},
    {"__main__"},
)
"""From the bottom up: a part imports from floors below its own, and freely inside itself."""

ABOVE_THE_WAIST = {"oscillation", "cures"}
THE_VIEW = "quiesce.quantization.quantized_weight"
"""All that is above reaches weights through this module alone."""

MODULES = sorted(SOURCE.rglob("*.py"))


def part_of(path: Path) -> str:
    """First name below the package: `data` for data/mnist5k.py, `grid` for grid.py."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imports(path: Path) -> list[str]:
    """Modules of quiesce that a file names in its imports, wherever in the file they stand."""
    dotted = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            dotted += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            dotted += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in dotted if name.startswith("quiesce.")]


def parts_imported(path: Path) -> set[str]:
    """Parts of quiesce that a file imports from."""
    return {name.split(".")[1] for name in imports(path)}


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


def test_no_files_import_each_other_in_a_circle() -> None:
    """Inside a folder too: some order of all files has every import pointing back."""
    names = {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): path for path in MODULES
    }
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph = {}
    for name, path in names.items():
        if path.name != "__init__.py":  # the faces of folders gather what is below them
            found = {each if each in names else each.rpartition(".")[0] for each in imports(path)}
            graph[name] = {each for each in found if names[each].name != "__init__.py"}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("part", sorted(ABOVE_THE_WAIST))
def test_weights_are_reached_through_the_one_view(part: str) -> None:
    files = [path for path in MODULES if part_of(path) == part]
    assert files
    for path in files:
        below = [name for name in imports(path) if name.startswith("quiesce.quantization")]
        assert all(name.startswith(THE_VIEW) for name in below), path


def test_quantization_knows_nothing_of_oscillation() -> None:
    files = [path for path in MODULES if part_of(path) == "quantization"]
    assert files
    for path in files:
        assert not parts_imported(path) & ABOVE_THE_WAIST, path


def test_the_top_level_is_folders() -> None:
    assert len([path for path in SOURCE.glob("*.py") if path.name != "__init__.py"]) <= 10


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


def test_the_package_has_the_public_names_and_no_others() -> None:
    assert all(getattr(quiesce, name) is getattr(public, name) for name in quiesce.__all__)
    with pytest.raises(ImportError, match="cannot import name 'preprare' from 'quiesce'"):
        from quiesce import preprare  # noqa: F401


def test_all_names_what_is_visible() -> None:
    visible = {
        name
        for name, value in vars(public).items()
        if not name.startswith("_") and (callable(value) or not isinstance(value, ModuleType))
    } - {"TYPE_CHECKING"}
    assert set(quiesce.__all__) == visible
    assert len(quiesce.__all__) == len(visible)


def test_the_version_is_that_of_the_package() -> None:
    code = "import quiesce; quiesce.__version__; dir(quiesce)"
    assert quiesce.__version__ == version("quiesce")
    assert "torch" not in imported_by(code)


def test_dir_shows_the_public_names_and_no_helpers_straight_after_import() -> None:
    code = "import quiesce; print(*[n for n in dir(quiesce) if not n.startswith('__')])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(ran.stdout.split()) == set(quiesce.__all__)


def test_the_help_of_the_package_lists_every_public_name() -> None:
    heads = re.findall(r"^    ([\w, ]+?)(?:: .+)?$", str(quiesce.__doc__), flags=re.MULTILINE)
    listed = [name for head in heads for name in head.split(", ")]
    assert sorted(listed) == sorted(quiesce.__all__)


PRIVATE = re.compile(
    r"((?:torch|lightning|timm)(?:\.\w+)*?\.(?:_[A-Za-z]\w*|experimental|connectors))\b"
)


def private_parts(path: Path) -> set[str]:
    """Names of other packages in a file that have a part with an underscore, or are experimental.

    Each is cut off after that part.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    found = set()
    for name in names:
        if match := PRIVATE.match(name):
            found.add(match[1])
    return found


def test_private_parts_of_other_libraries_are_listed() -> None:
    page = (SOURCE.parents[1] / "docs" / "private-parts.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `([\w.]+)`", page, flags=re.MULTILINE))
    assert set().union(*map(private_parts, MODULES)) == listed
