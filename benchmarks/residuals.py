"""Stores of residuals of given specialists: bytes, and how much of each specialist's score they retain, as Markdown.

Each line is one codec with its settings, against one stored model. The scores are those of the split that is named; the
thresholds of `mask` with `--suite` in it are chosen on validation. `share` is that of the bytes of all specialists.

    python benchmarks/residuals.py text8 --data-dir data --split validation \\
        --base RUN/pieces/base-*/encoder RUN/pieces/specialist-*
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Iterable
from pathlib import Path

from allround.cli.app import app
from allround.composition.residuals.store import Store, load
from allround.core.jobs import quiet_libraries
from allround.evaluation.intervals import retention
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import score
from allround.models.manifest import read_manifest
from allround.tasks.metric import better
from allround.tasks.suite import Suite
from allround.tasks.task import Task

#: Codec and its options; `suite` among them: thresholds are chosen.
LINES = (
    "mask",
    "mask --threshold 0.2",
    "mask --suite",
    "mask --dtype float16",
    "mask --dtype bfloat16",
    "low_rank --rank 4",
    "low_rank --rank 8",
    "low_rank --rank 16",
    "low_rank --rank 16 --method none",
    "low_rank --rank 16 --dtype float16",
    "low_rank --rank 16 --dtype bfloat16",
    "sparse --keep 0.01",
    "sparse --keep 0.05",
    "sparse --keep 0.05 --method none",
    "sign",
    "sign --per tensor",
    "sign --method none",
    "sign --dtype float16",
    "sign --dtype bfloat16",
)


def make(line: str, base: str, models: list[str], suite: list[str], out: Path) -> None:
    """One store, as `allround compress` makes it. suite: what follows `--suite`: its name, and where its data lies."""
    codec, *words = line.split()
    words = [each for word in words for each in ([word, *suite] if word == "--suite" else [word])]
    with contextlib.redirect_stdout(io.StringIO()):
        app(["compress", base, *models, "--codec", codec, *words, "--out", str(out)], standalone_mode=False)


def scores(folder: Path, tasks: Iterable[Task], split: str) -> dict[str, float]:
    model = load(folder)
    return {task.name: score(predict_split(model, task, split)) for task in tasks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("models", nargs="+", help="specialists, folders that allround saved")
    parser.add_argument("--base", required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--split", default="validation", choices=("validation", "test"))
    parser.add_argument("--lines", nargs="+", default=list(LINES), help="a codec with its options each")
    given = parser.parse_args()
    quiet_libraries()
    names = {name: model for model in given.models for name in read_manifest(Path(model))[1]}
    suite = Suite.load(given.suite, data_dir=given.data_dir, only=list(names))
    place = [given.suite, *(["--data-dir", str(given.data_dir)] if given.data_dir else [])]
    reference = {}
    for name, model in names.items():
        reference |= scores(Path(model), [suite.tasks[name]], given.split)
    print(f"| codec, against the average (mask: the sum) | share | worst | mean | {' | '.join(suite.tasks)} |")
    print(f"|---|{'---:|' * (3 + len(suite.tasks))}")
    print(
        f"| specialists, {given.split} scores | 100.0% | | | {' | '.join(f'{reference[n]:.4f}' for n in suite.tasks)} |"
    )
    for line in given.lines:
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "store"
            make(line, given.base, given.models, place, store)
            found = scores(store, suite.tasks.values(), given.split)
            share = Store.open(store).sizes.share
        kept = {n: retention(found[n], reference[n], better(t.definition.metric)) for n, t in suite.tasks.items()}
        known = [value for value in kept.values() if value is not None]
        cells = " | ".join("-" if kept[n] is None else f"{kept[n]:.3f}" for n in suite.tasks)
        mean = sum(known) / len(known)
        print(f"| `{line}` | {100 * share:.1f}% | {min(known):.3f} | {mean:.4f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
