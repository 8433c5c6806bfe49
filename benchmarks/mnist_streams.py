"""The test images of MNIST as a stream: two digits at a time, in three scenarios.

    python benchmarks/mnist_streams.py FOLDER --out runs/mnist

FOLDER holds t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz, as published. A fifth of the images is kept for
test and a tenth for validation. The published shape to compare with: van de Ven and Tolias (arXiv:1904.07734), table 4
there for all of MNIST: where labels compete, regularisers near 20 %, replay of real rows above 90 %.
"""

from __future__ import annotations

import argparse
import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image

import allround
from allround.continual.report import print_results


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes from a gzipped file in the format of MNIST."""
    with gzip.open(path) as file:
        dimensions = struct.unpack(">HBB", file.read(4))[2]
        shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
        return np.frombuffer(file.read(), np.uint8).reshape(shape)


def suite_of(folder: Path, size: int, limits: dict[str, int]) -> allround.Suite:
    """The images, `size` pixels wide and high, and their digits as a suite of one task."""
    images = read_idx(folder / "t10k-images-idx3-ubyte.gz")
    labels = read_idx(folder / "t10k-labels-idx1-ubyte.gz")
    rows = [
        {"image": Image.fromarray(image).resize((size, size)), "digit": str(label)}
        for image, label in zip(images, labels, strict=True)
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    parts = dict(zip(("train", "validation", "test"), np.split(order, [7000, 8000]), strict=True))
    task = allround.make_task(
        "digit", kind="classification", inputs="image", target="digit", limit=limits,
        data={split: [rows[row] for row in sorted(places)] for split, places in parts.items()},
    )  # fmt: skip
    return allround.Suite("mnist", [task])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenarios", default="class,task,domain")
    parser.add_argument("--strategies", default="er:bytes=160000,ewc,lwf")
    parser.add_argument("--train", type=int, default=2000, help="training rows")
    parser.add_argument("--size", type=int, default=16, help="width and height of an image, in pixels")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--orders", type=int, default=1)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    suite = suite_of(given.folder, given.size, {"train": given.train, "validation": 500, "test": 2000})
    settings = allround.Settings(epochs=given.epochs, batch_size=32, learning_rate=1e-3, precision="fp32")
    for scenario in given.scenarios.split(","):
        found = allround.stream(
            suite, task="digit", labels=2, scenario=scenario, strategies=given.strategies.split(","),
            base="small_image", settings=settings, seeds=given.seeds, orders=given.orders,
            workers=given.workers, out=given.out / scenario,
        )  # fmt: skip
        print(f"\n{scenario}")
        print_results(found)
