"""A task: its definition and its three splits of encoded rows."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from allround.core.errors import AllroundError, suggestion
from allround.core.files import hash_json, read_settings, write_json
from allround.core.outputs import output_folder
from allround.core.reading import check_file
from allround.core.schema import fitted
from allround.core.seeds import seed_of
from allround.tasks.cells import are_plain
from allround.tasks.definition import Definition
from allround.tasks.draws import SplitRule
from allround.tasks.imbalance import check_agree, check_focal, label_weights
from allround.tasks.kind import Encoded, kind
from allround.tasks.modality import modality_of
from allround.tasks.passages import Passages
from allround.tasks.values import Row, Value

SPLITS = ("train", "validation", "test")
#: How the columns of slices begin in the file of a split.
SLICE = "slice_"


@dataclass(frozen=True)
class Split:
    """Rows of one split: what goes in, and the encoded targets, in the same order.

    rows: for a task of a table, the number of each row in the table, int64. slices: further columns by name, a text or
    None for each row, by which results are broken down; models never see them. keys: what the task's rule of splits
    goes by in each row.
    """

    inputs: list[Row]
    targets: Encoded
    rows: np.ndarray | None = None
    slices: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    keys: Sequence[str | float | None] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Sequence[int]) -> Split:
        """Only these rows, in this order."""
        targets = [self.targets[i] for i in rows]
        return Split(
            [self.inputs[i] for i in rows],
            np.array(targets) if isinstance(self.targets, np.ndarray) else targets,
            None if self.rows is None else self.rows[np.asarray(rows, dtype=np.int64)],
            {name: [values[i] for i in rows] for name, values in self.slices.items()},
            [self.keys[i] for i in rows] if self.keys else (),
        )


@dataclass(frozen=True)
class Task:
    """A definition with data. `notes` are what the user should know about the data; the report repeats them.

    table: the name of a table whose rows several tasks label, each with its own target. The rows of such tasks are
    numbered alike, so that the same number is the same row, in the same split, whether or not a task has a target
    for it. rule: by which column, if by any, splits were drawn.
    """

    definition: Definition
    splits: dict[str, Split]
    notes: tuple[str, ...] = field(default=())
    table: str | None = None
    rule: SplitRule | None = None

    def __post_init__(self) -> None:
        if self.table is not None and any(s.rows is None or len(s.rows) != len(s) for s in self.splits.values()):
            raise AllroundError(
                f"make the task '{self.name}'",
                f"it is of the table '{self.table}', and its rows have no numbers in it",
                "make it with `make_task(..., table=...)`, or give each split its `rows`",
            )

    @property
    def name(self) -> str:
        return self.definition.name

    @cached_property
    def content(self) -> str:
        """A hash of the definition and of every row; for a task of a table also of its name and the rows' numbers.

        Slices do not count: they change nothing that is learned or predicted.
        """
        parts: list[object] = [self.definition.to_json()]
        if self.table is not None:
            parts.append(["table", self.table])
        for name in SPLITS:
            split = self.splits[name]
            digest = hashlib.sha256()
            for row in split.inputs:
                digest.update(repr(row_key(row)).encode())
            plain = [list(t) if isinstance(t, tuple) else np.asarray(t).tolist() for t in split.targets]
            digest.update(repr(plain).encode())
            if split.rows is not None:
                digest.update(repr(split.rows.tolist()).encode())
            parts.append([name, digest.hexdigest()])
        return hash_json(parts)

    def limit(self, rows: Mapping[str, int], seed: int = 0) -> Task:
        """The same task with at most so many rows a split, drawn as by `limit_split`.

        rows: split -> the most rows. Splits that are not named stay whole. Tasks of a table keep the same rows of
        it, as far as they have them.
        """
        rules = kind(self.definition.kind)
        splits = dict(self.splits)
        for name, most in check_limit(rows).items():
            split = splits[name]
            splits[name] = limit_split(
                split, most, seed_of(seed, "limit", self.table or self.name, name), rules.strata(split.targets)
            )
        return replace(self, splits=splits)

    def with_role(self, role: str) -> Task:
        """The same task in another part: see `allround.tasks.roles`."""
        return replace(self, definition=replace(self.definition, role=role))

    def weighed(
        self,
        class_weights: str | Mapping[str, float] | None = None,
        focal: float | None = None,
        agree: str | None = None,
    ) -> Task:
        """The same task with weights of labels, the exponent of a focal loss, or another loss, for training; no score
        changes.

        class_weights: "balanced", or label -> weight. focal: 2 is the usual one (Lin et al., ICCV 2017). agree: the
        loss of pairs with scores, such as "cosent" (`allround methods list --family agree`).
        """
        more: dict[str, object] = {}
        if class_weights is not None:
            more["weights"] = label_weights(self.definition, self.splits["train"].targets, class_weights)
        if focal is not None:
            more["focal"] = check_focal(self.definition, focal)
        if agree is not None:
            more["agree"] = check_agree(self.definition, agree)
        return replace(self, definition=self.definition.with_facts(more))

    def as_defined(self, definition: Definition) -> Task:
        """The same rows with targets as another definition of the task has them: its order of labels, its scale.

        Labels that it lacks are a KeyError naming them.

        >>> from allround.tasks.make import make_task
        >>> rows = {"text": ["fine", "dull", "warm"], "label": ["good", "bad", "good"]}
        >>> data = dict.fromkeys(("train", "validation", "test"), rows)
        >>> task = make_task("mood", kind="classification", inputs="text", target="label", data=data)
        >>> other = task.as_defined(task.definition.with_facts({"labels": ("good", "bad")}))
        >>> task.splits["test"].targets.tolist(), other.splits["test"].targets.tolist()
        ([1, 0, 1], [0, 1, 0])
        """
        if definition == self.definition:
            return self
        rules = kind(definition.kind)
        splits = {
            name: replace(split, targets=rules.encode(rules.decode(split.targets, self.definition), definition))
            for name, split in self.splits.items()
        }
        return replace(self, definition=definition, splits=splits)

    def save(self, folder: Path | str, *, force: bool = False) -> None:
        """Write the task as a folder: `definition.json`, and one Arrow file a split. Images are kept as PNG.

        A folder that is there is replaced only where `save` wrote it and nothing was changed since, or with `force`.
        """
        with output_folder(folder, "Task.save", force=force) as new:
            self.write(new)

    def write(self, folder: Path) -> None:
        """Write the task's files into an existing folder."""
        for name in SPLITS:
            _write_split(folder / f"{name}.arrow", self.splits[name], self.definition)
        about = {"format": 1, "definition": self.definition.to_json(), "notes": list(self.notes)}
        if self.table is not None:
            about["table"] = self.table
        if self.rule is not None:
            about["split"] = asdict(self.rule)
        write_json(folder / "definition.json", about)

    @classmethod
    def load(cls, folder: Path | str) -> Task:
        """Read what `save` wrote: equal rows, in the same order, with the same `content`."""
        folder = Path(folder)
        about = read_settings(folder / "definition.json")
        try:
            definition = Definition.from_json(about["definition"])
            splits = {name: _read_split(folder / f"{name}.arrow", definition) for name in SPLITS}
            rule = fitted(SplitRule, about["split"]) if "split" in about else None
            return cls(definition, splits, tuple(about["notes"]), about.get("table"), rule)
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise AllroundError(
                f"read the task in {folder}",
                f"its files are not as they were written: {type(error).__name__}: {error}",
                "make the task again",
            ) from error


def limit_split(split: Split, rows: int, seed: int, strata: Sequence[Hashable] | None = None) -> Split:
    """At most `rows` rows, drawn by `seed` without replacement, in their old order.

    One row of each of the `strata` (a group for each row) is kept when `rows` allows it. A smaller draw with
    the same seed is part of a larger one. Where the rows have numbers in a table, each comes in its turn by its
    number alone, so that splits which share rows keep the same ones.

    >>> split = Split([(i,) for i in range(6)], np.array([0, 0, 0, 0, 0, 1]))
    >>> limit_split(split, 2, seed=0, strata=[0, 0, 0, 0, 0, 1]).targets.tolist()
    [0, 1]
    """
    if rows >= len(split):
        return split
    order: list[int]
    if split.rows is None:
        order = np.random.default_rng(seed).permutation(len(split)).tolist()
    else:
        turns = [seed_of(seed, number) for number in split.rows.tolist()]
        order = sorted(range(len(split)), key=turns.__getitem__)
    if strata is not None:
        first: dict[Hashable, int] = {}
        for i in order:
            first.setdefault(strata[i], i)
        if len(first) <= rows:
            kept = set(first.values())
            order = [*first.values(), *(i for i in order if i not in kept)]
    return split.take(sorted(order[:rows]))


def check_limit(limit: int | Mapping[str, int] | None) -> dict[str, int]:
    """A limit as split -> the most rows; a bare number is for train.

    >>> check_limit(100), check_limit({"test": 5})
    ({'train': 100}, {'test': 5})
    """
    limits = {} if limit is None else {"train": limit} if isinstance(limit, int) else dict(limit)
    for split, rows in limits.items():
        if split not in SPLITS:
            raise AllroundError(
                f"limit the rows of '{split}'", "there is no split of that name", suggestion(str(split), SPLITS)
            )
        if isinstance(rows, bool) or not isinstance(rows, (int, np.integer)) or rows < 1:
            raise AllroundError(
                f"limit {split} to {rows!r} rows", "a limit is a whole number of at least 1", "give 1 or more"
            )
    return limits


def row_key(row: Row) -> tuple[object, ...]:
    """Hashable inputs of one row, equal exactly where the inputs are."""
    return row if are_plain(row) else tuple(_value_key(value) for value in row)


def text_row(row: Row) -> Row:
    """Inputs of one row with words joined to text: the same for a task that tags them and one that labels the text.

    >>> text_row((["so", "good"], 1.0))
    ('so good', 1.0)
    """
    return tuple(" ".join(v) if isinstance(v, list) else v for v in row)


def _value_key(value: Value) -> object:
    if isinstance(value, list):
        return tuple(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Passages):
        return "passages", value.content
    return value.mode, value.size, hashlib.sha256(value.tobytes()).digest()


def _write_split(path: Path, split: Split, definition: Definition) -> None:
    import pyarrow as pa

    rules = modality_of(definition)
    columns = {f"input_{i}": rules.to_arrow([row[i] for row in split.inputs]) for i in range(len(definition.inputs))}
    targets = split.targets
    if isinstance(targets, np.ndarray) and targets.ndim == 2:
        columns["target"] = pa.FixedSizeListArray.from_arrays(pa.array(targets.reshape(-1)), targets.shape[1])
    elif isinstance(targets, np.ndarray):
        columns["target"] = pa.array(targets)
    elif kind(definition.kind).ranked:
        columns["target"] = pa.array([list(t.items()) for t in targets], pa.map_(pa.large_string(), pa.float64()))
    elif kind(definition.kind).written:
        columns["target"] = pa.array([list(t) for t in targets], pa.large_list(pa.large_string()))
    else:
        columns["target"] = pa.array([t.tolist() for t in targets], pa.large_list(pa.int64()))
    if split.rows is not None:
        columns["row"] = pa.array(split.rows, pa.int64())
    for name, values in split.slices.items():
        columns[SLICE + name] = pa.array(values, pa.large_string())
    if split.keys:
        columns["key"] = pa.array(split.keys)
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _read_split(path: Path, definition: Definition) -> Split:
    import pyarrow as pa

    check_file(path)
    # Passages may be many: they stay in the file until they are read.
    opened = pa.memory_map(str(path)) if kind(definition.kind).ranked else pa.OSFile(str(path), "rb")
    with opened as file:
        table = pa.ipc.open_file(file).read_all()
    table.validate(full=True)  # the lengths in a damaged file may point outside it
    rules = modality_of(definition)
    columns = [rules.from_arrow(table.column(f"input_{i}")) for i in range(len(definition.inputs))]
    target = table.column("target").combine_chunks()
    targets: Encoded
    if pa.types.is_fixed_size_list(target.type):
        targets = target.flatten().to_numpy(zero_copy_only=False).reshape(len(target), target.type.list_size).copy()
    elif kind(definition.kind).ranked:
        targets = [dict(row) for row in target.to_pylist()]
    elif kind(definition.kind).written:
        targets = [tuple(row) for row in target.to_pylist()]
        if not all(row and all(isinstance(one, str) for one in row) for row in targets):
            raise ValueError("a row has no answer")
    elif pa.types.is_large_list(target.type):
        targets = [np.array(row, dtype=np.int64) for row in target.to_pylist()]
    else:
        targets = target.to_numpy(zero_copy_only=False).copy()
    rows = table.column("row").to_numpy().copy() if "row" in table.column_names else None
    names = [name for name in table.column_names if name.startswith(SLICE)]
    slices = {name.removeprefix(SLICE): table.column(name).to_pylist() for name in names}
    keys = table.column("key").to_pylist() if "key" in table.column_names else ()
    return Split(list(zip(*columns, strict=True)), targets, rows, slices, keys)
