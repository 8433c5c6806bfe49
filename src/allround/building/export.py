"""`export`: a model as graphs that onnxruntime runs, beside the model itself where rows are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from allround.building.compare_versions import answers_of
from allround.core.errors import AllroundError
from allround.core.words import listed
from allround.evaluation.predictions import Predictions
from allround.evaluation.versions import compare
from allround.evaluation.versions_report import VersionsResult
from allround.evaluation.versions_report import plain as plain_versions
from allround.models.exporting import Exported, export_onnx
from allround.tasks.suite import Suite, as_suite


@dataclass(frozen=True)
class ExportResult:
    """What was written, and how it answers beside the model, where rows were given.

    milliseconds: of a row, over all tasks, by the model and by its export.
    """

    exported: Exported
    versions: VersionsResult | None = None
    milliseconds: tuple[float, float] | None = None

    def lines(self) -> list[str]:
        """What was written, in words."""
        made = self.exported
        graphs = [f"{file}: {listed(tasks)}" for file, tasks in made.graphs.items()]
        found = [f"model     {made.folder}", f"size      {made.bytes:,} bytes of graphs and weights"]
        found += [f"graph     {line}" for line in graphs]
        found.append(f"checked   numbers differ by at most {made.furthest:.1e} from the model's, on made-up rows")
        if self.milliseconds is not None:
            old, new = self.milliseconds
            found.append(f"time      {new:.2f} ms a row, {old:.2f} ms by the model ({old / new:.1f} times as fast)")
        return found


def export(
    model: Path | str,
    out: Path | str,
    suite: Suite | str | Path | None = None,
    *,
    tasks: Sequence[str] | None = None,
    int8: bool = False,
    split: str = "test",
    data_dir: Path | str | None = None,
    only: Sequence[str] | None = None,
    limit: Mapping[str, int] | None = None,
    force: bool = False,
) -> ExportResult:
    """Export a saved model to ONNX: see `allround.models.exporting.export_onnx`.

    suite: rows that both answer; the result then holds their scores, differences with intervals, changed answers, and
    milliseconds of a row. Errors: a suite with none of the tasks.
    """
    rows = None if suite is None else as_suite(suite, data_dir=data_dir, only=only, limit=limit)
    exported = export_onnx(model, out, tasks=tasks, int8=int8, force=force)
    if rows is None:
        return ExportResult(exported)
    known = [task for some in exported.graphs.values() for task in some if task in rows.tasks]
    if not known:
        raise AllroundError(f"compare {out} with the model on '{rows.name}'", "it has none of the suite's tasks",
                            "give a suite with tasks of the model; the export is written")  # fmt: skip
    rows, told = rows.part(known), list[str]()
    before, after = (answers_of(place, rows, split, "cpu", told) for place in (model, out))
    compared = compare(before, after)
    versions = VersionsResult(str(model), str(out), compared, {one.task: () for one in compared}, [], (), told)
    return ExportResult(exported, versions, (_milliseconds(before), _milliseconds(after)))


def plain(found: ExportResult) -> dict[str, object]:
    """Everything as plain data."""
    made: dict[str, object] = {"model": found.exported.folder, "graphs": found.exported.graphs,
                               "bytes": found.exported.bytes, "furthest": found.exported.furthest}  # fmt: skip
    if found.versions is not None and found.milliseconds is not None:
        old, new = found.milliseconds
        made |= {"milliseconds": {"model": old, "export": new}, "versions": plain_versions(found.versions)}
    return made


def _milliseconds(answers: Mapping[str, Predictions]) -> float:
    rows = sum(map(len, answers.values()))
    return 1000 * sum(one.seconds for one in answers.values()) / max(rows, 1)
