"""Cross-task generalisation: a language model trained jointly on ten tasks, scored on six that it never saw.

The tasks are those of instruction induction (Honovich et al., ACL 2023). Each unseen task is put to the base and to the
joint model, without examples and with four; differences are paired over test rows.

    python benchmarks/held_out_tasks.py --data-dir DATA --base smollm2-135m --rows 96 --test 60 --out runs/held-out
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import allround
from allround.building.opening import open_for
from allround.core.progress import Progress
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions
from allround.models.base import find_folder
from allround.models.system import System
from allround.tasks.metric import score_of
from allround.tasks.spec import read_suite
from allround.tasks.suite import Suite, load_spec
from allround.training.settings import Settings

#: How each task is put: the words before its input, and before its answer.
TRAINED = {
    "active_to_passive": ("Active", "Passive"),
    "diff": ("Numbers", "The first minus the second"),
    "first_word_letter": ("Word", "Its first letter"),
    "letters_list": ("Word", "Its letters, one by one"),
    "negation": ("Sentence", "Its negation"),
    "num_to_verbal": ("Number", "In words"),
    "orthography_starts_with": ("Sentence and letter", "The word that starts with it"),
    "sentiment": ("Review", "Positive or negative"),
    "singular_to_plural": ("Singular", "Plural"),
    "translation_en-de": ("English", "German"),
}
UNSEEN = {
    "antonyms": ("Word", "Its opposite"),
    "sentence_similarity": ("Sentences", "How alike they are"),
    "sum": ("Numbers", "Their sum"),
    "taxonomy_animal": ("Words", "The animals among them"),
    "translation_en-es": ("English", "Spanish"),
    "word_in_context": ("Sentences and word", "Same or different meaning"),
}


def suite(folder: Path, data: Path, rows: int, test: int, shots: int) -> Suite:
    """All tasks; the unseen ones are held out, and are put with so many examples."""
    lines = [f"name: induction\nlimit: {{train: {rows}, validation: 16, test: {test}}}\ntasks:"]
    for name, (before, after) in {**TRAINED, **UNSEEN}.items():
        held = f"    role: held_out\n    shots: {shots}\n" if name in UNSEEN else ""
        lines.append(
            f"  {name}:\n    source: {{path: {data / 'induction' / name}}}\n    kind: text\n    inputs: input\n"
            f'    target: outputs\n    metric: exact_match\n    max_new_tokens: 24\n    stop: "\\n"\n    chat: "no"\n'
            f'{held}    prompt: "{before}: {{input}}\\n{after}:"'
        )
    path = folder / f"induction-{shots}.yml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return load_spec(read_suite(path), path.parent)


def right(found: Predictions) -> np.ndarray:
    """The score of each row."""
    d = found.definition
    return np.array([score_of(d, found.targets[i : i + 1], found.predictions[i : i + 1]) for i in range(len(found))])


def interval(values: np.ndarray, seed: int = 0) -> str:
    """A mean with its bootstrap interval, in percent."""
    draws = np.random.default_rng(seed).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return f"{100 * values.mean():5.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=96, help="training rows of each task")
    parser.add_argument("--test", type=int, default=60, help="test rows of each task")
    parser.add_argument("--out", type=Path, default=Path("runs/held-out"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    suites = {shots: suite(given.out, given.data_dir.resolve(), given.rows, given.test, shots) for shots in (0, 4)}
    trained = suites[0].part(list(TRAINED))
    if not (given.out / "joint").is_dir():
        started = time.perf_counter()
        settings = Settings(tune="lora", precision="fp32")
        allround.train(trained, out=given.out / "joint", base=given.base, settings=settings, progress=Progress())
        print(f"joint training and its test rows: {time.perf_counter() - started:.0f} s")
    found: dict[tuple[str, int, str], np.ndarray] = {}
    for shots, tasks in suites.items():
        unseen = tasks.part(list(UNSEEN))
        for name, place in (("base", find_folder(given.base)), ("joint", given.out / "joint")):
            system: System = open_for(place, unseen, fit_heads=False, say=lambda words: None)
            for task in UNSEEN:
                found[name, shots, task] = right(predict_split(system, unseen[task], "test"))
                print(f"{task}, {shots} shots, {name}: {interval(found[name, shots, task])}", flush=True)
    for shots in (0, 4):
        apart = np.concatenate([found["joint", shots, t] - found["base", shots, t] for t in UNSEEN])
        for name in ("base", "joint"):
            print(
                f"all six, {shots} shots, {name}: {interval(np.concatenate([found[name, shots, t] for t in UNSEEN]))}"
            )
        print(f"all six, {shots} shots, joint minus base: {interval(apart)}")


if __name__ == "__main__":
    main()
