"""The workshop of a run: its folder with the pieces in it, the processes that make them, and what it says."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from allround.core.errors import AllroundError
from allround.core.jobs import Inline, Job, Ray, Runner, available_cores, runner
from allround.core.outputs import sweep, work_folder
from allround.core.pieces import Piece, Pieces
from allround.core.progress import Progress
from allround.training.callback import Callback
from allround.training.course import Evaluation

if TYPE_CHECKING:
    from typing_extensions import Self

#: Worker processes when nobody says how many: one a core, and no more than these.
MOST_WORKERS = 8


class Product(Protocol):
    """What a job makes: a piece, or several that one job makes together."""

    @property
    def key(self) -> str: ...

    @property
    def done(self) -> bool: ...

    @property
    def damage(self) -> str | None: ...

    @property
    def facts(self) -> Mapping[str, object]: ...


#: A product and the job that makes it.
Work: TypeAlias = tuple[Product, Job]


@dataclass(frozen=True)
class Tally:
    """How many products of a stage were made, and how many were there already.

    >>> str(Tally(made=2) + Tally(made=1, found=3)), str(Tally(found=4)), str(Tally(made=4))
    (' (3 of 6 were there already)', ' (all were there already)', '')
    """

    made: int = 0
    found: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.made + other.made, self.found + other.found)

    def __str__(self) -> str:
        if not self.found:
            return ""
        if self.made:
            return f" ({self.found} of {self.made + self.found} were there already)"
        return " (all were there already)" if self.found > 1 else " (was there already)"


class Workshop:
    """Makes pieces in a run folder, and says what it makes. A context: its processes end with it.

    out: the run folder. workers: processes, `None` for one a core. in_process: all work is done in this process, for
    what cannot be sent to another. ray: the address of a Ray cluster that does the work, whose machines share the run
    folder. gpus: of each job there. force: replace what others put in the way. callbacks: are told of every training.
    """

    def __init__(
        self,
        out: Path,
        progress: Progress,
        *,
        seed: int = 0,
        workers: int | None = None,
        in_process: bool = False,
        ray: str | None = None,
        gpus: int = 0,
        force: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.out, self.progress, self.seed, self.force = out, progress, seed, force
        self.callbacks, self._told = list(callbacks), set[str]()
        self.pieces = Pieces(out / "pieces")
        self.workers = workers or min(available_cores(), MOST_WORKERS)
        self.in_process, self.ray, self.gpus, self.given = in_process, ray, gpus, workers
        if ray is not None and in_process:
            raise AllroundError(
                f"work on the Ray cluster '{ray}'",
                "the base is a network of this process, which cannot be sent to other machines",
                "save it and give its folder, or leave ray out",
            )
        self.runner: Runner = Inline()
        self._watch = contextlib.ExitStack()
        self.started = time.perf_counter()

    def __enter__(self) -> Self:
        if self.ray is not None:
            cluster = Ray(self.ray, workers=self.given, gpus=self.gpus)
            self.runner, self.workers = cluster, cluster.workers
        else:
            self.runner = Inline() if self.in_process else runner(self.workers)
        self.runner.__enter__()
        self._watch.enter_context(self.progress.watch())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.close()
        self.runner.__exit__(kind, error, trace)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    @property
    def at_once(self) -> int:
        """Jobs that run at the same time."""
        return 1 if isinstance(self.runner, Inline) else self.workers

    def have(self, product: Product) -> bool:
        """Whether a product need not be made; says so where it was damaged and is made again."""
        if product.damage is not None:
            self.progress.say(f"note  {product.key} is made again: {product.damage}", style="yellow")
        return product.done

    def do(self, title: str, work: Sequence[Work]) -> Tally:
        """Run the jobs whose products are not there yet; the log says what was made and what was found."""
        missing: list[Work] = []
        for product, job in work:
            if self.have(product):
                self.progress.note(f"have  {product.key}{_result(product)}")
                self._tell(product)
            else:
                missing.append((product, job))
        with self.progress.stage(title, len(missing)) as stage:
            for index, _ in self.runner.run([job for _, job in missing], alone=len(work) == 1):
                product = missing[index][0]
                stage.advance()
                self.progress.note(f"made  {product.key}{_result(product)}")
                self._tell(product)
        return Tally(len(missing), len(work) - len(missing))

    def _tell(self, product: Product) -> None:
        """Tell the callbacks of a training that is done: here, whatever process it was done in."""
        if not self.callbacks or product.key in self._told or not isinstance(product, Piece):
            return
        self._told.add(product.key)
        for evaluation in cast("list[Evaluation]", product.facts.get("evaluations", [])):
            for callback in self.callbacks:
                callback.evaluated(product.key.rpartition("-")[0], evaluation)

    def say(self, text: str, tally: Tally | None = None, *, style: str | None = None) -> None:
        """Tell people what a stage has done. tally: of its products, said where not all of them had to be made."""
        self.progress.say(f"{text}{tally or ''}", style=style)


@contextlib.contextmanager
def run_folder(out: Path, command: str, *, force: bool) -> Iterator[None]:
    """One run of a command at a time in its folder; what a killed one left half-made is swept."""
    with work_folder(out, command, force=force):
        sweep(out / "pieces")
        yield


def folders(pieces: Mapping[str, Piece]) -> dict[str, str]:
    """The folder of each piece, as jobs take it."""
    return {name: str(piece.folder) for name, piece in pieces.items()}


def keys(pieces: Mapping[str, Piece]) -> dict[str, str]:
    """The key of each piece."""
    return {name: piece.key for name, piece in pieces.items()}


def seconds(pieces: Mapping[str, Piece]) -> float:
    """What making these pieces took in all."""
    return float(sum(piece.facts["seconds"] for piece in pieces.values()))


def _result(product: Product) -> str:
    facts = product.facts
    parts = []
    scores = facts.get("validation")
    if isinstance(scores, Mapping):
        scores = sum(scores.values()) / len(scores)
    if isinstance(scores, (int, float)):
        parts.append(f"validation {scores:.3f}")
    took = facts.get("seconds")
    if isinstance(took, (int, float)):
        parts.append(f"{took:.1f} s")
    return f"  ({', '.join(parts)})" if parts else ""
