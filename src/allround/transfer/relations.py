"""How tasks relate, as users hold it: said in words, printed, drawn and saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from allround.core.files import json_text
from allround.core.outputs import output_file, write_texts
from allround.transfer.files import read_matrices, write_matrices
from allround.transfer.findings import Findings, Judged
from allround.transfer.matrix import TaskMatrix
from allround.transfer.report import tables, words

if TYPE_CHECKING:
    from rich.console import Console

#: What is written of relations.
FILES = ("relations.json", "relations.md", "relations.svg", "relations.html", "matrices.csv", "matrices.parquet")


@dataclass(frozen=True)
class Relations(Findings):
    """How the tasks of a suite relate: estimates of each pair, and what was measured of them.

    related = allround.relate("suite.yml", base="all-MiniLM-L6-v2", out="runs/related")
    related.best("topic")
    """

    def words(self) -> list[str]:
        """The advice in a few plain sentences."""
        return words.words(self)

    def print(self, console: Console | None = None) -> None:
        """Print advice and tables in ASCII, within the console's width."""
        tables.print_relations(self, console)

    def to_json(self) -> dict[str, object]:
        """Plain data: all matrices with their tasks, the scores of the estimates, and the advice."""
        return {
            "format": "allround relations 1",
            "title": self.title,
            "advice": self.words(),
            "tasks": {task: {"metric": self.metrics[task], "best": self.best(task)} for task in self.tasks},
            "clusters": self.clusters,
            "matrices": [_plain(one) for one in self._matrices()],
            "estimators": [_scores(one) for one in self.judged],
            "left_out": dict(self.left_out),
            "facts": dict(self.facts),
            "notes": list(self.notes),
            "provenance": dict(self.provenance),
        }

    def save(self, folder: Path | str, command: str = "Relations.save", *, force: bool = False) -> None:
        """Write the page, a picture, the tables, and all matrices as Parquet and CSV. The files: `FILES`."""
        from allround.transfer.report.page import html
        from allround.transfer.report.pictures import svg

        texts = (json_text(self.to_json()), tables.markdown(self), svg(self), html(self))
        write_texts(folder, dict(zip(FILES, texts, strict=False)), command, force=force)
        for name in FILES[len(texts) :]:
            with output_file(Path(folder) / name, command, force=force) as new:
                write_matrices(new, self._matrices())

    def _matrices(self) -> list[TaskMatrix]:
        return [*([] if self.measured is None else [self.measured]), *self.estimates, *self.blends]


def matrices_of(folder: Path | str) -> dict[str, TaskMatrix]:
    """The matrices that `Relations.save` wrote into a folder, by their names."""
    return read_matrices(Path(folder) / FILES[-1])


def _plain(matrix: TaskMatrix) -> dict[str, object]:
    frame = {"values": matrix.values} | ({} if matrix.errors is None else {"errors": matrix.errors})
    lists = {name: [[None if np.isnan(v) else v for v in row] for row in table.tolist()]
             for name, table in frame.items()}  # fmt: skip
    return {"name": matrix.name, "kind": matrix.kind, "higher_is_better": matrix.higher_is_better,
            "sources": matrix.sources, "targets": matrix.targets, "seconds": matrix.seconds, **lists}  # fmt: skip


def _scores(one: Judged) -> dict[str, object]:
    means = {name: one.score.mean(name) for name in ("ndcg", "regret@1", "regret@3", "spearman")}
    gaps = {what: None if gap is None else {"mean": gap.mean, "low": gap.low, "high": gap.high}
            for what, gap in (("random", one.beside_random), ("popularity", one.beside_popularity))}  # fmt: skip
    return {"name": one.score.name, **{name: None if np.isnan(v) else v for name, v in means.items()},
            "best_found": one.hits, "targets": one.targets, "better_than_random": one.sure, "ndcg_beside": gaps,
            "seconds": one.score.seconds}  # fmt: skip
