"""A library: a folder of modules of one base, each in a folder of its own that is whole or not there."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from allround.composition.library.about import create, find_base, read_about
from allround.composition.library.alike import nearly_same, same
from allround.composition.library.card import ADAPTER, WEIGHTS, Card, TunedTask, read_card, write_card
from allround.composition.library.known import tasks_in
from allround.composition.library.likeness import Array, Nearest, nearest, read_sketch
from allround.core.errors import AllroundError, suggestion
from allround.core.files import check_name, disk_errors
from allround.core.growing import growing
from allround.core.outputs import check_out, output_folder, sweep
from allround.core.problems import Problems

if TYPE_CHECKING:
    from allround.checkpoints.weights import Weights
    from allround.composition.modules.changes import Changes
    from allround.composition.systems.routed import Member
    from allround.models.head import HeadState
    from allround.tasks.definition import Definition

#: The folder of the modules.
MODULES = "modules"
#: The command that a module's folder is of.
_COMMAND = "library add"


class Library:
    """A folder of modules of one base: adapters of PEFT as they came, and what tuned models changed.

        library = allround.Library.create("lib", "all-MiniLM-L6-v2")
        library.add("adapters/topic")
        for name, card in library.cards().items():
            print(name, card.form, card.bytes)

    Nothing that is there is rewritten when a module is added, dropped or renamed, and a module is whole or not there,
    also where its process was killed. Several processes may add modules at once.

    folder: of the library. base: where the base lies now, when that is not where the library says.
    """

    def __init__(self, folder: Path | str, base: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self._given = base
        self.about = read_about(self.folder)

    # -- the folder ----------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path | str, base: str | Path) -> Library:
        """Make a library without modules. base: a model folder, an installed model or a Hub id, whose weights every
        module must fit.

        Errors: a folder that holds anything, a library among it; a base that is an adapter, or is made on the spot.
        """
        create(Path(folder), base)
        return cls(folder)

    @classmethod
    def open(cls, folder: Path | str, base: str | Path | None = None) -> Library:
        """Open a library. base: where its base lies now, when that is not where it was.

        Errors: a folder that is no library, or whose library.json is damaged.
        """
        return cls(folder, base)

    def __repr__(self) -> str:
        return f"Library({str(self.folder)!r}, {len(self)} modules of {self.about.base})"

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    @property
    def names(self) -> list[str]:
        """The names of its modules, in the order of the alphabet."""
        try:
            with os.scandir(self.folder / MODULES) as found:
                names = [one.name for one in found if not one.name.startswith(".") and one.is_dir()]
        except FileNotFoundError:
            return []
        return sorted(names)

    @property
    def base(self) -> str:
        """The base, as it was given when the library was created."""
        return self.about.base

    @cached_property
    def base_folder(self) -> Path:
        """The folder of the base's weights. Errors: it is not there, or holds other weights than it did."""
        return find_base(self.folder, self.about, self._given)

    @cached_property
    def weights(self) -> Weights:
        """The weights of the base."""
        from allround.checkpoints.weights import Weights

        return Weights(self.base_folder)

    # -- what is in it -------------------------------------------------------------------------------------------------

    def place(self, name: str) -> Path:
        """The folder of a module. Errors: there is none of that name."""
        if name.startswith(".") or Path(name).name != name or not (self.folder / MODULES / name).is_dir():
            raise AllroundError(
                f"open the module '{name}' of {self.folder}", "the library has none of that name",
                suggestion(name, self.names) if self.names else f"add one: allround library add {self.folder} MODULE",
            )  # fmt: skip
        return self.folder / MODULES / name

    def card(self, name: str) -> Card:
        """The card of a module. Errors: it is damaged, or of a module of another base."""
        check_name(name, "module")
        folder = self.place(name)
        card = read_card(folder)
        if card.base != self.about.fingerprint:
            raise AllroundError(
                f"read the module {folder}",
                "it is a module of another base",
                "add it to a library of that base; a module's folder cannot be moved from one library to another",
            )
        return card

    def cards(self, problems: Problems | None = None) -> dict[str, Card]:
        """The cards of all modules. problems: gathers what is wrong with single ones, which are then left out; without
        it that is an error."""
        gathered = problems or Problems()
        found = {}
        for name in self.names:
            with gathered.gathered():
                found[name] = self.card(name)
        if problems is None:
            gathered.check(f"read the library {self.folder}")
        return found

    def nearest(
        self, names: Sequence[str] | None = None, problems: Problems | None = None
    ) -> dict[str, Nearest | None]:
        """The most similar other module of each, by their sketches; None for one that changes nothing, or is alone.
        names: compare these. problems: as for `cards`."""
        gathered = problems or Problems()
        sketches: dict[str, Array] = {}
        for name in self.names if names is None else names:
            with gathered.gathered():
                sketches[name] = read_sketch(self.place(name))
        if problems is None:
            gathered.check(f"compare the modules of {self.folder}")
        return nearest(sketches)

    def changes(self, name: str) -> Changes:
        """What a module changes of the base."""
        from allround.composition.modules.changes import Changes

        return Changes(self.weights, self.folder_of(name))

    def folder_of(self, name: str) -> Path:
        """The folder of a module's weights: an adapter of PEFT, or the tensors that differ from the base's.

        Errors: something in it that a library does not write, such as a link that leads elsewhere.
        """
        place = self.place(name)
        self.card(name)
        for path in [place, *place.rglob("*")]:
            if path.is_symlink():
                raise AllroundError(
                    f"open the module '{name}' of {self.folder}",
                    f"{path.relative_to(self.folder)} is a link, which a library does not write",
                    "drop the module, and add it again",
                )
        return place / WEIGHTS

    def tasks(self, name: str) -> dict[str, Definition]:
        """The tasks that a module brings heads for: those of a model that allround saved."""
        return tasks_in(self.place(name)).definitions

    def heads(self, name: str) -> dict[str, HeadState]:
        """The heads that a module brings, by task."""
        from allround.models.head_files import HEADS, read_heads

        file, tasks = self.place(name) / HEADS, self.tasks(name)
        found = read_heads(file) if file.is_file() else {}
        return {task: head for task, head in found.items() if task in tasks}

    def member(self, name: str) -> Member:
        """A module as a routed system takes it."""
        from allround.composition.systems.routed import Member

        return Member(name, self.folder_of(name), tuple(self.card(name).tasks))

    def similarity(self, one: str, other: str) -> float:
        """The cosine of the changes of two modules, from their factors; zero where one changes nothing."""
        from allround.composition.library.sketching import product

        first, second = self.changes(one), self.changes(other)
        norms = [self.card(name).norm for name in (one, other)]
        return product(first, second) / (norms[0] * norms[1]) if all(norms) else 0.0

    # -- changes of the library ----------------------------------------------------------------------------------------

    def add(
        self,
        source: str | Path,
        name: str | None = None,
        *,
        rank: int | None = None,
        tasks: Mapping[str, TunedTask] | Sequence[str] = (),
        licence: str | None = None,
    ) -> Card:
        """Add a module: an adapter of PEFT as it is, a model that was tuned from the base, one that allround saved,
        which brings its tasks with their heads, or the folder of another library's module.

        source: a folder or a Hub id. name: in the library; by default that of the folder. rank: of a full model, make
        an adapter of this rank of its change, in place of the tensors that differ from the base's; adapters stay as
        they are. tasks: that the module was tuned on, beside those that it says itself. licence: of the module, where
        its card names none.
        Errors: a name that is taken; a module of another base, or whose tensors do not fit; NaN or infinity.
        """
        from allround.composition.library.adding import open_given, put_into, with_told

        name = check_name(module_name(source) if name is None else name, "module")
        asked = f"add the module {source} as '{name}'"
        self._check_free(name, asked)
        given = open_given(source, asked)
        told = tasks if isinstance(tasks, Mapping) else {check_name(task, "task"): TunedTask() for task in tasks}
        base = self.weights
        self._sweep()
        read = [given.place] if Path(source).expanduser().exists() else []
        with output_folder(self.folder / MODULES / name, _COMMAND, inputs=read) as folder:
            self._check_free(name, asked)  # another process may have added it before this one had the lock
            card = put_into(folder, given, base, self.about.fingerprint, rank)
            card = with_told(card, given.card, told, licence)
            write_card(folder, card)
        return card

    def drop(self, name: str) -> None:
        """Remove a module. Errors: something in its folder that no library wrote."""
        place, asked = self.place(name), f"drop the module '{name}' of {self.folder}"
        self._sweep()
        with disk_errors(str(place)), growing(place) as holder:
            if not place.is_symlink():
                try:
                    check_out(place, _COMMAND)
                except AllroundError as error:
                    raise AllroundError(
                        asked, error.found, f"move that out of {place}, or remove it yourself"
                    ) from error
            gone = holder / "new" / name  # what is there is swept, should this process end before it is removed
            shutil.rmtree(gone.parent, ignore_errors=True)
            gone.parent.mkdir()
            os.replace(place, gone)
            if gone.is_symlink():
                gone.unlink()
            shutil.rmtree(gone.parent)

    def rename(self, name: str, new: str) -> None:
        """Give a module another name. Errors: the name is taken."""
        place, asked = self.place(name), f"rename the module '{name}' of {self.folder} to '{new}'"
        target = place.with_name(check_name(new, "module"))
        self._check_free(new, asked, beside=name)
        with disk_errors(str(target)), growing(target), growing(place):
            self._check_free(new, asked, beside=name)
            os.replace(place, target)

    def duplicates(self) -> list[list[str]]:
        """The groups of modules that are the same, each in the order of the alphabet."""
        return same(self.cards())

    def dedupe(self, *, near: float | None = None, dry_run: bool = False) -> dict[str, str]:
        """Drop modules that are the same as another one: dropped -> kept, which is the first of the alphabet.

        near: also those without tasks that differ from another one by at most this share of the larger change, such as
        0.01; sketches find them, and their factors decide. dry_run: only say which.
        """
        if near is not None and not 0 < near < 1:
            asked = "find modules that are nearly the same"
            raise AllroundError(asked, f"near is a share between 0 and 1, not {near}", "give one such as 0.01")
        cards = self.cards()
        found = {name: group[0] for group in same(cards) for name in group[1:]}
        if near is not None:
            left = {name: card for name, card in cards.items() if name not in found}
            sketches = {name: read_sketch(self.place(name)) for name in left}
            found |= nearly_same(near, left, sketches, self.similarity)
        for name in found if not dry_run else ():
            self.drop(name)
        return found

    def materialise(self, name: str, out: Path | str, *, force: bool = False) -> None:
        """Write the base with a module in it, as a model folder of its own; with its heads, where it brings some.

        A folder that is there is replaced only where this wrote it and nothing was changed since, or with `force`.
        """
        from allround.composition.library.materialising import write_model

        with output_folder(out, "library materialise", force=force, inputs=[self.folder, self.base_folder]) as folder:
            write_model(folder, self.changes(name), tasks_in(self.place(name)), self.heads(name))

    def export(self, name: str, out: Path | str, *, force: bool = False) -> None:
        """Write the adapter of a module as it came, as a folder that PEFT opens. Errors: it is no adapter."""
        folder, card = self.folder_of(name), self.card(name)
        if card.form != ADAPTER:
            raise AllroundError(
                f"export the module '{name}' of {self.folder}",
                "it is what a full model changed, and not an adapter",
                "write the whole model: allround library materialise; or add the model with --rank",
            )
        with output_folder(out, "library export", force=force, inputs=[self.folder]) as new:
            for file in sorted(folder.iterdir()):
                if file.is_file():
                    shutil.copyfile(file, new / file.name)

    def _check_free(self, name: str, asked: str, beside: str | None = None) -> None:
        """An error where a module has the name, or one that some disks do not tell from it."""
        taken = [other for other in self.names if other.lower() == name.lower() and other != beside]
        if taken or os.path.lexists(self.folder / MODULES / name):
            raise AllroundError(
                asked,
                f"the library has a module of the name '{taken[0] if taken else name}'",
                f"choose another name (--name), or drop that first: allround library drop {self.folder} NAME",
            )

    def _sweep(self) -> None:
        """Remove what killed processes left."""
        sweep(self.folder / MODULES)


def module_name(source: str | Path) -> str:
    """The name of a module from its folder's or its id's.

    >>> module_name("adapters/topic.v2"), module_name("org/lora")
    ('topic_v2', 'lora')
    """
    last = Path(source).name or Path(source).absolute().name
    return re.sub(r"[^A-Za-z0-9_-]", "_", last).lstrip("_-")[:100] or "module"
