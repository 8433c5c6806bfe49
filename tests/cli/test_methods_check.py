"""`allround methods check`: what held, what did not, and the exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from allround.cli.app import app
from allround.cli.methods_check import SHARED, checks_of
from allround.core import registry
from allround.core.errors import AllroundError


def check(*words: str | Path) -> tuple[int, list[str]]:
    found = CliRunner().invoke(app, ["methods", "check", *map(str, words)])
    if isinstance(found.exception, AllroundError):
        raise found.exception
    return found.exit_code, found.output.splitlines()


def test_every_method_of_the_tests_holds_all_checks(plugin_files: dict[str, Path]) -> None:
    for name, words in (("halved", "8 of 8"), ("cubed", "13 of 13"), ("tilted", "15 of 15")):
        code, lines = check(plugin_files[name])
        assert code == 0 and lines[-1] == f"{words} checks held", lines
        assert lines[0].endswith(f"'{name}' in {plugin_files[name]}")
        assert not [line for line in lines if line.startswith(("failed", "exempt"))]


def test_a_check_that_fails_is_shown_and_counts(plugin_files: dict[str, Path]) -> None:
    file = plugin_files["halved"]
    file.write_text(file.read_text().replace("deltas.mean(0)", "deltas[0]"))
    code, lines = check(file)
    assert code == 1 and lines[-1] == "7 of 8 checks held, 1 failed"
    assert "failed  order                    another order gave another result" in lines


def test_code_that_raises_fails_its_checks(plugin_files: dict[str, Path]) -> None:
    file = plugin_files["halved"]
    file.write_text(file.read_text().replace("return base", 'raise RuntimeError("not yet")\n    return base'))
    code, lines = check(file)
    assert code == 1 and "failed  finite                   RuntimeError: not yet" in lines
    failed = next(line for line in lines if line.startswith("failed  documented"))
    assert "its example fails" in failed


def test_what_a_method_is_exempt_from_is_shown_with_the_reason(plugin_files: dict[str, Path]) -> None:
    file = plugin_files["halved"]
    text = file.read_text().replace("deltas.mean(0)", "deltas[0]")
    file.write_text(text.replace('tests")', 'tests", exempt={"order": "the first one leads"})'))
    code, lines = check(file)
    assert code == 0 and "exempt  order                    the first one leads" in lines
    assert lines[-1] == "7 of 7 checks held"


def test_a_family_without_shared_checks_says_so(plugin_files: dict[str, Path]) -> None:
    code, lines = check("accuracy", "--family", "metric")
    assert code == 0 and "Only its documentation is checked: there are no shared checks for a metric." in lines


def test_what_is_neither_a_file_nor_a_method(plugin_files: dict[str, Path]) -> None:
    with pytest.raises(AllroundError, match="no such file, and no method"):
        check("nothing")
    with pytest.raises(AllroundError, match="there is no such file"):
        check("nothing.py")
    with pytest.raises(AllroundError, match="it is the name of 2 methods: merge, statistic"):
        check("fisher")


@pytest.mark.parametrize("family", SHARED)
def test_each_family_with_shared_checks_has_several(family: str) -> None:
    names = [name for name, _ in checks_of(registry.entries(family)[0])]
    assert len(names) >= 5 and names[-1] == "documented"
