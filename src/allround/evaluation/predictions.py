"""The answers of one system to one split of one task, beside the targets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allround.core.errors import AllroundError
from allround.core.outputs import output_file
from allround.core.reading import check_parquet, open_file, parse_json
from allround.core.schema import STRICT, fitted
from allround.evaluation.ranked import check_ranked, grades_type, ranked_columns
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.metric import score_of
from allround.tasks.values import short

_FORMAT = "allround predictions 1"
#: How far a probability may be outside its range.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Predictions:
    """Targets and predictions of a split, both encoded as the task's kind does, row by row.

    confidence: the probability of each answer, where the kind has one. seconds: what predicting took. scores: the
    probability of each label, float32 (n, labels), or for kinds per word one (words, labels) a row; where the kind has
    labels and the system gives them.
    """

    definition: Definition
    split: str
    targets: Encoded
    predictions: Encoded
    confidence: list[float] | None = None
    seconds: float = 0.0
    scores: NDArray[np.float32] | list[NDArray[np.float32]] | None = None

    def __post_init__(self) -> None:
        if len(self.targets) != len(self.predictions):
            raise AllroundError(
                f"keep the predictions for the task '{self.definition.name}'",
                f"there are {len(self.predictions)} of them for {len(self.targets)} {self.split} rows",
                "predict every row once",
            )
        if kind(self.definition.kind).written:
            self._check_texts()
        elif kind(self.definition.kind).ranked:
            check_ranked(self.targets, self.predictions, f"keep the predictions for the task '{self.definition.name}'")
        else:
            self._check_shapes()
        parts = {"targets": self.targets, "predictions": self.predictions, "confidences": self.confidence}
        for what, values in parts.items():
            if odd := _odd(values):
                raise AllroundError(
                    f"keep the predictions for the task '{self.definition.name}'",
                    f"{odd} of {len(self)} {what} are NaN or infinite",
                    "check the model that they come from",
                )

        if self.scores is not None:
            given = self.scores
            kept = (
                [np.asarray(row, dtype=np.float32) for row in given]
                if isinstance(given, list)
                else np.asarray(given, dtype=np.float32)
            )
            object.__setattr__(self, "scores", kept)
            if wrong := _wrong_scores(kept, self.targets, self.definition):
                raise AllroundError(
                    f"keep the predictions for the task '{self.definition.name}'",
                    wrong,
                    "check the system that they come from: scores are probabilities of the labels",
                )

    def _check_shapes(self) -> None:
        """An error where a prediction has not the shape of its target."""
        pairs = [(self.targets, self.predictions)]
        if isinstance(self.targets, list):
            pairs = list(zip(self.targets, self.predictions, strict=True))
        if any(np.shape(one) != np.shape(other) for one, other in pairs):
            raise AllroundError(
                f"keep the predictions for the task '{self.definition.name}'",
                "one is of another length than the target of its row",
                "predict every word once",
            )

    def _check_texts(self) -> None:
        """An error unless each target is some texts, and each prediction one."""
        for what, rows, most in (("target", self.targets, None), ("prediction", self.predictions, 1)):
            for place, row in enumerate(rows):
                texts = isinstance(row, tuple) and bool(row) and all(isinstance(one, str) for one in row)
                if not texts or (most is not None and len(row) > most):
                    raise AllroundError(
                        f"keep the predictions for the task '{self.definition.name}'",
                        f"the {what} of row {place} is {short(row)}",
                        f"give a tuple of {'one text' if most else 'the accepted texts'}",
                    )

    def __len__(self) -> int:
        return len(self.targets)

    def save(self, path: Path | str, *, force: bool = False) -> None:
        """Write a Parquet file: see `write`.

        A file that is there is replaced only where `save` wrote it and it is unchanged, or with `force`.
        """
        with output_file(path, "Predictions.save", force=force) as new:
            self.write(new)

    def write(self, path: Path) -> None:
        """Write a Parquet file: row, target, prediction (in the words of the task), confidence and scores.

        Where answers are texts, the target is the list of the accepted ones; where they rank passages, it maps ids to
        grades. Scores are lists in the order of the
        labels; of kinds per word there is one for each word. Encoded numbers that do not follow exactly from the words
        (regression) have columns of their own. The definition, the split and the seconds are in the metadata of the
        schema, as JSON under "allround".
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        rules = kind(self.definition.kind)
        type_ = None if rules.ranked else _type(self.targets)
        columns = {"row": pa.array(range(len(self)), pa.int64())}
        if rules.ranked:
            columns |= ranked_columns(self.targets, self.predictions)
        elif rules.written:
            columns["target"] = pa.array([list(row) for row in self.targets], pa.list_(pa.string()))
            columns["prediction"] = pa.array([text for (text,) in self.predictions], pa.string())
        else:
            columns["target"] = pa.array(rules.decode(self.targets, self.definition), type_)
            columns["prediction"] = pa.array(rules.decode(self.predictions, self.definition), type_)
        if self.confidence is not None:
            columns["confidence"] = pa.array(self.confidence, pa.float64())
        if type_ == pa.float64():
            columns["target_encoded"] = pa.array(self.targets)
            columns["prediction_encoded"] = pa.array(self.predictions)
        if self.scores is not None:
            table = one_table(self.scores, self.definition)
            column = pa.FixedSizeListArray.from_arrays(pa.array(table.ravel()), table.shape[1])
            if isinstance(self.scores, list):
                ends = np.cumsum([0, *map(len, self.scores)])
                column = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), column)
            columns["scores"] = column
        about = {
            "format": _FORMAT,
            "definition": self.definition.to_json(),
            "split": self.split,
            "seconds": self.seconds,
        }
        table = pa.table(columns).replace_schema_metadata({"allround": json.dumps(about)})
        pq.write_table(table, path)

    @classmethod
    def load(cls, path: Path | str) -> Predictions:
        """Read what `save` wrote, exactly as it was."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        try:
            with open_file(path, asked=f"read predictions from {path}") as file:
                check_parquet(file, asked=f"read predictions from {path}")
                table = pq.read_table(file)
            about = fitted(_About, parse_json((table.schema.metadata or {})[b"allround"].decode("utf-8")))
            if about.format != _FORMAT:
                raise ValueError(f"its format is {about.format!r}, not {_FORMAT!r}")
            definition = Definition.from_json(about.definition)
            _check_columns(table, definition)
            targets, predictions = (_encoded(table, name, definition) for name in ("target", "prediction"))
            confidence = table["confidence"].to_pylist() if "confidence" in table.column_names else None
            return cls(definition, about.split, targets, predictions, confidence, about.seconds, _scores(table))
        except (pa.ArrowException, KeyError, TypeError, ValueError, OSError, AllroundError) as error:
            found = error.found if isinstance(error, AllroundError) else str(error)
            raise AllroundError(
                f"read predictions from {path}",
                f"it is not a file of predictions: {found}",
                "give a Parquet file that allround wrote, or make it again",
            ) from error


@dataclass(frozen=True)
class _About:
    """What a file of predictions says of itself."""

    __pydantic_config__ = STRICT

    format: str
    definition: dict[str, Any]
    split: str
    seconds: float


def _check_columns(table: Any, definition: Definition) -> None:
    """A ValueError unless a table has just the columns that are written, of their types, with no gaps."""
    import pyarrow as pa

    kinds = [pa.string(), pa.list_(pa.string()), pa.float64()]
    found = dict(zip(table.schema.names, table.schema.types, strict=True))
    form = found.get("target")
    if kind(definition.kind).written:
        kinds, said = [pa.list_(pa.string())], pa.string()
    elif kind(definition.kind).ranked:
        kinds, said = [grades_type()], pa.list_(pa.string())
    else:
        said = form
    wanted = {"row": pa.int64(), "target": form, "prediction": said}
    wanted |= {"target_encoded": pa.float64(), "prediction_encoded": pa.float64()} if form == pa.float64() else {}
    wanted |= {"confidence": pa.float64()} if "confidence" in found else {}
    listed = pa.list_(pa.float32(), len(definition.labels))
    of_words = pa.list_(listed)
    wanted |= {"scores": of_words if found["scores"] == of_words else listed} if "scores" in found else {}
    if len(found) < len(table.schema) or found != wanted or form not in kinds:
        raise ValueError(f"it has the columns {', '.join(f'{n} ({t})' for n, t in found.items())[:200]}")
    for name in found:
        column = table[name].combine_chunks()
        parts = [column]
        while pa.types.is_list(parts[-1].type) or pa.types.is_fixed_size_list(parts[-1].type):
            parts.append(parts[-1].values)
        if pa.types.is_map(parts[-1].type):
            parts += [parts[-1].keys, parts[-1].items]
        if any(part.null_count for part in parts):
            raise ValueError(f"its column '{name}' has gaps")
    if not np.array_equal(table["row"].to_numpy(), np.arange(len(table))):
        raise ValueError("its rows are not in their order")


def _odd(values: Any) -> int:
    """How many numbers are not finite; encoded labels always are."""
    if isinstance(values, list) and not all(isinstance(value, float) for value in values):
        return 0
    return 0 if values is None else int((~np.isfinite(values)).sum())


def one_table(scores: NDArray[np.float32] | list[NDArray[np.float32]], definition: Definition) -> NDArray[np.float32]:
    """The probabilities of the labels as (n, labels); of kinds per word n words, row after row."""
    if not isinstance(scores, list):
        return np.ascontiguousarray(scores)
    return np.concatenate([np.zeros((0, len(definition.labels)), dtype=np.float32), *scores])


def _wrong_scores(
    scores: NDArray[np.float32] | list[NDArray[np.float32]], targets: Encoded, definition: Definition
) -> str | None:
    """What is wrong with the probabilities of labels, in words."""
    rules, labels = kind(definition.kind), len(definition.labels)
    if not rules.labelled:
        return f"there are scores, and a row of a task of the kind {definition.kind} has none"
    if rules.per_token != isinstance(scores, list):
        wanted = "a list of tables, one for each row" if rules.per_token else "one table, with a row for each target"
        return f"the scores of a task of the kind {definition.kind} are not {wanted}"
    if isinstance(scores, list):
        if [row.shape for row in scores] != [(len(target), labels) for target in targets]:
            return f"there is not one row of scores for each word, with {labels} labels"
        scores = one_table(scores, definition)
    elif scores.shape != (len(targets), labels):
        return f"the scores have the shape {scores.shape}, and there are {len(targets)} rows and {labels} labels"
    count, what = len(scores), "words" if rules.per_token else "rows"
    if odd := int((~np.isfinite(scores)).any(1).sum()):
        return f"the scores of {odd} of {count} {what} are NaN or infinite"
    if outside := int(((scores < -_ROUNDING) | (scores > 1 + _ROUNDING)).any(1).sum()):
        return f"the scores of {outside} of {count} {what} are not between 0 and 1"
    if rules.exclusive and (apart := int((np.abs(scores.sum(1, dtype=np.float64) - 1) > 100 * _ROUNDING).sum())):
        return f"the scores of {apart} of {count} {what} do not add up to 1"
    return None


def score(predictions: Predictions) -> float:
    """The task's own metric of these predictions.

    >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
    >>> score(Predictions(d, "test", np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])))
    0.75
    """
    definition = predictions.definition
    if not len(predictions):
        raise AllroundError(
            f"score the task '{definition.name}'",
            f"its {predictions.split} split has no rows",
            "give the split at least one row",
        )
    return score_of(definition, predictions.targets, predictions.predictions, predictions.scores)


def _type(encoded: Encoded) -> Any:
    """The Arrow type of the readable form: a number, a label, or a list of labels."""
    import pyarrow as pa

    if isinstance(encoded, np.ndarray) and encoded.ndim == 1:
        return pa.float64() if encoded.dtype.kind == "f" else pa.string()
    return pa.list_(pa.string())


def _encoded(table: Any, name: str, definition: Definition) -> Encoded:
    if f"{name}_encoded" in table.column_names:
        return table[f"{name}_encoded"].to_numpy()
    values = table[name].to_pylist()
    if kind(definition.kind).ranked and name == "target":
        values = [dict(row) for row in values]
    return kind(definition.kind).encode(values, definition)


def _scores(table: Any) -> NDArray[np.float32] | list[NDArray[np.float32]] | None:
    import pyarrow as pa

    if "scores" not in table.column_names:
        return None
    column = table["scores"].combine_chunks()
    rows = column if pa.types.is_fixed_size_list(column.type) else column.flatten()
    scores = np.asarray(rows.flatten().to_numpy(zero_copy_only=False)).reshape(len(rows), rows.type.list_size)
    if rows is column:
        return scores
    counts = column.value_lengths().to_numpy(zero_copy_only=False)
    return np.split(scores, np.cumsum(counts)[:-1]) if len(counts) else []
