"""How alike tasks are as the start of what they share: tasks that are alike begin with the same modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from allround.core import registry
from allround.core.errors import AllroundError
from allround.training.sharing import plan_of


def share_spelled(text: str) -> tuple[str, dict[str, object]]:
    """A way to share and its parameters, from `NAME` or `NAME:key=value;key=value`.

    `alike=PATH` is no parameter of a preset: it becomes its `start`, the numbers of `beginnings`. PATH is a folder of
    `allround relate`, or a file of matrices.

    >>> share_spelled("mmoe:experts=4")
    ('mmoe', {'experts': 4})
    """
    name, _, rest = text.strip().partition(":")
    parts = rest.split(";")
    given = [part for part in parts if part.partition("=")[0].strip() == "alike"]
    if not given:
        return registry.spelled("share", text)
    name, values = registry.spelled("share", f"{name}:{';'.join(part for part in parts if part not in given)}")
    path = given[-1].partition("=")[2].strip()
    can = [entry.name for entry in registry.entries("share") if "start" in {p.name for p in entry.parameters}]
    asked = f"share by {text!r}"
    if name not in can:
        raise AllroundError(
            asked,
            f"gates of '{name}' do not begin from numbers of each task, which `alike` would give",
            f"take one of {', '.join(can)}, or leave `alike` out",
        )
    if "start" in values or not path:
        found = "`alike` and `start` both say how gates begin" if path else "`alike` has no value"
        raise AllroundError(asked, found, "give alike=PATH, a folder of `allround relate`, alone")
    modules = plan_of(name, values).mixings[0].shared
    return name, {**values, "start": beginnings(Path(path), modules)}


def beginnings(path: Path, modules: int) -> Mapping[str, list[float]]:
    """How much each task begins with of each of some shared modules: task -> numbers from 0 to 1.

    Tasks are put into clusters, as many as the tree of their likeness shows, and no more than modules. Modules are
    dealt out to the clusters in turn, and a task begins with those of its cluster, by its fuzzy membership. Our own:
    the presets' papers begin with all tasks alike.

    Tasks are compared by what was measured, where all pairs were, otherwise by all estimates together; in a file with
    one matrix, by that. Errors: no such file; one without such a matrix; one cluster alone, which says nothing.
    """
    import numpy as np

    from allround.transfer.deciding import cluster_count, fuzzy_membership, likeness
    from allround.transfer.files import read_matrices
    from allround.transfer.findings import TOGETHER

    asked = f"begin with what tasks have in common by {path}"
    file = path / "matrices.parquet" if path.is_dir() else path
    if not file.is_file():
        raise AllroundError(
            asked, f"there is no file {file}", "give a folder that `allround relate` made, or a file of matrices"
        )
    found = read_matrices(file)
    whole = [m for m in found.values() if m.kind == "measured" and m.sources == m.targets
             and not np.isnan(m.values[~np.eye(len(m.sources), dtype=bool)]).any()]  # fmt: skip
    others = [found[TOGETHER]] if TOGETHER in found else list(found.values()) if len(found) == 1 else []
    matrix = next((m for m in [*whole, *others] if not np.isnan(m.values).all()), None)
    if matrix is None:
        raise AllroundError(
            asked,
            f"it holds {', '.join(found)}, and neither transfer that was measured of all pairs nor '{TOGETHER}'",
            "give a folder that `allround relate` made, or a file with one matrix",
        )
    alike = likeness(matrix)
    alike = np.where(np.isnan(alike), np.nanmin(alike), alike)
    np.fill_diagonal(alike, alike.max())
    count = min(cluster_count(alike), modules)
    if count < 2:
        raise AllroundError(
            asked, f"its {len(alike)} tasks form one cluster, so all gates would begin alike",
            "leave `alike` out, or compare more tasks",
        )  # fmt: skip
    members = fuzzy_membership(alike, count)
    return {t: [round(float(row[m % count]), 6) for m in range(modules)]
            for t, row in zip(matrix.sources, members, strict=True)}  # fmt: skip
