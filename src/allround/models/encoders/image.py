"""Image encoders: any transformers vision model folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.registry import method
from allround.models.batch import Batch, Features
from allround.models.encoder import CONFIG, Encoder, try_out
from allround.models.pretrained import LOADING, check_config, check_processor, check_size, whole
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.values import Row

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

#: How an image is given to a network that reads so many channels.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
#: What an encoder is tried out with when it is loaded.
_TRIAL = Definition("trial", "classification", ("image",), "image", "accuracy", ("no", "yes"))


@method(source="the model's own pooler output, or the mean over patches where it has none")
class Image(Encoder):
    """A transformers vision model with its image processor. Images become grey or coloured, as the model reads them.

    Shapes: images -> features (n, hidden). Of the tasks in `first_token` the features are followed by what the network
    gives for the first token (length hidden more), which classifiers such as ViT's read.
    The saved folder loads in plain transformers.
    """

    name = "image"
    modalities = ("image",)
    learning_rate = 5e-5
    epochs = 3

    def __init__(self, model: Any, processor: Any, *, first_token: Sequence[str] = ()) -> None:
        super().__init__()
        self.model = model
        self.first_token = tuple(first_token)
        self.processor = processor
        config = getattr(model.config, "vision_config", model.config)
        sizes = getattr(config, "hidden_sizes", None)
        self.dim = int(sizes[-1] if sizes else config.hidden_size)
        self.channels = int(getattr(config, "num_channels", 3))
        if self.channels not in _MODES:
            raise AllroundError(
                "read images with an encoder",
                f"its network reads {self.channels} channels, and images have 1, 3 or 4 (grey, colours, transparency)",
                "choose another --base",
            )

    @property
    def backbone(self) -> torch.nn.Module:
        network: torch.nn.Module = self.model
        return network

    def features(self, definition: Definition) -> int:
        return self.dim * (2 if definition.name in self.first_token else 1)

    @property
    def preparation(self) -> object:
        return [self.name, self.channels, self.processor.to_dict()]

    def prepare(self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None = None) -> list[Tensor]:
        self.check(definition)
        prepared: list[Tensor] = []
        for start in range(0, len(inputs), 64):
            images = [cast("Picture", image).convert(_MODES[self.channels]) for (image,) in inputs[start : start + 64]]
            prepared += self._processed(images)
        return prepared

    def _processed(self, images: list[Any]) -> list[Tensor]:
        try:
            made: Tensor = self.processor(images=images, return_tensors="pt")["pixel_values"]
        except (ValueError, TypeError, RuntimeError) as error:
            raise self._unfit(f"refuses them: {error}") from error
        if made.ndim == 4 and made.shape[1] != self.channels:
            raise self._unfit(f"makes {made.shape[1]} of it")
        return list(made)

    def _unfit(self, found: str) -> AllroundError:
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        return AllroundError(
            "read images with an encoder",
            f"its network reads images of {channels}, and its image processor {found}",
            "let its preprocessor_config.json say what its config.json (num_channels) does: image_mean and image_std "
            "with one number for each channel; do_convert_rgb only where there are 3",
        )

    def collate(self, prepared: Sequence[Tensor], definition: Definition, targets: Encoded | None = None) -> Batch:
        return Batch({"pixel_values": torch.stack(list(prepared))}, len(prepared))

    def forward(self, batch: Batch) -> Features:
        found = self.model(pixel_values=batch.tensors["pixel_values"])
        pooled: Tensor | None = getattr(found, "pooler_output", None)
        if pooled is None:
            hidden = found.last_hidden_state
            pooled = hidden.mean((2, 3)) if hidden.dim() == 4 else hidden.mean(1)
        pooled = pooled.flatten(1)
        if not batch.rows.keys() & set(self.first_token):
            return Features(pooled)
        return Features(torch.cat([pooled, found.last_hidden_state[:, 0]], -1))

    def write_rows(self, folder: Path) -> tuple[str, dict[str, object]]:
        self.model.config.save_pretrained(str(folder))
        self.processor.save_pretrained(str(folder))
        return self.name, {"first_token": self.first_token}

    @classmethod
    def rows_from(cls, folder: Path, settings: Mapping[str, Any]) -> Image:
        from transformers import AutoConfig, AutoImageProcessor, AutoModel

        check_config(folder)
        check_processor(folder)
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        with torch.device("meta"):  # the network is asked for its sizes alone
            network = AutoModel.from_config(AutoConfig.from_pretrained(str(folder), **options))
        return cls(network, AutoImageProcessor.from_pretrained(str(folder), **options), **settings)

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(str(folder))
        self.processor.save_pretrained(str(folder))
        settings = {"first_token": list(self.first_token)} if self.first_token else {}
        write_json(folder / CONFIG, {"encoder": self.name, "settings": settings})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Image:
        import PIL.Image

        from allround.core.jobs import quiet_libraries

        quiet_libraries()
        try:
            from transformers import AutoImageProcessor, AutoModel
        except ImportError as error:
            raise AllroundError(
                f"load the image encoder in {folder}",
                "the package transformers is not installed",
                "pip install 'allround[text]'",
            ) from error
        check_config(folder)
        check_processor(folder)
        check_size(folder)
        options = {"local_files_only": True, "trust_remote_code": False}
        model, notes = whole(folder, AutoModel.from_pretrained(str(folder), **options, **LOADING))
        encoder = cls(model, AutoImageProcessor.from_pretrained(str(folder), **options), **settings)
        encoder.notes = notes
        try_out(encoder, _TRIAL, (PIL.Image.new("L", (8, 8)),))
        return encoder
