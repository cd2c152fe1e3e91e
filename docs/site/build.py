"""Builds the documentation site: gathers the pages, makes the reference, runs MkDocs.

    python docs/site/build.py OUTPUT

The pages keep their places, so that a link works in the repository and on the site. A link to a
file that the site does not have, such as a script, becomes plain text.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import yaml

import quiesce
from quiesce.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
GROUP = re.compile(r"^(\S.*):\n((?:    .*\n?)+)", re.MULTILINE)
WITHOUT_HELP = ("help", "completion")


def gather(pages: Path) -> None:
    """Copy the pages and pictures of the project."""
    shutil.copytree(ROOT / "docs", pages / "docs", ignore=shutil.ignore_patterns("site", "*.py"))
    for path in (ROOT / "experiments").rglob("*"):
        if path.suffix in (".md", ".svg", ".png"):
            copy = pages / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    shutil.copy(ROOT / "README.md", pages / "index.md")
    shutil.copy(ROOT / "CHANGELOG.md", pages)


def groups() -> Iterator[tuple[str, list[str]]]:
    """Yield the public names by subject, from the docstring of the package."""
    for title, body in GROUP.findall(quiesce.__doc__ or ""):
        words = [line.partition(":")[0] for line in body.splitlines() if line.startswith("    ")]
        names = [name.strip() for part in words for name in part.split(",")]
        public = [name for name in names if name in quiesce.__all__]
        if public:
            yield title.rstrip(":"), public


def write_reference(pages: Path) -> list[object]:
    """Write a page for each public name, one for errors, and those of the command line.

    Returns:
        The navigation of the Python pages.
    """
    folder = pages / "docs" / "reference"
    (folder / "python").mkdir(parents=True)
    index = folder / "python" / "index.md"
    navigation: list[object] = [index.relative_to(pages).as_posix()]
    table = [Path(__file__).with_name("reference.md").read_text("utf-8")]
    listed = set()
    for title, names in groups():
        entries = []
        table.append(f"- {title}: {', '.join(f'[{name}]({name}.md)' for name in names)}\n")
        for name in names:
            listed.add(name)
            options = f"    options:\n      heading: quiesce.{name}\n      toc_label: {name}\n"
            page = folder / "python" / f"{name}.md"
            page.write_text(f"# {name}\n\n::: {home_of(name)}\n{options}", "utf-8")
            entries.append({name: page.relative_to(pages).as_posix()})
        navigation.append({title: entries})
    if missing := set(quiesce.__all__) - listed - {"__version__"}:
        sys.exit(f"help(quiesce) does not list {', '.join(sorted(missing))}")
    index.write_text("".join(table), "utf-8")
    (folder / "errors.md").write_text("# Errors\n\n::: quiesce.errors\n", "utf-8")
    parts = [f"# Command line\n\n```text\n{output_of('--help')}```\n"]
    for command in COMMANDS:
        if command not in WITHOUT_HELP:
            parts.append(f"## {command}\n\n```text\n{output_of('help', command)}```\n")
    (folder / "command-line.md").write_text("\n".join(parts), "utf-8")
    fields = output_of("train", "mnist_lsq_w3a3", "--help")
    text = "Every field of a recipe, with its value in mnist_lsq_w3a3, as a flag of `quiesce train`"
    (folder / "recipe.md").write_text(f"# Fields of a recipe\n\n{text}:\n\n```text\n{fields}```\n")
    return navigation


def home_of(name: str) -> str:
    """Return the full name of the definition of a public name."""
    value = getattr(quiesce, name)
    if isinstance(value, ModuleType):  # `quiesce.export` is a package that is called
        return "quiesce.export.targets.exporting.export"
    return f"{value.__module__}.{value.__qualname__}"


def output_of(*argv: str) -> str:
    """Return what a command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(argv)
    return printed.getvalue()


def write_explanation(pages: Path) -> None:
    """Write the page about oscillation with the interactive figures of `quiesce toy`."""
    folder = pages / "docs" / "explanation"
    folder.mkdir()
    printed = output_of("toy", "-o", str(folder / "toy.html"))
    shutil.copy(Path(__file__).with_name("oscillation.md"), folder / "oscillation.md")
    page = folder / "oscillation.md"
    page.write_text(page.read_text("utf-8").replace("TOY_TABLE", printed.strip()), "utf-8")


def write_examples(pages: Path) -> list[str]:
    """Write a page for each program of examples/, and let their table link to these pages.

    Returns:
        The pages.
    """
    folder = pages / "examples"
    folder.mkdir()
    listed = (ROOT / "examples" / "README.md").read_text("utf-8").replace(".py)", ".md)")
    (folder / "README.md").write_text(listed, "utf-8")
    for program in (ROOT / "examples").glob("*.py"):
        text = f"# {program.stem}\n\n```python\n{program.read_text('utf-8')}```\n"
        (folder / f"{program.stem}.md").write_text(text, "utf-8")
    listed_first = sorted(folder.glob("*.md"), key=lambda page: (page.stem != "README", page.stem))
    return [page.relative_to(pages).as_posix() for page in listed_first]


def unlink_missing(pages: Path) -> None:
    """Turn links to files that the site does not have into text."""
    for page in pages.rglob("*.md"):

        def target(match: re.Match[str], page: Path = page) -> str:
            text, link = match.groups()
            path, _, anchor = link.partition("#")
            if "://" in link or not path:
                return match[0]
            found = (page.parent / path).resolve()
            if found == (pages / "README.md").resolve():
                path, found = path.replace("README.md", "index.md"), pages / "index.md"
            if not found.is_file():
                return text
            return f"[{text}]({path}{'#' if anchor else ''}{anchor})"

        page.write_text(LINK.sub(target, page.read_text("utf-8")), "utf-8")


def configuration(work: Path, python: list[object], examples: list[str]) -> Path:
    """Write the configuration of MkDocs with the navigation filled in."""
    text = Path(__file__).with_name("mkdocs.yml").read_text("utf-8")
    tree = yaml.safe_load(text.replace("SOURCE", str(ROOT / "src")))
    pages = work / "pages"
    deployment = sorted(pages.glob("docs/how-to/deploy*.md")) + sorted(
        pages.glob("docs/how-to/deploy/*.md"), key=lambda path: (path.stem != "README", path.stem)
    )
    lists: dict[str, object] = {
        "PYTHON": python,
        "EXAMPLES": examples,
        "DEPLOYMENT": [path.relative_to(pages).as_posix() for path in deployment],
        "EXPERIMENTS": [
            {path.parent.name: path.relative_to(pages).as_posix()}
            for path in sorted(pages.glob("experiments/*/README.md"))
        ],
    }

    def filled(value: object) -> object:
        if isinstance(value, list):
            return [filled(each) for each in value]
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        return lists.get(value, value) if isinstance(value, str) else value

    tree["nav"] = filled(tree["nav"])
    file = work / "mkdocs.yml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
    return file


def build(output: Path) -> int:
    """Build the site in a folder; return the exit code of MkDocs."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        pages = work / "pages"
        pages.mkdir()
        gather(pages)
        python = write_reference(pages)
        write_explanation(pages)
        examples = write_examples(pages)
        unlink_missing(pages)
        file = configuration(work, python, examples)
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
        command += ["-f", str(file), "-d", str(output.resolve())]
        done = subprocess.run(command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=False)
    return done.returncode


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1] if len(sys.argv) > 1 else "site")))
