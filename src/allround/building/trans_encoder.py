"""`trans-encoder`: bi- and cross-encoders that teach each other on pairs without labels.

Source: Liu et al., Trans-Encoder, ICLR 2022, arXiv:2109.13059; self_distill.py and mutual_distill_parallel.py of
amzn/trans-encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from allround.building.jobs import trans_encoder as jobs
from allround.building.jobs.trans_encoder import HELD, LEARNED, MODEL, mean_scores
from allround.building.pair_rows import PairRows, Pairs, read_pairs
from allround.building.stages.base import decide_precision
from allround.building.stages.data import keep_rows
from allround.building.workshop import Workshop, run_folder
from allround.core.errors import AllroundError
from allround.core.files import hash_folder, write_json
from allround.core.growing import remove_work
from allround.core.jobs import call, quiet_libraries
from allround.core.outputs import check_out, output_folder
from allround.core.pieces import Piece
from allround.core.progress import Progress
from allround.core.seeds import seed_of
from allround.core.words import listed, plural, shown
from allround.evaluation.intervals import Bootstrap, Interval
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions
from allround.models.base import builtin_encoders, find_folder, load_encoder
from allround.models.device import pick_device
from allround.models.encoders.text import Text
from allround.models.system import System, load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.metric import score_of
from allround.training.settings import Settings

COMMAND = "trans-encoder"
#: The file of the output that says what each model agreed on.
NOTES = "cycles.json"
#: What models are called: of the base itself, and after half a cycle.
BASE, BI, CROSS = "base", "bi", "cross"
#: How each half is trained where nobody says otherwise.
BI_SETTINGS = Settings(epochs=10, learning_rate=5e-5, batch_size=128, warmup=0.0)
CROSS_SETTINGS = Settings(learning_rate=1e-4, batch_size=32, heads="tuned")
#: Steps that a cross-encoder learns for at least, where nobody says how many epochs.
LEAST_STEPS = 200


@dataclass(frozen=True)
class Half:
    """A model that learned from the others in half a cycle.

    model: `cross` or `bi`. base: its place among the bases, from 0. agreement: the rank correlation of its scores of
    held pairs with those that it was to learn. taken: whether that was enough, so that others learn from it. score: the
    rank correlation with the labels of validation rows, where there are any.
    """

    cycle: int
    model: str
    base: int
    agreement: float
    taken: bool
    score: float | None
    steps: int
    seconds: float


@dataclass(frozen=True)
class TransEncoded:
    """What `trans_encoder` made.

    folders: of the models, by name: `bi` and `cross`, or with several bases `bi-1`, `cross-1`, `bi-2` and so on.
    halves: in the order in which they were made. kept: the last cycle of which a bi-encoder was taken; 0 where all are
    their bases as they were. start: rank correlation of each base with the validation labels. test: of each model with
    the test labels; and how far each is above its base. Without labels the last three are empty.
    """

    folders: Mapping[str, Path]
    halves: Sequence[Half]
    kept: int
    start: Sequence[float] = ()
    test: Mapping[str, Interval] = field(default_factory=dict)
    gains: Mapping[str, Interval] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {"kept": self.kept, "start": list(self.start), "halves": [asdict(half) for half in self.halves],
                "test": {name: list(one) for name, one in self.test.items()},
                "gains": {name: list(one) for name, one in self.gains.items()}}  # fmt: skip


def trans_encoder(
    pairs: Pairs,
    *,
    base: str | Path | Sequence[str | Path] | None = None,
    out: Path | str,
    task: str | None = None,
    columns: Sequence[str] | None = None,
    cycles: int = 3,
    least: float = 0.95,
    held: float = 0.1,
    bi: Settings = BI_SETTINGS,
    cross: Settings = CROSS_SETTINGS,
    seed: int = 0,
    workers: int | None = None,
    encoder: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> TransEncoded:
    """Let a bi-encoder and a cross-encoder of one base teach each other on pairs without labels, and save both.

    Each cycle has two halves. The bi-encoder's cosines become the targets of a cross-encoder, which begins from the
    base and learns both orders of each pair by binary cross-entropy. Its probabilities become the targets of the next
    bi-encoder, which begins from the base and learns by the squared error of its cosines. With several bases, each has
    a bi- and a cross-encoder, and all learn the mean of the others' scores and their own (mutual distillation).

    A model whose scores of held pairs agree too little with those that it was to learn teaches nobody: what they differ
    in may be errors, which the next half would copy. Where no cross-encoder agrees enough, the cycles end, and the
    bi-encoders are those of the cycle before, or their bases as they were.

    pairs: a file with two columns of texts; pairs in Python; or a suite, of which the training rows of one task are
    taken, without labels. Its validation rows are then held back; labels of validation and test rows are used for
    scores alone. base: a model of texts, or several; by default the suite's own. task, columns: the task of the suite,
    where it has several of pairs, and the two columns of a file, where it has more. held: the share of a file's
    pairs that is held back. least: the agreement that is enough, a rank correlation. bi, cross: the training of each
    half. workers: processes, for several bases. encoder: settings of the encoders, such as `{"max_length": 64}`.
    The folder `out` has the models, and cycles.json. Unfinished work is kept in `out`.unfinished: the same call after a
    kill goes on with the half that is not finished.

    Differs: the authors keep the best step of a training and the best cycle by labels of validation rows; here no
    choice looks at labels: the state of a training that agrees most with its teachers is kept, and the last cycle.
    They begin cross-encoders from the language model that the base was made from, and train them in one epoch at 2e-5;
    here they begin from the base, with a head that is fitted first, and learn at 1e-4 in one epoch or as many as make
    200 steps. The authors learn from validation and test pairs too (without labels), and take negative cosines as they
    are, here as 0. Bi-encoders begin from the base each time in both, and learn in ten epochs at 5e-5.

    Errors: too few pairs; no cycle; a base that does not read texts; an agreement that is no correlation.
    """
    quiet_libraries()
    read = read_pairs(pairs, task=task, columns=columns, held=held, seed=seed)
    given = read.base or () if base is None else base
    bases = [str(one) for one in ([given] if isinstance(given, (str, Path)) else given)]
    _check(bases, cycles, least)
    out = check_out(out, COMMAND, force=force, inputs=bases, data=read.files)
    check_bases(bases, encoder or {})
    pick_device(bi.device)
    work = out.parent / f"{out.name}.unfinished"
    with run_folder(work, COMMAND, force=force):
        shop = Workshop(work, progress or Progress(), seed=seed, workers=workers, force=force)
        with shop:
            run = _Run(shop, read, bases, encoder or {}, bi, cross, least)
            run.cycles(cycles)
            made = run.save(out, force=force)
        shop.pieces.remove()
    remove_work(work)
    return made


def check_bases(bases: Sequence[str], encoder: Mapping[str, object]) -> None:
    """An error for a base that cannot read two texts apart and as one."""
    if "pairs" in encoder:
        raise AllroundError(f"read pairs as '{encoder['pairs']}'", "here they are read apart and as one in turns",
                            "leave pairs out")  # fmt: skip
    for base in dict.fromkeys(bases):
        made = None if base in builtin_encoders() else load_encoder(find_folder(base))
        if not isinstance(made, Text) or not made.tunable:
            raise AllroundError(
                f"begin from the base '{base}'",
                "it does not read two texts as one sequence" if made is None or made.tunable else "it cannot be tuned",
                "give a folder of sentence-transformers or transformers, a Hub id, or all-MiniLM-L6-v2",
            )


def _check(bases: Sequence[str], cycles: int, least: float) -> None:
    for wrong, found, do in (
        (not bases, "no base is given", "give one or several with --base"),
        (cycles < 1, f"there are {cycles} cycles", "give 1 or more"),
        (not -1 <= least <= 1, f"the least agreement is {least:g}", "give a correlation, such as 0.95"),
    ):
        if wrong:
            raise AllroundError("let a bi-encoder and a cross-encoder teach each other", found, do)


def enough_epochs(pairs: int, batch_size: int) -> int:
    """The epochs of a cross-encoder over both orders of so many pairs: one, as the authors have it, or as many as make
    `LEAST_STEPS`.

    >>> enough_epochs(800, 32), enough_epochs(20_000, 32)
    (4, 1)
    """
    return max(1, -(-LEAST_STEPS // -(-2 * pairs // batch_size)))


class _Run:
    """The cycles, and what is left of them."""

    def __init__(
        self,
        shop: Workshop,
        pairs: PairRows,
        bases: Sequence[str],
        encoder: Mapping[str, object],
        bi: Settings,
        cross: Settings,
        least: float,
    ) -> None:
        self.shop, self.pairs, self.bases, self.encoder, self.least = shop, pairs, bases, dict(encoder), least
        self.task = pairs.task
        self.data = keep_rows(shop, {self.task.name: self.task})
        precision = decide_precision(shop, bi).settings.precision
        epochs = cross.epochs or enough_epochs(len(self.task.splits[LEARNED]), cross.batch_size)
        self.settings = {BI: bi.with_(precision=precision), CROSS: cross.with_(precision=precision, epochs=epochs)}
        self.contents = [hash_folder(find_folder(base)) for base in bases]
        learned, held = (len(self.task.splits[split]) for split in (LEARNED, HELD))
        shop.say(f"{plural(learned, 'pair')} to learn from, {held} held back; {listed(list(bases))}")
        self.halves: list[Half] = []
        self.kept = 0
        self.begun = self._begin()
        #: The latest bi- and cross-encoder of each base that agrees enough; of cross-encoders the first in any case.
        self.bi, self.cross = list(self.begun), list[Piece]()

    # -- cycles --------------------------------------------------------------------------------------------------------

    def cycles(self, count: int) -> None:
        """Do so many cycles, or as many as models agree in."""
        for number in range(1, count + 1):
            cross, fine = self._half(number, CROSS, self.bi)
            self.cross = _replaced(self.cross or cross, cross, fine)
            if not any(fine):
                self._stop(number, CROSS)
                return
            bi, learned = self._half(number, BI, [one for one, good in zip(cross, fine, strict=True) if good])
            self.bi = _replaced(self.bi, bi, learned)
            if not any(learned):
                self._stop(number, BI)
                return
            self.kept = number

    def _begin(self) -> list[Piece]:
        places = range(len(self.bases))
        made = [self.shop.pieces.piece(f"{BASE}-{index + 1}", **self._common(index)) for index in places]
        work = [(piece, call(jobs.begin, piece=piece, **self._arguments(index), device=self.settings[BI].device))
                for index, piece in enumerate(made)]  # fmt: skip
        self.shop.do("cosines of the base", work)
        return made

    def _half(self, number: int, model: str, teachers: Sequence[Piece]) -> tuple[list[Piece], list[bool]]:
        """The models of half a cycle, one of each base, and whether each agrees enough with its teachers."""
        settings = self.settings[model].to_json()
        made, work = [], []
        for index in range(len(self.bases)):
            seed = seed_of(self.shop.seed, model, number, index)
            piece = self.shop.pieces.piece(
                f"{model}-{number}-{index + 1}", **self._common(index), teachers=[one.key for one in teachers],
                settings=settings, seed=seed,
            )  # fmt: skip
            job = call(jobs.learn, piece=piece, **self._arguments(index),
                       teachers=[str(one.folder) for one in teachers], settings=settings, seed=seed,
                       joint=model == CROSS)  # fmt: skip
            made.append(piece)
            work.append((piece, job))
        self.shop.do(f"cycle {number}: {_ENCODERS[model]}", work)
        wanted = mean_scores([one.folder for one in teachers], HELD)
        halves = [self._judged(number, model, index, piece, wanted) for index, piece in enumerate(made)]
        self.halves += halves
        return made, [half.taken for half in halves]

    def _common(self, index: int) -> dict[str, object]:
        return {"base": self.contents[index], "pairs": self.data.content, "encoder": self.encoder}

    def _arguments(self, index: int) -> dict[str, object]:
        return {"base": self.bases[index], "encoder": self.encoder, "pairs": self.data.folders[self.task.name]}

    def _judged(self, number: int, model: str, index: int, piece: Piece, wanted: np.ndarray) -> Half:
        scores = mean_scores([piece.folder], HELD)
        agreement = score_of(self.task.definition, wanted, scores)
        half = Half(number, model, index, agreement, agreement >= self.least, self._score(piece),
                    piece.facts["steps"], piece.facts["seconds"])  # fmt: skip
        labels = "" if half.score is None else f"; with the labels of validation rows {shown(half.score)}"
        self.shop.say(
            f"cycle {number}: the {_ENCODERS[model]}{self._of(index)} agrees with its teachers by {agreement:.3f} on "
            f"held pairs{labels}",
            style=None if half.taken else "yellow",
        )
        return half

    def _of(self, index: int) -> str:
        return "" if len(self.bases) == 1 else f" of {self.bases[index]}"

    def _score(self, piece: Piece) -> float | None:
        """How well the scores of a model have the order of the labels of validation rows."""
        if self.pairs.labelled is None:
            return None
        return score_of(self.task.definition, self.pairs.labelled.splits[HELD].targets,
                        mean_scores([piece.folder], HELD))  # fmt: skip

    def _stop(self, number: int, model: str) -> None:
        left = f"those of cycle {self.kept}" if self.kept else "the bases as they were"
        steps = max(half.steps for half in self.halves if half.cycle == number and half.model == model)
        self.shop.say(
            f"note  no {_ENCODERS[model]} of cycle {number} agrees with its teachers by {self.least:g} after "
            f"{plural(steps, 'step')}, so that nothing is learned from it; the bi-encoders are {left}. More pairs, or "
            f"more epochs (--{model}-epochs), bring it nearer",
            style="yellow",
        )  # fmt: skip

    # -- results -------------------------------------------------------------------------------------------------------

    def save(self, out: Path, *, force: bool) -> TransEncoded:
        """Write the latest models, and score them on test rows, where these have labels."""
        places = {name: piece for model, pieces in ((BI, self.bi), (CROSS, self.cross))
                  for name, piece in zip(self._names(model), pieces, strict=True)}  # fmt: skip
        with output_folder(out, COMMAND, force=force) as new:
            models: dict[str, System] = {n: self._write(n, piece, new / n) for n, piece in places.items()}
            start = [score for one in self.begun if (score := self._score(one)) is not None]
            test, gains = self._tested(models)
            made = TransEncoded({n: out / n for n in places}, self.halves, self.kept, start, test, gains)
            write_json(new / NOTES, {"bases": list(self.bases), **made.to_json()})
        return made

    def _names(self, model: str) -> list[str]:
        count = len(self.bases)
        return [model] if count == 1 else [f"{model}-{index + 1}" for index in range(count)]

    def _write(self, name: str, piece: Piece, folder: Path) -> MultiTaskModel:
        model = load(piece.folder / MODEL)
        assert isinstance(model, MultiTaskModel)
        index = self._names(BI if name.startswith(BI) else CROSS).index(name)
        halves = [half for half in self.halves if half.base == index]
        model.facts = {"made_by": {
            "system": COMMAND, "base": self.bases[index], "pairs": len(self.task.splits[LEARNED]),
            "seed": self.shop.seed, "kept": self.kept, "halves": [asdict(half) for half in halves],
            "settings": {which: one.to_json() for which, one in self.settings.items()},
        }}  # fmt: skip
        folder.mkdir()
        model.write(folder)
        return model

    def _tested(self, models: Mapping[str, System]) -> tuple[dict[str, Interval], dict[str, Interval]]:
        """The rank correlation of each model with the labels of test rows, and how far it is above that of its base."""
        labelled = self.pairs.labelled
        if labelled is None or not len(labelled.splits["test"]):
            return {}, {}
        begun = {name: load(piece.folder / MODEL) for name, piece in zip(self._names(BASE), self.begun, strict=True)}
        device = pick_device(self.settings[BI].device)
        answers = {name: predict_split(model.to(device), labelled, "test")
                   for name, model in {**begun, **models}.items()}  # fmt: skip
        if len(self.bases) > 1:
            for model in (BASE, BI, CROSS):
                answers[f"mean of {model}"] = _mean([answers[name] for name in self._names(model)])
        drawn = Bootstrap.make({(name, labelled.name): one for name, one in answers.items()}, seed=self.shop.seed)
        test = {name: drawn.score(name, labelled.name) for name in answers}
        bases = {name: name.replace(model, BASE) for model in (BI, CROSS) for name in answers if model in name}
        return test, {name: drawn.task_difference(name, own, labelled.name) for name, own in bases.items()}


#: What the models of a half are called in sentences.
_ENCODERS = {BI: "bi-encoder", CROSS: "cross-encoder"}


def _replaced(old: Sequence[Piece], new: Sequence[Piece], fine: Sequence[bool]) -> list[Piece]:
    """The new models where they are fine, and the old ones elsewhere."""
    return [after if good else before for before, after, good in zip(old, new, fine, strict=True)]


def _mean(answers: Sequence[Predictions]) -> Predictions:
    """The mean of what several models say of the same pairs."""
    return replace(answers[0], predictions=np.mean([np.asarray(one.predictions) for one in answers], axis=0))
