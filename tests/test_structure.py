"""Rooms depend one way, files do not import each other in a circle, long files say why; and these checks can fail."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
LINT = Path(sys.executable).with_name("lint-imports")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(folder / "src"), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [str(LINT), "--no-cache", "--config", str(folder / "pyproject.toml")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


def test_the_rooms_depend_one_way(copy: Path) -> None:
    found = lint(copy)
    assert found.returncode == 0, found.stdout


PLANTED_IMPORTS = (
    ("core.seeds", "tasks.suite"),
    ("merging.run", "training.trainer"),
    ("merging.run", "composition.residuals"),
    ("evaluation.report", "merging.recipe"),
    ("merging.methods.ties", "merging.methods.average"),
)


def test_planted_violations_fail(copy: Path) -> None:
    for file, imported in PLANTED_IMPORTS:
        path = copy / "src" / "allround" / f"{file.replace('.', '/')}.py"
        first = "from __future__ import annotations\n"
        path.write_text(path.read_text().replace(first, f"{first}import allround.{imported}\n"))
    found = lint(copy)
    assert found.returncode != 0 and "BROKEN" in found.stdout
    for file, imported in PLANTED_IMPORTS:
        assert f"allround.{file} -> allround.{imported} (l." in found.stdout, found.stdout


# -- circles -----------------------------------------------------------------------------------------------------------


def circles(package: str) -> list[list[str]]:
    """Groups of modules of which each imports each other on some way, TYPE_CHECKING imports included."""
    graph = grimp.build_graph(package, exclude_type_checking_imports=False, cache_dir=None)
    reached = {module: graph.find_downstream_modules(module) for module in graph.modules}
    groups = {
        tuple(sorted({other for other in found if module in reached[other]} | {module}))
        for module, found in reached.items()
        if module in found or any(module in reached[other] for other in found)
    }
    return [list(group) for group in sorted(groups)]


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles("allround") == []


PLANTED = {
    "straight": {"a": "from {p} import b", "b": "from {p} import c", "c": ""},
    "circle": {"a": "from {p} import b", "b": "from {p}.c import x", "c": "from {p} import a\nx = 1"},
    "types": {
        "a": "from {p}.b import B",
        "b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from {p} import a\nclass B: ...",
        "c": "",
    },
    "late": {"a": "from {p} import b", "b": "def f():\n    from {p} import a", "c": ""},
}


@pytest.mark.parametrize(
    ("name", "found"), [("straight", []), ("circle", ["a", "b", "c"]), ("types", ["a", "b"]), ("late", ["a", "b"])]
)
def test_a_planted_circle_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, found: Sequence[str]
) -> None:
    package = f"planted_{name}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("")
    for file, text in PLANTED[name].items():
        (tmp_path / package / f"{file}.py").write_text(text.format(p=package))
    monkeypatch.syspath_prepend(tmp_path)
    assert circles(package) == ([[f"{package}.{file}" for file in found]] if found else [])


# -- length ------------------------------------------------------------------------------------------------------------

LINES = 400
#: How the docstring of a longer file begins the sentence that gives the reason.
REASON = "Longer than 400 lines because"


def long_files(package: Path) -> set[str]:
    """The files of a package that have more lines than they may, and do not say why."""
    texts = {path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    return {
        name
        for name, text in texts.items()
        if len(text.splitlines()) > LINES and REASON not in " ".join((ast.get_docstring(ast.parse(text)) or "").split())
    }


def test_no_file_is_long_without_a_reason() -> None:
    found = long_files(ROOT / "src" / "allround")
    assert not found, f"split these by ideas, or say in the docstring why not: {REASON} ..."


def test_a_planted_long_file_is_found(tmp_path: Path) -> None:
    lines = "x = 1\n" * LINES
    (tmp_path / "short.py").write_text(lines)
    (tmp_path / "long.py").write_text(f"{lines}x = 1\n")
    (tmp_path / "why.py").write_text(f'"""A list.\n\nLonger than 400\nlines because it is one list.\n"""\n{lines}')
    (tmp_path / "comment.py").write_text(f"# {REASON} it is a comment\n{lines}")
    assert long_files(tmp_path) == {"long.py", "comment.py"}


def test_files_of_tests_have_names_of_their_own() -> None:
    """Of two with one name, pytest collects one alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
