"""Data sets that scikit-learn carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allround.core.errors import AllroundError, suggestion
from allround.tasks.sources.quiet import quiet

if TYPE_CHECKING:
    from datasets import Dataset

SKLEARN = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")


def read_sklearn(name: str) -> dict[str, Dataset]:
    """A set that scikit-learn carries: its columns and `target`; for digits `image` too."""
    if name not in SKLEARN:
        raise AllroundError(f"read '{name}' from scikit-learn", "it carries no such set", suggestion(name, SKLEARN))
    import datasets
    import numpy as np
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")(as_frame=True)
    rows = datasets.Dataset.from_pandas(bunch.frame, preserve_index=False)
    labels = [str(label) for label in getattr(bunch, "target_names", ())]
    if "target" in rows.column_names and labels:
        with quiet():
            rows = rows.cast_column("target", datasets.ClassLabel(names=labels))
    if name == "digits":
        from PIL import Image

        images = [Image.fromarray(np.round(i * 255 / 16).astype(np.uint8)) for i in bunch.images]
        pictures = datasets.Dataset.from_dict({"image": images}, features=datasets.Features(image=datasets.Image()))
        rows = datasets.concatenate_datasets([rows, pictures], axis=1)
    return {"train": rows}
