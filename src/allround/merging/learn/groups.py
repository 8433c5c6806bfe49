"""Many models merged a few at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from allround.merging.learn.fit import Fit, fit_merge, set_weights
from allround.merging.learn.learning import Learning
from allround.merging.learn.material import Rows, Specialist
from allround.merging.learn.steps import Execution
from allround.models.encoder import Encoder


def fit_in_groups(
    shell: Encoder,
    specialists: Sequence[Specialist],
    rows: Mapping[str, Rows],
    learning: Learning,
    execution: Execution,
) -> Fit:
    """Merge `learning.group` models at a time, then the merged ones in the same way, until one is left."""
    level, models = 1, list(specialists)
    stages: list[dict[str, object]] = []
    found: dict[str, Tensor] = {}
    base = {n: t.detach().clone() for n, t in shell.state_dict().items()}
    with tempfile.TemporaryDirectory(prefix="allround-") as folder:
        while True:
            chunks = [models[n : n + learning.group] for n in range(0, len(models), learning.group)]
            merged: list[Specialist] = []
            for number, chunk in enumerate(chunks):
                names = tuple(name for one in chunk for name in one.tasks)
                if len(chunk) == 1:
                    merged.append(chunk[0])
                    continue
                execution.progress.say(f"round {level}, group {number + 1} of {len(chunks)}: {', '.join(names)}")
                mine = {name: rows[name] for name in names}
                shell.load_state_dict(base)
                made = fit_merge(shell, [one.encoder for one in chunk], mine, learning, None, execution)
                for name, head in made.heads.items():
                    known = rows[name].head
                    assert known is not None
                    known.load_state_dict(head)
                found.update({f"{len(stages)}.{key}": value for key, value in made.found.items()})
                stages.append({"tasks": list(names), **made.facts})
                if len(chunks) == 1:
                    heads = {n: r.head.stored() for n, r in rows.items() if r.head is not None and r.owns_head}
                    learned = heads if learning.heads == "learned" else {}
                    return Fit(made.weights, found, learned, {"stages": stages})
                place = Path(folder) / f"{level}-{number}"
                place.mkdir()
                set_weights(shell, made.weights)
                shell.to("cpu").save(place)
                merged.append(Specialist(place, names))
            models, level = merged, level + 1
