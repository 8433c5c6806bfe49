"""Methods from outside the package: files that are named, packages with entry points, and what names a piece."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import allround
from allround.core import plugins, registry
from allround.core.errors import AllroundError
from allround.core.jobs import Processes, call
from allround.core.pieces import Pieces
from allround.core.plugins import use_plugin

SRC = Path(allround.__file__).parents[1]


def test_a_plugin_is_a_method_like_any_other(plugin_files: dict[str, Path]) -> None:
    before = registry.names("merge")
    entry = allround.use_plugin(plugin_files["halved"])
    assert registry.names("merge") == sorted([*before, "halved"])
    assert registry.find("merge", "halved") == entry and entry in registry.entries("merge")
    assert (entry.family, entry.room, entry.path) == ("merge", "merging", plugin_files["halved"])
    assert entry.resolve({"scale": 1}) == {"scale": 1} and entry.parameters[0].search == (0.5, 0.25)
    loaded = entry.load()
    assert loaded.__name__ == "halved" and registry.load("merge", "halved") is loaded
    assert "halved" not in registry.names("balance")
    with pytest.raises(AllroundError, match="did you mean 'halved'"):
        registry.find("merge", "halve")


def test_a_plugin_is_not_imported_until_it_is_used(plugin_files: dict[str, Path]) -> None:
    code = (
        "import sys\n"
        "from allround.core import registry\n"
        "from allround.core.plugins import use_plugin\n"
        f"use_plugin({str(plugin_files['halved'])!r})\n"
        "assert 'halved' in registry.names('merge') and registry.find('merge', 'halved').defaults\n"
        "assert 'torch' not in sys.modules and not [m for m in sys.modules if m.startswith('allround_plugin')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_changed_file_is_read_when_it_is_used_again_and_not_before(plugin_files: dict[str, Path]) -> None:
    file = plugin_files["cubed"]
    assert use_plugin(file).load()([8, 1]) == pytest.approx([2 / 3, 1 / 3])
    file.write_text(file.read_text().replace("(1 / 3)", "2"))
    assert registry.load("sample", "cubed")([2, 1]) == pytest.approx([2 ** (1 / 3) / (1 + 2 ** (1 / 3)), 0.4424934])
    assert use_plugin(file).load()([2, 1]) == pytest.approx([0.8, 0.2])


HEAD = "from allround.core.registry import method\n"


@pytest.mark.parametrize(
    ("text", "found", "do"),
    [
        ("def mine(:", "not valid Python", "correct the file"),
        ("x = 1", "has no function 'mine' or class 'Mine'", "name the function as the file"),
        (
            f"{HEAD}@method(source='x')\ndef mine(): ...",
            "does not say which family",
            "one of: affinity, agree",
        ),
        (f"{HEAD}@method(family='merges', source='x')\ndef mine(): ...", "no family 'merges'", "did you mean 'merge'"),
        (f"{HEAD}@method(family='balance', source='x')\ndef mine(): ...", "has no by", "declarations"),
        (f"{HEAD}@method(family='sample', source='x', by='losses')\ndef mine(): ...", "by", "use one of"),
        (f"{HEAD}@method(family='merge', source='x', needs=('y',))\ndef mine(): ...", "no statistic 'y'", "declar"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_it(
    plugin_files: dict[str, Path], tmp_path: Path, text: str, found: str, do: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(AllroundError) as caught:
        use_plugin(file)
    assert caught.value.asked == f"use the plug-in '{file}'"
    assert found in caught.value.found and do in caught.value.do, str(caught.value)
    assert plugins.files_in_use() == ()


def test_a_file_that_is_none_is_an_error(plugin_files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for name, found in {"nothing.py": "no such file", "notes.txt": "not a Python file", ".": "no such file"}.items():
        with pytest.raises(AllroundError, match=found):
            use_plugin(tmp_path / name)


def test_names_are_used_once(plugin_files: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "ties.py"
    file.write_text(plugin_files["halved"].read_text().replace("def halved", "def ties"))
    with pytest.raises(AllroundError, match="'ties' is a built-in merge method") as caught:
        use_plugin(file)
    assert caught.value.do == "rename the file and the function or class in it"
    use_plugin(plugin_files["halved"])
    use_plugin(plugin_files["halved"])
    other = tmp_path / "halved.py"
    other.write_text(plugin_files["halved"].read_text())
    with pytest.raises(AllroundError, match="is a merge method of that name, and is in use"):
        use_plugin(other)
    odd = tmp_path / "my-way.py"
    odd.write_text(f"{HEAD}@method(family='merge', source='x')\nclass My-way: ...")
    with pytest.raises(AllroundError, match="not valid Python"):
        use_plugin(odd)


def test_code_that_fails_is_an_error_that_names_the_file(plugin_files: dict[str, Path]) -> None:
    file = plugin_files["cubed"]
    file.write_text(file.read_text().replace("from __future__ import annotations", "import not_there_at_all"))
    entry = use_plugin(file)
    with pytest.raises(AllroundError, match="ModuleNotFoundError") as caught:
        entry.load()
    assert str(file) in caught.value.asked


def test_a_merge_method_may_need_a_statistic_that_is_a_plugin(plugin_files: dict[str, Path], tmp_path: Path) -> None:
    statistic, merge = tmp_path / "spread.py", tmp_path / "spreads.py"
    statistic.write_text(f"{HEAD}@method(family='statistic', source='x', sees=('inputs',))\ndef spread(inputs): ...")
    merge.write_text(f"{HEAD}@method(family='merge', source='x', needs=('spread',))\ndef spreads(): ...")
    use_plugin(statistic)
    assert use_plugin(merge).needs == ("spread",)


# -- pieces ------------------------------------------------------------------------------------------------------------


def test_a_piece_depends_on_the_plugins_that_it_names(plugin_files: dict[str, Path], tmp_path: Path) -> None:
    pieces = Pieces(tmp_path / "pieces")

    def keys() -> dict[str, str]:
        return {
            "merge": pieces.piece("try-halved", method="halved", parameters={}).key,
            "spelled": pieces.piece("tune", settings={"sample": "uniform", "balance": "tilted:power=1"}).key,
            "other": pieces.piece("try-ties", method="ties", parameters={}).key,
        }

    without = keys()
    for file in plugin_files.values():
        use_plugin(file)
    first = keys()
    assert first["merge"] != without["merge"] and first["spelled"] != without["spelled"]
    assert first["other"] == without["other"], "what has nothing to do with a plug-in is found again"
    for file in plugin_files.values():
        use_plugin(file)
    assert keys() == first
    file = plugin_files["halved"]
    file.write_text(f"{file.read_text()}\n")
    use_plugin(file)
    second = keys()
    assert second["merge"] != first["merge"] and second["spelled"] == first["spelled"]


@pytest.mark.parametrize(
    ("family", "facts"),
    [("metric", ", kinds=('regression',), better='higher'"), ("term", ""), ("encoder", ""), ("kind", "")],
)
def test_what_tasks_and_folders_name_counts_for_every_piece(
    plugin_files: dict[str, Path], tmp_path: Path, family: str, facts: str
) -> None:
    pieces = Pieces(tmp_path / "pieces")
    before = pieces.piece("head", task="a hash").key
    file = tmp_path / "hits.py"
    file.write_text(f"{HEAD}@method(family={family!r}, source='x'{facts})\nclass Hits: ...")
    use_plugin(file)
    assert pieces.piece("head", task="a hash").key != before, "a task names it, and is known by a hash only"


# -- workers -----------------------------------------------------------------------------------------------------------


def shares(name: str, sizes: Sequence[int]) -> list[float]:
    found: list[float] = registry.load("sample", name)(sizes)
    return found


def test_workers_use_the_plugins_of_the_run_as_they_were_read(plugin_files: dict[str, Path]) -> None:
    file = plugin_files["cubed"]
    with Processes(2, 1) as runner:
        list(runner.run([call(shares, name="sqrt", sizes=[1])] * 2))  # workers are there before the plug-in is
        use_plugin(file)
        text = file.read_text()
        file.write_text("broken(")
        assert [found for _, found in runner.run([call(shares, name="cubed", sizes=[8, 1])])] == [[2 / 3, 1 / 3]]
        file.write_text(text.replace("(1 / 3)", "1"))
        use_plugin(file)
        jobs = [call(shares, name="cubed", sizes=[3, 1])] * 4
        assert [found for _, found in runner.run(jobs)] == [[0.75, 0.25]] * 4


# -- installed packages ------------------------------------------------------------------------------------------------


@pytest.fixture
def package(plugin_files: dict[str, Path], tmp_path: Path) -> Path:
    """A folder that holds an installed package of methods."""
    folder = tmp_path / "site"
    methods = folder / "outside" / "methods"
    methods.mkdir(parents=True)
    (folder / "outside" / "__init__.py").write_text("raise RuntimeError('it was imported')\n")
    (methods / "__init__.py").write_text("")
    (methods / "_parts.py").write_text("POWER = 1 / 3\n")
    for file in plugin_files.values():
        (methods / file.name).write_text(file.read_text())
    about = folder / "outside-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[allround.methods]\nall = outside.methods\n")
    return folder


def with_package(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(SRC)])}
    imports = "from allround.core import plugins, registry\nfrom allround.core.errors import AllroundError\n"
    return subprocess.run([sys.executable, "-c", imports + code], env=environment, capture_output=True, text=True)


def test_installed_packages_offer_methods(package: Path) -> None:
    code = "print([e.module for f in ('merge', 'balance', 'sample') for e in plugins.of(f).values()])\n"
    found = with_package(package, f"{code}print(registry.find('balance', 'tilted').defaults)")
    assert found.returncode == 0, found.stderr
    modules = [f"outside.methods.{name}" for name in ("halved", "tilted", "cubed")]
    assert found.stdout.splitlines() == [str(modules), "{'power': 0.5}"], "they were read without importing the package"
    (package / "outside" / "__init__.py").write_text("")
    cubed = package / "outside" / "methods" / "cubed.py"
    cubed.write_text(
        cubed.read_text().replace("(1 / 3)", "POWER").replace("\n\n\n@", "\nfrom ._parts import POWER\n\n\n@")
    )
    code = "print(registry.load('sample', 'cubed')([8, 1]), plugins.contents('cubed'))"
    first = with_package(package, code)
    assert first.stdout.startswith("[0.6666666666666666, 0.3333333333333333] {'sample.cubed': "), first.stderr
    (package / "outside" / "methods" / "_parts.py").write_text("POWER = 1\n")
    assert with_package(package, code).stdout.split("{")[1] != first.stdout.split("{")[1], "what it imports counts too"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("outside.nothing", "no module 'outside.nothing'"),
        ("nowhere", "no module 'nowhere'"),
        ("outside.methods:halved", "no module 'outside.methods:halved'"),
        ("outside.methods.halved.more", "no module"),
        ("outside", "no public file"),
    ],
)
def test_an_entry_point_that_names_no_methods_is_an_error(package: Path, value: str, found: str) -> None:
    (package / "outside-1.0.dist-info" / "entry_points.txt").write_text(f"[allround.methods]\nall = {value}\n")
    said = with_package(package, "try: registry.names('merge')\nexcept AllroundError as error: print(error)")
    assert "of the package 'outside'" in said.stdout and found in said.stdout, said
    assert "uninstall" in said.stdout


def test_an_installed_method_cannot_take_a_built_in_name(package: Path) -> None:
    methods = package / "outside" / "methods"
    (methods / "ties.py").write_text((methods / "halved.py").read_text().replace("def halved", "def ties"))
    said = with_package(package, "try: registry.names('merge')\nexcept AllroundError as error: print(error)")
    assert "'ties' is a built-in merge method" in said.stdout and "ties.py" in said.stdout


def test_one_module_is_one_method(package: Path) -> None:
    (package / "outside-1.0.dist-info" / "entry_points.txt").write_text(
        "[allround.methods]\na = outside.methods.cubed\n"
    )
    assert with_package(package, "print(plugins.of('sample').keys(), plugins.of('merge'))").stdout == (
        "dict_keys(['cubed']) {}\n"
    )
