"""The base that everything is tuned from, and the precision that all work computes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allround.building.budget import Passes
from allround.building.jobs import start as jobs
from allround.building.machine import precision_words
from allround.building.stages.data import Data
from allround.building.words import plain_name
from allround.building.workshop import Tally, Workshop
from allround.core.files import hash_folder, hash_json
from allround.core.jobs import Job, call
from allround.core.pieces import Piece
from allround.core.seeds import seed_of
from allround.core.words import count
from allround.models.base import builtin_encoders, check_is_model, find_folder
from allround.models.device import pick_device
from allround.training.settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from allround.models.encoders.module import Module

#: Rows of each task that tell how a network of the user's own reads rows.
FIRST_ROWS = 8


@dataclass(frozen=True)
class Base:
    """The base of a run: what a report calls it, and the piece that holds it.

    chosen: how its size was chosen, in words; None where only one was made.
    """

    name: str
    piece: Piece
    chosen: str | None = None

    @property
    def encoder(self) -> str:
        """The folder of its encoder."""
        return str(self.piece.folder / "encoder")

    @property
    def size(self) -> int:
        """Numbers in its encoder."""
        return int(self.piece.facts["parameters"])

    @property
    def epochs(self) -> int:
        """Epochs of training, where the settings name none."""
        return int(self.piece.facts["epochs"])

    @property
    def least_steps(self) -> int:
        """Steps that a training has at least, where the settings name no epochs."""
        return int(self.piece.facts.get("least_steps", 0))

    def passes(self, settings: Settings) -> Passes:
        """How often a training with these settings sees its rows."""
        return Passes.of(settings, self.epochs, self.least_steps)

    @property
    def speaks(self) -> bool:
        """Whether it can answer by its own words: a language model."""
        return "texts" in self.piece.facts.get("gives", ())

    @property
    def learning_rate(self) -> float:
        """Learning rate, where the settings name none."""
        return float(self.piece.facts["learning_rate"])


@dataclass(frozen=True)
class Precision:
    """Settings whose precision is decided, and the decision in words."""

    settings: Settings
    words: str


def is_module(base: str | Path | nn.Module) -> bool:
    """Whether a base is a network of the user's own, which no other process can load."""
    from allround.models.encoders.module import Module

    return isinstance(base, Module)


def make_base(
    shop: Workshop, given: str | Path | nn.Module, data: Data, encoder: Mapping[str, object], seed: int
) -> Base:
    """Make the base, or copy it into the run folder.

    given: a folder, an installed or Hub name, a built-in encoder, or a `Module`. encoder: settings of the encoder.
    """
    from allround.models.encoders.module import Module

    if isinstance(given, Module):
        return _keep_module(shop, given, data)
    piece, job = base_work(shop, str(given), data, encoder, seed)
    made = Base(plain_name(given), piece)
    say_base(shop, made, shop.do("base", [(piece, job)]))
    return made


def base_work(shop: Workshop, given: str, data: Data, encoder: Mapping[str, object], seed: int) -> tuple[Piece, Job]:
    """The piece of a base, and the job that makes it, or copies it into the run folder."""
    seed = seed_of(seed, "base")
    made_from: dict[str, object]
    if given in builtin_encoders():
        made_from = {
            "tasks": list(data.content.values()),
            "seed": seed,
            **({"encoder": dict(encoder)} if encoder else {}),
        }
    else:
        folder = find_folder(given)
        check_is_model(folder)
        made_from = {"content": hash_folder(folder), "encoder": dict(encoder)}
    piece = shop.pieces.piece("base", base=plain_name(given), **made_from)
    job = call(jobs.make_base, piece=piece, base=given, tasks=list(data.folders.values()), seed=seed,
               encoder=dict(encoder))  # fmt: skip
    return piece, job


def say_base(shop: Workshop, made: Base, tally: Tally) -> None:
    """Say what the base is, and what people have to know of it."""
    shop.say(f"base {made.name}: {count(made.size)} parameters", tally)
    for note in made.piece.facts.get("notes", ()):
        shop.say(f"base: {note}", style="yellow")


def _keep_module(shop: Workshop, module: Module, data: Data) -> Base:
    from allround.models.encoder import hash_tensors
    from allround.models.model import parameters_of

    read = [module.prepare(t.splits["train"].inputs[:FIRST_ROWS], t.definition) for t in data.tasks.values()]
    about = [module.label, module.form, module.dim, hash_json([[row.tolist() for row in rows] for rows in read])]
    piece = shop.pieces.piece("base", base=about, content=hash_tensors(module.network))
    if not shop.have(piece):
        with piece.make() as (folder, facts):
            (folder / "encoder").mkdir()
            module.save(folder / "encoder")
            facts.update({"parameters": parameters_of(module), "encoder": module.name, "epochs": module.epochs,
                          "learning_rate": module.learning_rate, "seconds": 0.0})  # fmt: skip
    return Base(plain_name(module), piece)


def decide_precision(shop: Workshop, settings: Settings) -> Precision:
    """Measure once what "auto" means here, and keep to it in all that follows, also after a kill."""
    if settings.precision != "auto":
        return Precision(settings, precision_words(settings.precision))
    device = settings.device
    piece = shop.pieces.piece("precision", device=pick_device(device).type)
    shop.do("precision", [(piece, call(jobs.decide_precision, piece=piece, device=device))])
    words = precision_words(piece.facts["precision"], piece.facts["layer"])
    shop.say(f"matrix products in {words}")
    return Precision(settings.with_(precision=piece.facts["precision"]), words)
