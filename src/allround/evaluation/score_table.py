"""A table of scores for a paper: a row for each system, a column for each task, in LaTeX or Markdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from allround.core.words import shown
from allround.evaluation.tables import latex_text, markdown_table, markdown_text


@dataclass(frozen=True)
class Score:
    """One entry: a score with its 95% interval. better: "higher" or "lower"."""

    value: float
    low: float | None = None
    high: float | None = None
    better: str = "higher"

    @property
    def text(self) -> str:
        return shown(self.value, self.better)

    @property
    def span(self) -> str:
        """The interval in brackets; empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"[{shown(self.low, self.better)}, {shown(self.high, self.better)}]"


@dataclass(frozen=True)
class ScoreTable:
    """Scores of systems. columns: their titles. rows: a system's name and its scores, None where there is none.

    The best of each column is bold, and all that read the same.
    """

    columns: list[str]
    rows: list[tuple[str, list[Score | None]]]

    def markdown(self, *, intervals: bool = True) -> str:
        lines = markdown_table(["system", *self.columns], [])
        for name, texts in self._texts(intervals, markdown_text, "**{}**", "{}"):
            lines.append("| " + " | ".join([markdown_text(name), *texts]) + " |")
        return "\n".join(lines) + "\n"

    def latex(self, *, intervals: bool = True) -> str:
        lines = [
            "% needs \\usepackage{booktabs}",
            f"\\begin{{tabular}}{{l{'r' * len(self.columns)}}}",
            "\\toprule",
            " & ".join(["system", *map(latex_text, self.columns)]) + " \\\\",
            "\\midrule",
        ]
        for name, texts in self._texts(intervals, latex_text, "\\textbf{{{}}}", "{{\\scriptsize {}}}"):
            lines.append(" & ".join([latex_text(name), *texts]) + " \\\\")
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"

    def _texts(
        self, intervals: bool, escaped: Callable[[str], str], bold: str, small: str
    ) -> list[tuple[str, list[str]]]:
        found = []
        for name, scores in self.rows:
            texts = []
            for column, score in enumerate(scores):
                if score is None:
                    texts.append("")
                    continue
                text = escaped(score.text)
                text = bold.format(text) if score.text in self._best(column) else text
                span = small.format(escaped(score.span)) if intervals and score.span else ""
                texts.append(f"{text} {span}".strip())
            found.append((name, texts))
        return found

    def _best(self, column: int) -> set[str]:
        """The text of the best score of a column; nothing where all read the same."""
        scores = [score for _, row in self.rows if (score := row[column]) is not None]
        texts = {score.text for score in scores}
        if len(texts) < 2:
            return set()
        signed = {score.text: float(score.text) * (1 if score.better == "higher" else -1) for score in scores}
        return {text for text in texts if signed[text] == max(signed.values())}
