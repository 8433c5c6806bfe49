"""A small convolutional net for small images, pretrained on the spot without labels."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.core.files import write_json
from allround.core.registry import method
from allround.models.batch import Batch, Features
from allround.models.encoder import CONFIG, Encoder, load_tensors, save_tensors
from allround.models.shrinking.anatomy import Anatomy, Group, Kept, cut, kept_of
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.values import Row


@method(
    source="pretraining as Gidaris et al., ICLR 2018, arXiv:1803.07728 (rotation), with flips and inversion added",
    builtin=True,
)
class SmallImage(Encoder):
    """Three convolutions with group normalisation, then the mean over positions: about 190 k parameters.

    Shapes: images of any size, resized to (channels, size, size) and scaled to [0, 1] -> features (n, 128).

    groups: how many groups of channels, normalised each by itself, the first convolution (4 channels a group) and the
    second (16) give; a smaller net has fewer.

    >>> SmallImage(size=8)(Batch({"images": torch.zeros(2, 1, 8, 8)}, 2)).values.shape
    torch.Size([2, 128])
    """

    name = "small_image"
    modalities = ("image",)
    learning_rate = 2e-4
    epochs = 6

    def __init__(self, *, channels: int = 1, size: int = 8, groups: Sequence[int] = (8, 8)) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"channels": channels, "size": size}
        if tuple(groups) != (8, 8):
            self.settings["groups"] = list(groups)
        one, two = groups
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 4 * one, 3, padding=1),
            nn.GroupNorm(one, 4 * one),
            nn.ReLU(),
            nn.Conv2d(4 * one, 16 * two, 3, padding=1),
            nn.GroupNorm(two, 16 * two),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16 * two, 128, 3, padding=1),
            nn.GroupNorm(8, 128),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )

    def features(self, definition: Definition) -> int:
        return 128

    @property
    def preparation(self) -> object:
        return [self.name, self.settings]

    def prepare(self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None = None) -> list[Tensor]:
        self.check(definition)
        size, mode = self.settings["size"], "L" if self.settings["channels"] == 1 else "RGB"
        return [image_tensor(image, size, mode) for (image,) in inputs]

    def collate(self, prepared: Sequence[Tensor], definition: Definition, targets: Encoded | None = None) -> Batch:
        return Batch({"images": torch.stack(list(prepared))}, len(prepared))

    def forward(self, batch: Batch) -> Features:
        return Features(self.layers(batch.tensors["images"]))

    def stages(self) -> list[nn.Module]:
        """Each convolution with what follows it."""
        return [self.layers[:3], self.layers[3:7], self.layers[7:]]

    def entering(self, batch: Batch) -> Tensor:
        return batch.tensors["images"]

    def leaving(self, batch: Batch, values: Tensor) -> Features:
        return Features(values)

    def anatomy(self, length: float) -> Anatomy:
        """Groups of channels that are normalised together: without one, the others stay as they were."""
        one, two = self.settings.get("groups", (8, 8))
        made = [
            Group("channels.0", one, ("layers.3",), ("layers.0", "layers.1")),
            Group("channels.1", two, ("layers.7",), ("layers.3", "layers.4")),
        ]
        side, read = self.settings["size"], self.settings["channels"]

        def work(kept: Kept) -> float:
            first, second = (width * len(kept_of(group, kept)) for width, group in zip((4, 16), made, strict=True))
            return float(9 * (side**2 * (read * first + first * second) + (side // 2) ** 2 * second * 128))

        return Anatomy(tuple(made), work)

    def smaller(self, kept: Kept) -> SmallImage:
        anatomy, own = self.anatomy(1.0), copy.deepcopy(self)
        anatomy.check(kept)
        for group in anatomy.groups:
            cut(own, group, kept_of(group, kept))
        made = SmallImage(**{**self.settings, "groups": [len(kept_of(group, kept)) for group in anatomy.groups]})
        made.load_state_dict(own.state_dict())
        return made.to(next(self.parameters()).device).eval()

    def write_rows(self, folder: Path) -> tuple[str, dict[str, object]]:
        return self.name, dict(self.settings)

    @classmethod
    def rows_from(cls, folder: Path, settings: Mapping[str, Any]) -> SmallImage:
        return cls(**settings)

    def save(self, folder: Path) -> None:
        save_tensors(self, folder / "model.safetensors")
        write_json(folder / CONFIG, {"encoder": self.name, "settings": self.settings})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> SmallImage:
        encoder = cls(**settings)
        load_tensors(encoder, folder / "model.safetensors")
        return encoder

    @classmethod
    def create(cls, inputs: Sequence[Row], definition: Definition, seed: int) -> SmallImage:
        """A net pretrained on these images: tell which of 16 views (rotation x flip x inversion) is shown.

        Takes 150 steps of 64 images.
        """
        first = inputs[0][0]
        channels = 1 if getattr(first, "mode", "RGB") in ("L", "1", "I", "F") else 3
        torch.manual_seed(seed)
        encoder = cls(channels=channels, size=min(32, 8 * round(max(8, *getattr(first, "size", (8, 8))) / 8)))
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        images = torch.stack(encoder.prepare(inputs, definition))
        guess = nn.Linear(encoder.features(definition), 16)
        steps = 150
        optimiser = torch.optim.AdamW([*encoder.parameters(), *guess.parameters()], lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
        encoder.train()
        for _ in range(steps):
            rows = torch.randint(len(images), (64,), generator=generator)
            view = torch.randint(16, (len(rows),), generator=generator)
            shown = _views(images[rows], view)
            loss = F.cross_entropy(guess(encoder(Batch({"images": shown}, len(rows))).values), view)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        return encoder.eval()


def image_tensor(image: Any, size: int, mode: str) -> Tensor:
    """A PIL image as a float tensor (channels, size, size) in [0, 1]."""
    image = image.convert(mode)
    if image.size != (size, size):
        image = image.resize((size, size))
    array = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(array.copy()).reshape(size, size, -1).permute(2, 0, 1).contiguous()


def _views(images: Tensor, view: Tensor) -> Tensor:
    shown = images.clone()
    for turns in range(4):
        chosen = view % 4 == turns
        shown[chosen] = torch.rot90(images[chosen], turns, (2, 3))
    flipped = view // 4 % 2 == 1
    shown[flipped] = shown[flipped].flip(3)
    inverted = view // 8 == 1
    shown[inverted] = 1 - shown[inverted]
    return shown
