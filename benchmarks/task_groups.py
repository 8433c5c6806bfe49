"""Does `build --groups auto` find tasks that conflict, and does it pay? Suites with a planted conflict.

    python benchmarks/task_groups.py shuffled --seeds 3
    python benchmarks/task_groups.py products --seeds 3

shuffled: three tasks on digits, and the same three on digits whose pixels are shuffled by one permutation. products:
six tasks on a table, three on the product of two of its columns and three on that of two others, for a network of six
hidden units, which is too small for both products.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import allround as ar
from allround.building import Options
from allround.core.progress import Progress
from allround.tasks.suite import Suite

ROWS = {"train": 400, "validation": 200, "test": 300}


def shuffled() -> tuple[Suite, str, dict[str, object]]:
    """Digits, and digits whose pixels are shuffled."""
    suite = Suite.load("digits", only=["digit", "parity", "loops"], limit=ROWS)
    order = np.random.default_rng(7).permutation(64)
    tasks = list(suite.tasks.values())
    for task in list(tasks):
        data = {
            name: [
                {"image": np.array(image).reshape(-1)[order].reshape(8, 8), "y": task.definition.labels[int(target)]}
                for (image,), target in zip(rows.inputs, rows.targets, strict=True)
            ]
            for name, rows in task.splits.items()
        }
        tasks.append(
            ar.make_task(f"shuffled_{task.name}", kind="classification", inputs="image", target="y", data=data)
        )
    return Suite("shuffled", tasks), "small_image", {}


def products() -> tuple[Suite, str, dict[str, object]]:
    """The sign of a product of two columns, above three thresholds; two such pairs of columns."""
    rng = np.random.default_rng(3)
    columns = [f"x{number}" for number in range(6)]
    values = rng.normal(size=(3600, 6))
    tasks = []
    for name, (one, other) in {"a": (0, 1), "b": (2, 3)}.items():
        for number, threshold in enumerate((-0.3, 0.0, 0.3)):
            above = values[:, one] * values[:, other] > threshold
            rows = [
                dict(zip(columns, row, strict=True)) | {"y": "yes" if yes else "no"}
                for row, yes in zip(values.tolist(), above, strict=True)
            ]
            data = {"train": rows[:2400], "validation": rows[2400:3000], "test": rows[3000:]}
            tasks.append(ar.make_task(f"{name}{number}", kind="classification", inputs=columns, target="y", data=data))
    return Suite("products", tasks), "small_table", {"width": 6}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("suite", choices=("shuffled", "products"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    suite, base, encoder = {"shuffled": shuffled, "products": products}[asked.suite]()
    for seed in range(asked.seeds):
        options = Options(seed=seed, groups="auto", methods=(), balance=(), baselines=False, workers=asked.workers,
                          reference="specialists")  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            made = ar.build(suite, base=base, out=Path(folder) / "run", options=options, encoder=encoder,
                            progress=Progress(quiet=True))  # fmt: skip
        board = made.scoreboard
        found = next(one for one in board.comparisons if (one.system, one.other) == ("groups", "joint"))
        means = ", ".join(f"{name} {100 * board.mean[name].value:.1f}" for name in ("base", "joint", "groups"))
        print(
            f"seed {seed}: {board.system('groups').title}\n    {means} % of the specialists; {found.words}", flush=True
        )


if __name__ == "__main__":
    main()
