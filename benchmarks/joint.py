"""Joint models beside the specialists and merges of finished builds, on test, as Markdown.

Each run folder is a build of the same suite with another seed. From its base and its heads (those fitted on the frozen
base) a joint model is trained with each of the given settings, left in its best state on validation, and predicts test
once. Mean retention beside the build's own specialists, by seed, with a 95% interval over seeds (Student's t), and the
paired difference from the build's best merge on validation.

    python benchmarks/joint.py runs/text8-0 runs/text8-1 runs/text8-2 --data-dir data \\
        --settings '{"mix": "one"}' '{"mix": "all", "balance": "uw"}'
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from seeds import spoken

from allround.building.jobs.assemble import assemble
from allround.core.jobs import quiet_libraries
from allround.core.seeds import seed_of
from allround.core.words import percent
from allround.evaluation.intervals import retention
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import score
from allround.evaluation.scoreboard import Scoreboard
from allround.tasks.metric import better
from allround.tasks.suite import Suite
from allround.training.settings import Settings
from allround.training.trainer import train


def joint(run: Path, board: Scoreboard, suite: Suite, values: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train one joint model, score it once, keep the scores."""
    seed = int(board.provenance["seed"])
    kept = out / f"{run.name}-{abs(hash_of(values))}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    (base,) = (run / "pieces").glob("base-*")
    heads = {name: str(next((run / "pieces").glob(f"specialist-{name}-*"))) for name in suite.tasks}
    tasks = list(suite.tasks.values())
    model = assemble(str(base / "encoder"), heads, tasks)
    course = train(model, tasks, Settings.from_json(values), seed=seed_of(seed, "joint"))
    best = next(e for e in course.evaluations if e["step"] == course.best_step)
    found = {
        "validation": best["scores"],
        "test": {t.name: score(predict_split(model, t, "test")) for t in tasks},
        "seconds": course.seconds,
    }
    out.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found))
    return found


def hash_of(values: dict[str, Any]) -> int:
    return seed_of(0, json.dumps(values, sort_keys=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of builds")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--settings", nargs="+", default=["{}"], help="settings of trainings, as JSON")
    parser.add_argument("--out", type=Path, default=Path("runs/joint"), help="where scores are kept")
    given = parser.parse_args()
    quiet_libraries()
    boards = {run: Scoreboard.load(run) for run in given.runs}
    suite = Suite.load(next(iter(boards.values())).provenance["suite"], data_dir=given.data_dir)
    print("| settings | validation, mean retention | test, mean retention by seed | over seeds | worst task | "
          "beside the best merge |\n|---|---|---|---|---|---|")  # fmt: skip
    for text in given.settings:
        values = json.loads(text)
        means, held, worst, beside = [], [], [], []
        for run, board in boards.items():
            found = joint(run, board, suite, values, given.out)
            kinds = {n: better(t.definition.metric) for n, t in suite.tasks.items()}
            own = {n: retention(found["test"][n], board.cells["specialists"][n].score, kinds[n]) for n in suite.tasks}
            valid = [
                retention(found["validation"][n], board.validation["specialists"][n], kinds[n]) for n in suite.tasks
            ]
            means.append(float(np.mean([v for v in own.values() if v is not None])))
            held.append(float(np.mean([v for v in valid if v is not None])))
            lowest = min(own, key=lambda n: own[n] or 0)
            worst.append(f"{percent(own[lowest] or 0)} {lowest}")
            merges = [s.name for s in board.systems if s.role == "merge"]
            best = max(merges, key=lambda n: board.validation_mean(n) or 0)
            beside.append(means[-1] - board.mean[best].value)
        print(f"| {text} | {', '.join(map(percent, held))} | {', '.join(map(percent, means))} | {spoken(means)} | "
              f"{', '.join(worst)} | {spoken(beside, signed=True)} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
