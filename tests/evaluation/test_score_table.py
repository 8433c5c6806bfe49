"""Scores as a table for a paper: what is bold, what is escaped, and that LaTeX can read it."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from boards import board
from comparisons import comparison

from allround.evaluation.score_table import Score, ScoreTable
from allround.evaluation.tables import latex_text

TABLE = ScoreTable(
    ["topic_{a} & b (accuracy)", "error (rmse)"],
    [
        ("50%_joint", [Score(0.8125, 0.75, 0.875), Score(0.5, 0.4, 0.6, "lower")]),
        ("ti[es]*", [Score(0.9), Score(0.25, 0.2, 0.3, "lower")]),
        ("floor", [Score(0.9004), None]),
    ],
)


def test_latex_by_hand() -> None:
    assert TABLE.latex().splitlines() == [
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"system & topic\_\{a\} \& b (accuracy) & error (rmse) \\",
        r"\midrule",
        r"50\%\_joint & 81.2 {\scriptsize {[}75.0, 87.5{]}} & 0.5 {\scriptsize {[}0.4, 0.6{]}} \\",
        r"ti{[}es{]}* & \textbf{90.0} & \textbf{0.25} {\scriptsize {[}0.2, 0.3{]}} \\",
        r"floor & \textbf{90.0} &  \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert "scriptsize" not in TABLE.latex(intervals=False)


def test_markdown_by_hand() -> None:
    assert TABLE.markdown(intervals=False).splitlines()[2:] == [
        r"| 50%_joint | 81.2 | 0.5 |",
        r"| ti[es]\* | **90.0** | **0.25** |",
        r"| floor | **90.0** |  |",
    ]
    assert "| **0.25** [0.2, 0.3] |" in TABLE.markdown()


def test_every_sign_of_latex_is_escaped() -> None:
    odd = r"\&%$#_{}~^<>|[]"
    assert latex_text(odd) == (
        r"\textbackslash{}\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}{[}{]}"
    )


def test_boards_and_comparisons_give_tables() -> None:
    made = board(names=("one", "two"))
    text = made.to_latex()
    assert text.count("&") == (1 + len(made.systems)) * 4 and r"error (rmse)" in text
    assert "ties & \\textbf{" not in text, "the specialists are better on every task"
    plain = re.sub(r"\\[{}]", "", text)
    depth = 0
    for letter in plain:
        depth += (letter == "{") - (letter == "}")
        assert depth >= 0
    assert depth == 0
    rows = list(csv.DictReader(io.StringIO(made.to_csv())))
    assert len(rows) == 5 * 3
    ties = next(row for row in rows if (row["system"], row["task"]) == ("ties", "one"))
    assert float(ties["score"]) == made.cells["ties"]["one"].score and ties["best"] == "True"
    compared = comparison()
    assert compared.to_markdown().count("\n") == 2 + 1 + len(compared.methods)
    assert compared.to_latex().count("\\\\\n") == 1 + 1 + len(compared.methods)
    assert len(compared.to_csv().splitlines()) == 1 + (1 + len(compared.methods)) * len(compared.definitions)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path: Path) -> None:
    page = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{TABLE.latex()}\\end{{document}}"
    (tmp_path / "page.tex").write_text(page)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
