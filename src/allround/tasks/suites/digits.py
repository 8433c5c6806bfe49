"""Eleven questions about the same 1,797 handwritten digits of 8 x 8 pixels; needs no download."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.tasks.make import make_task
from allround.tasks.suite import Suite, choose
from allround.tasks.task import Task, check_limit

if TYPE_CHECKING:
    from numpy import ndarray

#: Columns of targets, by name.
Answers: TypeAlias = Mapping[str, Sequence[str | float]]

#: digit -> the lit segments of a seven-segment display
SEGMENTS = ("abcdef", "bc", "abdeg", "abcdg", "bcfg", "acdfg", "acdefg", "abc", "abcdefg", "abcdfg")
#: digit -> closed loops in its shape
LOOPS = (1, 0, 0, 0, 1, 0, 1, 0, 2, 1)
NOISE = 48  # standard deviation, of 255


@method(source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998, as scikit-learn carries it")
def digits(
    *, data_dir: Path | None = None, only: Sequence[str] | None = None, limit: Mapping[str, int] | None = None
) -> Suite:
    """The suite; `data_dir` is not used. All tasks share one split: 60 % train, 15 % validation, 25 % test."""
    chosen = choose(list(_TASKS), only, "digits")
    rows = check_limit(limit)
    images, identity, parts = _read()
    return Suite(
        "digits",
        [_make(name, images, identity, parts, rows) for name in chosen],
        description="Eleven questions about the same small images of handwritten digits.",
        base="small_image",
    )


def _read() -> tuple[ndarray, list[int], dict[str, list[int]]]:
    """Images (n, 8, 8) of 0..255, their digits, and the rows of each split."""
    import numpy as np
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(seed_of(0, "digits", "split")).permutation(len(images))
    cuts = [round(len(order) * 0.6), round(len(order) * 0.75)]
    parts = dict(zip(("train", "validation", "test"), np.split(order, cuts), strict=True))
    return images, data.target.tolist(), {split: sorted(rows.tolist()) for split, rows in parts.items()}


def _make(name: str, images: ndarray, identity: list[int], parts: dict[str, list[int]], limit: dict[str, int]) -> Task:
    from PIL import Image

    kind, change, answers = _TASKS[name]
    pictures = [Image.fromarray(image) for image in change(images)]
    columns = {"image": pictures, **answers(images, identity)}
    targets = [c for c in columns if c != "image"]
    return make_task(
        name,
        kind=kind,
        inputs="image",
        target=targets if len(targets) > 1 else targets[0],
        data={split: {c: [v[i] for i in rows] for c, v in columns.items()} for split, rows in parts.items()},
        limit=limit,
    )


def _noisy(images: ndarray) -> ndarray:
    import numpy as np

    noise = np.random.default_rng(seed_of(0, "digits", "noise")).normal(0, NOISE, images.shape)
    return np.round(images + noise).clip(0, 255).astype(np.uint8)


def _slant(images: ndarray) -> list[float]:
    """Shear of the ink: mu11 / mu02, about the centre of the ink; positive where it leans right downwards."""
    import numpy as np

    ink = images.astype(np.float64)
    rows, columns = np.mgrid[: images.shape[1], : images.shape[2]]
    total = ink.sum((1, 2))
    y = rows - ((ink * rows).sum((1, 2)) / total)[:, None, None]
    x = columns - ((ink * columns).sum((1, 2)) / total)[:, None, None]
    slant: list[float] = ((ink * x * y).sum((1, 2)) / (ink * y * y).sum((1, 2))).tolist()
    return slant


def _ink(images: ndarray) -> list[float]:
    ink: list[float] = (images.mean((1, 2)) / 255).tolist()
    return ink


def _label(name: str, of: Callable[[int], str | int]) -> Callable[[ndarray, list[int]], Answers]:
    return lambda images, identity: {name: [of(d) for d in identity]}


def _same(images: ndarray) -> ndarray:
    return images


#: task -> (kind, change of the images, (images, digits) -> target columns)
_TASKS: dict[str, tuple[str, Callable[[ndarray], ndarray], Callable[[ndarray, list[int]], Answers]]] = {
    "digit": ("classification", _same, _label("digit", int)),
    "parity": ("classification", _same, _label("parity", lambda d: "odd" if d % 2 else "even")),
    "large": ("classification", _same, _label("large", lambda d: "large" if d >= 5 else "small")),
    "loops": ("classification", _same, _label("loops", lambda d: LOOPS[d])),
    "rotated": ("classification", lambda images: images.swapaxes(1, 2)[:, ::-1].copy(), _label("digit", int)),
    "mirrored": ("classification", lambda images: images[:, :, ::-1].copy(), _label("digit", int)),
    "inverted": ("classification", lambda images: 255 - images, _label("digit", int)),
    "noisy": ("classification", _noisy, _label("digit", int)),
    "ink": ("regression", _same, lambda images, identity: {"ink": _ink(images)}),
    "slant": ("regression", _same, lambda images, identity: {"slant": _slant(images)}),
    "segments": (
        "multilabel",
        _same,
        lambda images, identity: {s: [int(s in SEGMENTS[d]) for d in identity] for s in "abcdefg"},
    ),
}
