"""The documentation says what is true: its code runs, its links lead somewhere, its commands exist."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import typer.main

import allround
from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.manifest import read_manifest
from allround.tasks.definition import Definition
from allround.tasks.spec import parse_suite

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path, language: str | None = None) -> list[str]:
    """The code blocks of a page, in order; of one language where that is given."""
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [code for name, code in found if language in (None, name)]


def by_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("documentation_hooks", DOCS / "hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Code.


def test_the_code_of_the_page_on_python_runs(tmp_path: Path) -> None:
    code = "\n".join(blocks(DOCS / "api.md", "python"))
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    assert "Warning" not in ran.stderr
    assert (tmp_path / "retention.png").is_file() and (tmp_path / "cost.svg").is_file()
    assert re.search(r"ties +mood +0\.875 +0\.875 +1000000", ran.stdout)


Page = Callable[..., str]


@pytest.fixture
def run_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Page:
    """Run the commands and the Python blocks of a page in `tmp_path`, in their order; what they print.

    In this process, where torch and transformers are loaded. A warning is an error, as in every test.
    rows: of each split, for the commands that take such a limit. `None`: all rows.
    """
    from allround.cli.app import app
    from allround.core import plugins
    from allround.evaluation.timing import row_times

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_named", {})
    assert row_times.__kwdefaults__ is not None
    monkeypatch.setitem(row_times.__kwdefaults__, "most", 6)
    group: Any = typer.main.get_command(app)
    limited = {name for name, one in group.commands.items() if any("--limit" in p.opts for p in one.params)}

    def run(page: str, *, rows: int | None = 40) -> str:
        few = [word for split in ("train", "validation", "test") for word in ("--limit", f"{split}={rows}")]
        names: dict[str, Any] = {"__name__": "page"}
        for language, code in _FENCE.findall((DOCS / page).read_text(encoding="utf-8")):
            if language == "python":
                exec(compile(code, page, "exec"), names)
            for _, name, *words in map(shlex.split, lines_of_commands(code)):
                app([name, *words, *(few if rows and name in limited else [])], standalone_mode=False)
        printed, said = capfd.readouterr()
        assert "Warning" not in said and "Traceback" not in said
        return printed

    return run


@pytest.fixture
def few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The set of tumours that scikit-learn carries has 120 rows."""
    import sklearn.datasets

    def first(**given: Any) -> Any:
        found = load(**given)
        found.frame = found.frame.head(120)
        return found

    load = sklearn.datasets.load_breast_cancer
    monkeypatch.setattr(sklearn.datasets, "load_breast_cancer", first)


@pytest.mark.slow
@pytest.mark.usefixtures("few_cells")
def test_the_tutorial_runs_from_top_to_bottom(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("tutorial.md")
    assert (tmp_path / "runs" / "cells" / "report.html").is_file()
    assert "did you mean 'worst area'?" in printed
    assert "Chosen on validation" in printed
    assert len(commands(DOCS / "tutorial.md")) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("few_cells")
def test_the_page_on_python_runs_and_is_short(run_page: Page, tmp_path: Path) -> None:
    (code,) = blocks(DOCS / "python.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    printed = run_page("python.md")
    assert "chosen on validation rows" in printed
    assert (tmp_path / "models" / "merged" / "heads.safetensors").is_file()
    assert set(allround.load(tmp_path / "models" / "merged").definitions) == {"diagnosis", "area"}


@pytest.mark.slow
def test_the_page_on_relations_runs(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("relations.md")
    assert "Nothing was trained:" in printed and "Of 6 measured pairs of tasks" in printed
    assert "2 sources ranked by" in printed and "10 sources ranked by 3 estimates together" in printed
    assert (tmp_path / "runs" / "related" / "relations.html").is_file()


@pytest.mark.slow
def test_the_page_on_a_new_task_runs(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("new-task.md")
    assert "segments was added by" in printed and "ink was added by" in printed
    assert set(allround.load(tmp_path / "runs/five/best").definitions) == {
        "digit", "parity", "loops", "segments", "ink"}  # fmt: skip
    assert (tmp_path / "runs/four/add-task.html").is_file()


@pytest.mark.slow
def test_the_page_on_versions_runs(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("versions.md", rows=100)
    assert "The new version:" in printed and printed.rstrip().endswith("True")
    assert (tmp_path / "versions/compared/compare.md").is_file()


@pytest.mark.slow
def test_the_page_on_retrieval_runs(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("retrieval.md")
    assert printed.rstrip().splitlines()[-1] == "delivery"
    assert "['About parcels', 'About bills']" in printed
    pages = {"login", "invoice", "refund", "delivery", "device", "cancel"}
    found = [line for line in printed.splitlines() if set(line.split()) == pages]
    assert len(found) == 2 and found[0] == found[1], "the index answers as the passages do"
    assert "passages  6, vectors of 384 numbers" in printed


def test_the_page_on_shrinking_runs(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("shrink.md")
    assert "The knee of the curve" in printed or "scores kept" in printed or "kept, %" in printed
    assert (tmp_path / "runs/half/shrink.html").is_file()
    assert re.search(r"[1-9]\d* unlabelled", (tmp_path / "runs/few/shrink.md").read_text())
    assert set(allround.load(tmp_path / "runs/half/best").definitions) == {"digit", "parity", "loops"}


@pytest.mark.slow
def test_the_page_on_exports_runs(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("export.md")
    assert printed.rstrip().endswith("(3, 10)") and printed.count("of graphs and weights") == 2


@pytest.mark.slow
def test_the_page_on_streams_runs(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("streams.md")
    assert all(f"\n{name} " in printed for name in ("er", "ewc", "lwf", "ridge", "joint", "none"))


def test_the_examples_of_the_page_on_architecture_work(run_page: Page, tmp_path: Path) -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert int(run_page("architecture.md")) > 0, "it prints the steps of a training with the example's term"
    head, system, _ = blocks(DOCS / "architecture.md", "python")
    names: dict[str, Any] = {}
    exec(head + system, names)
    definition = Definition("t", "classification", ("x",), "text", "accuracy", ("a", "b"))
    assert names["Scaled"](definition, 4)(torch.ones(2, 4)).tolist() == [[0.0, 0.0]] * 2
    assert names["Majority"]({"t": definition}, {"t": [0.4, 0.6]}).predict("t", ["one", "two"]) == ["b", "b"]
    saved = names["Majority"]({"t": definition}, {"t": [0.4, 0.6]})
    saved.save(tmp_path / "saved")
    _, definitions, facts = read_manifest(tmp_path / "saved")
    assert names["Majority"].read(tmp_path / "saved", definitions, facts).shares == {"t": [0.4, 0.6]}
    for path in re.findall(r"`((?:models|training|building|tasks|tests)/[a-z_/]+(?:\.py|/))`", page):
        root = DOCS.parent if path.startswith("tests/") else DOCS.parent / "src" / "allround"
        assert (root / path).exists() or Path(path).name in ("scaled.py", "majority.py"), path


@pytest.mark.slow
def test_the_page_on_merging_runs_from_top_to_bottom(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("merge.md", rows=None)  # on few rows tuning is no better than the base, which is then kept
    assert printed.count("merged 2 models by") == 5
    assert (tmp_path / "runs" / "diff" / "diff.html").is_file()
    assert (tmp_path / "models" / "from-adapters" / "README.md").is_file()


@pytest.mark.slow
def test_the_page_on_joint_training_runs_from_top_to_bottom(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("training.md")
    assert len(list((tmp_path / "models").glob("*/heads.safetensors"))) == 7
    assert "settings were compared on validation rows" in printed
    assert (tmp_path / "runs" / "compared" / "comparison.html").is_file()


@pytest.mark.slow
def test_the_page_on_sharing_runs_from_top_to_bottom(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("sharing.md")
    assert printed.splitlines()[-1] == "parity answers as before"
    header, *lines = (tmp_path / "models" / "experts" / "sharing.csv").read_text(encoding="utf-8").splitlines()
    assert header == "place,module,task,weight" and len(lines) == 3 * 4
    assert (tmp_path / "runs" / "shares" / "comparison.html").is_file()


@pytest.mark.slow
def test_the_page_on_learned_merges_runs_from_top_to_bottom(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("learned.md", rows=100)
    (plan,) = (code for code in blocks(DOCS / "learned.md", "text") if "start scale" in code)
    assert plan in printed
    assert printed.count("learned a merge of 3 models by") == 5
    assert printed.count("learned a merge of 2 models by") == 1


@pytest.mark.slow
def test_the_page_on_different_starts_runs_from_top_to_bottom(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("align.md")
    assert printed.count("features of") == 4
    assert "100% of the layers" in printed


@pytest.mark.slow
def test_the_page_on_residuals_runs_from_top_to_bottom(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("residuals.md", rows=100)
    (sizes,) = (code for code in blocks(DOCS / "residuals.md", "text") if "stored once" in code)
    assert sizes in printed
    assert (tmp_path / "models" / "inverted-again" / "heads.safetensors").is_file()


@pytest.mark.slow
def test_the_page_on_libraries_runs_from_top_to_bottom(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("libraries.md")
    assert "dropped loops-again: it is loops" in printed
    assert (tmp_path / "models" / "loops-alone" / "heads.safetensors").is_file()
    assert (tmp_path / "adapters" / "loops" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_the_page_on_loops_runs_from_top_to_bottom(run_page: Page, tmp_path: Path) -> None:
    printed = run_page("loops.md")
    assert printed.count("was kept, the best on validation") == 3
    assert not list((tmp_path / "models").glob("*.unfinished"))


@pytest.mark.slow
def test_the_page_on_plugins_runs_from_top_to_bottom(run_page: Page, tmp_path: Path) -> None:
    file, checked = blocks(DOCS / "plugins.md", "python")[0], blocks(DOCS / "plugins.md", "text")[0]
    (tmp_path / "softened.py").write_text(file, encoding="utf-8")
    printed = run_page("plugins.md")
    assert checked in printed and "8 of 8 checks held" in printed
    assert "'softened'" in printed.splitlines()[-1]
    board = json.loads((tmp_path / "runs" / "mine" / "scoreboard.json").read_text(encoding="utf-8"))
    assert "softened" in {system["name"] for system in board["systems"]}


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_python_blocks_compile(page: Path) -> None:
    for code in blocks(page, "python"):
        # A decorator alone, as in CONTRIBUTING.md, needs something to decorate.
        compile(code + "def _(): ...\n" if code.startswith("@") else code, by_name(page), "exec")


def test_names_that_the_docs_import_exist() -> None:
    for page in PAGES:
        for code in blocks(page, "python"):
            for line in re.findall(r"^(?:from allround[\w.]* import .+|import allround[\w.]*)$", code, re.MULTILINE):
                exec(line, {})


def test_every_public_name_is_documented() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^::: allround\.(\w+)$", page, re.MULTILINE))
    assert listed == set(allround.__all__) - {"__version__"}
    assert set(allround.__all__) <= set(dir(allround))
    for name in listed:
        said = getattr(allround, name).__doc__
        assert said and len(said) > 40, f"{name} says nothing of itself"


def test_the_example_of_a_merge_method_is_that_method() -> None:
    (code,) = (c for c in blocks(ROOT / "CONTRIBUTING.md", "python") if "def median" in c)
    assert code.strip() == (ROOT / "src/allround/merging/methods/median.py").read_text(encoding="utf-8").strip()


def test_the_example_of_a_threshold_passes_every_check_and_is_the_same_in_blocks() -> None:
    import doctest

    import torch

    from allround.merging.checks import check_method, in_blocks

    (code,) = (c for c in blocks(DOCS / "methods.md", "python") if "whole.sum" in c)
    space: dict[str, Any] = {"__name__": "strongest"}
    exec(compile(code, "strongest.py", "exec"), space)
    strongest = space["strongest"]
    check_method(strongest)
    test = doctest.DocTestParser().get_doctest(strongest.__doc__, space, "strongest", "strongest.py", 0)
    assert doctest.DocTestRunner().run(test) == doctest.TestResults(failed=0, attempted=1)
    entry: Any = SimpleNamespace(load=lambda: strongest, facts={"block": "element", "whole": True})
    base, deltas = torch.linspace(-1, 1, 23), torch.linspace(-1, 1, 69).sin().reshape(3, 23)
    assert torch.allclose(in_blocks(entry, base, deltas, 5), strongest(base, deltas))


def test_recipes_in_the_docs_are_read(tmp_path: Path) -> None:
    from allround.merging.recipe_file import read_recipe

    found = blocks(DOCS / "recipes.md", "yaml")
    for number, code in enumerate(found):
        path = tmp_path / f"{number}.yml"
        path.write_text(code, encoding="utf-8")
        assert read_recipe(path)
    assert len(found) > 5


def test_the_page_on_recipes_has_every_method_of_mergekit() -> None:
    from allround.merging.mergekit.methods import METHODS

    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    for name, about in METHODS.items():
        assert f"\n| `{name}` | `{about.to}` | " in page, name


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_suite_files_in_the_docs_are_valid(page: Path) -> None:
    for code in blocks(page, "yaml"):
        if "tasks:" in code:
            assert parse_suite(code, name="example").tasks


def test_errors_that_the_docs_quote_are_the_real_ones() -> None:
    quoted = next(code for code in blocks(DOCS / "suite-file.md", "text") if "metrc" in code)
    text = "tasks: {topic: {source: a.csv, kind: classification, inputs: x, target: y, metrc: accuracy}}"
    with pytest.raises(AllroundError) as caught:
        parse_suite(text, name="suite", asked="read the suite file 'suite.yml'")
    assert str(caught.value) == quoted.strip()


def test_errors_on_the_page_of_troubleshooting_are_in_the_package() -> None:
    """Of each quoted error the longest part between names and numbers stands in a message of the package."""
    import ast

    texts: list[str] = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                texts.append("".join(map(str, parts)))
    said = "\n".join(texts)
    quoted = re.findall(r"\*\*`([^`]+)`", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"))
    assert len(quoted) > 10
    changing = r"^\w+(?= has no)|holds \w+|'[^']*'|\d+(?: tensors are)?|[;:(]| in$"
    for error in quoted:
        part = max(re.split(changing, error), key=len).strip()
        assert part in said, part


# Commands.


def commands(page: Path) -> list[str]:
    """The lines of code blocks that call allround; lines that end in a backslash go on in the next."""
    return [line for code in blocks(page) for line in lines_of_commands(code)]


def lines_of_commands(code: str) -> list[str]:
    return [line for line in re.sub(r"\\\n\s*", "", code).splitlines() if line.startswith("allround ")]


ALL_COMMANDS = [pytest.param(line, id=f"{by_name(page)}: {line}") for page in PAGES for line in commands(page)]


@pytest.mark.parametrize("line", ALL_COMMANDS)
def test_commands_in_the_docs_exist_with_their_options(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from allround.cli.app import app
    from allround.cli.compress import split_options
    from allround.cli.learn import read_learning
    from allround.cli.loop import options_of
    from allround.cli.words import extras, read_options

    monkeypatch.setattr("allround.core.plugins.use_plugin", lambda file: None)  # the page's own test uses the file
    monkeypatch.setattr("allround.cli.config.read_config", lambda path, params: {"suite": "suite.yml"})
    command: Any = typer.main.get_command(app)
    _, *words = shlex.split(line, comments=True)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, *words = words
        assert name in command.commands, f"there is no command '{name}'"
        command = command.commands[name]
    context = command.make_context(command.name, list(words))
    given = context.params
    more = [*given.get("inputs", ()), *context.args]  # a method's own parameters come as words
    if command.name == "merge" and given["learn"]:
        read_learning(more, given["learn"], given["objective"], given["rows"])
    elif command.name == "merge":
        extras(more, given["method"] or "ties")
    elif command.name == "compress":
        own, others = split_options(more)
        parameters = registry.find("codec", given["codec"]).parameters
        read_options(own, {p.name: p.type for p in parameters}, given["codec"])
        extras(others, "average" if given["method"] in (None, "none") else given["method"])  # none stores the base
    elif command.name == "loop":
        options_of(given["name"], more, given["method"])


def test_there_are_commands_to_check() -> None:
    assert len(ALL_COMMANDS) > 10


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_make_targets_in_the_docs_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= targets


# Links.


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=by_name)
def test_relative_links_lead_to_files(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in _LINK.findall(text):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_site_has_whole_links_reaches_every_page_and_finds_every_method(tmp_path: Path) -> None:
    """A link or an anchor that leads nowhere, and a page outside of the navigation, are warnings, and so errors."""
    pytest.importorskip("mkdocs")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    start = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert f'href="{page.stem}.html"' in start or page.stem == "index", page.name
    assert 'src="iframe-worker.js"' in start and "unpkg" not in start, (
        "nothing is fetched, and pages on disk are searched"
    )
    index = json.loads((tmp_path / "site" / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = " ".join(part["text"] for part in index["docs"])
    assert [entry.name for entry in registry.entries() if not re.search(rf"\b{entry.name}\b", found)] == []


def test_every_page_is_in_the_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert f": {page.name}\n" in listed, page.name


# What is taken from the code.


def test_the_page_of_methods_has_every_method(hooks: ModuleType) -> None:
    page = hooks.on_page_markdown((DOCS / "methods.md").read_text(encoding="utf-8"))
    assert "<!--" not in page
    for entry in registry.entries():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{entry.name}` | {entry.summary}"))
        for parameter in entry.parameters:
            assert f"`{parameter.name}` (default {parameter.default}" in row or parameter.required


def test_the_page_of_commands_has_every_command_and_option(hooks: ModuleType) -> None:
    from allround.cli.app import app
    from allround.cli.help import common_options

    page = hooks.on_page_markdown((DOCS / "commands.md").read_text(encoding="utf-8"))
    _, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    by_command = dict(section.split("\n", 1) for section in sections)
    common = {option for parameter in common_options() for option in parameter.opts}
    assert all(f"| `{option}" in by_command["Options of every command"] for option in common)

    def check(group: Any, before: str = "") -> int:
        seen = 0
        for name in group.commands:
            command = group.commands[name]
            if hasattr(command, "commands"):
                seen += check(command, f"{before}{name} ")
                continue
            section = by_command[f"{before}{name}"]
            options = {o for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}
            missing = [o for o in options - common - {"--help"} if not re.search(rf"`{re.escape(o)}[` ]", section)]
            assert not missing, f"allround {before}{name}: {missing}"
            assert f"```text\nallround {before}{name}" in section
            seen += 1
        return seen

    assert check(typer.main.get_command(app)) == len(sections) - 1 > 20
    assert "`--scores`" in by_command["predict"] and "Default: `64`" in by_command["predict"]


def test_the_page_of_changes_has_the_changelog(hooks: ModuleType) -> None:
    page = hooks.on_page_markdown((DOCS / "changelog.md").read_text(encoding="utf-8"))
    assert page.strip() == (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").strip()


def test_the_page_of_python_names_what_the_package_exports() -> None:
    import allround

    page = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in allround.__all__:
        assert name == "__version__" or f"::: allround.{name}\n" in page, name


def test_examples_in_docstrings_become_code_blocks(hooks: ModuleType) -> None:
    text = "One line.\n\n>>> f(1)\n1\n>>> f(2)\n2\n\nMore.\n\n>>> g()"
    expected = "One line.\n\n```pycon\n>>> f(1)\n1\n>>> f(2)\n2\n```\n\nMore.\n\n```pycon\n>>> g()\n```"
    assert hooks.marked(text) == expected
    assert hooks.marked("cells[system][task] is a cell.\n\n>>> a[b][c]") == (
        "`cells[system][task]` is a cell.\n\n```pycon\n>>> a[b][c]\n```"
    )
