"""A frozen transformer, beside whose blocks each task has a lane of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.registry import method
from allround.models.base import load_encoder
from allround.models.batch import Batch, Features
from allround.models.encoder import CONFIG, Encoder, load_tensors, save_tensors
from allround.models.lane import Lane, LanePass, LaneSite, lane_sites
from allround.models.named import NamedModules
from allround.models.wrapping import Wrapping, side_by_side
from allround.tasks.definition import Definition
from allround.tasks.kind import kind

#: Where the inner encoder lies in the folder, and the lanes.
INNER, ADDED = "inner", "lanes.safetensors"


@method(
    source="MULTI-LANE: De Min et al., CoLLAs 2024, arXiv:2405.15633; multi_lane/blocks.py and "
    "multi_lane/vision_transformer.py of tdemin16/multi-lane"
)
class Lanes(Wrapping):
    """A text or vision transformer, which is frozen. Each task has a lane (`allround.models.lane`): a class token goes
    through the same blocks again, and attends to a few summaries of what the network reads there. The inner encoder
    pools the class token of the lane as it pools what its network gives.

    tasks: those that there is room for. selectors: summaries of each task. prompts: keys and values of each task in
    each of the first `layers` blocks. A lane begins as a copy of the last one before it.

    Errors: a network without blocks of the usual sort; tasks on single words, which a lane has no vectors of.
    """

    name = "lanes"
    learning_rate = 1e-2

    def __init__(
        self, inner: Encoder, tasks: Sequence[str] = (), *, selectors: int = 20, prompts: int = 20, layers: int = 5
    ) -> None:
        super().__init__()
        self.inner = inner.eval()
        if "texts" in inner.gives:
            raise AllroundError(
                "lay lanes beside the blocks of a language model",
                "its attention reads one way, and several rows may stand in one sequence",
                "use a text or vision transformer such as BERT or ViT as the --base, or another strategy",
            )
        self.settings = {"selectors": selectors, "prompts": prompts, "layers": layers}
        self._blocks, self.width = len(self.sites), cast(nn.Linear, self.sites[0].query).in_features
        self.lanes = NamedModules()
        #: Tasks whose lanes learn; None for all.
        self.learns: tuple[str, ...] | None = None
        for task in tasks:
            self.add_task(task)

    @property
    def sites(self) -> list[LaneSite]:
        """The blocks beside which the lanes are."""
        return lane_sites(self.backbone)

    def lane(self, task: str) -> Lane:
        """What a task has of its own."""
        return cast(Lane, self.lanes[task])

    def add_task(self, task: str) -> None:
        """Room for a task, which begins as a copy of the last one."""
        if task in self.lanes:
            return
        selectors, prompts, layers = self.settings.values()
        made = Lane(self.width, selectors, prompts, min(layers, self._blocks)).to(next(self.inner.parameters()).device)
        if len(self.lanes):
            made.load_state_dict(self.lane([*self.lanes][-1]).state_dict())
        self.lanes[task] = made

    def check(self, definition: Definition) -> None:
        super().check(definition)
        if kind(definition.kind).per_token:
            raise AllroundError(
                f"answer task '{definition.name}' from a lane",
                "it has an answer for each word, and a lane gives one vector for the whole text",
                "use another strategy, such as residual",
            )

    def forward(self, batch: Batch) -> Features:
        """Features of a batch; where rows are asked for several tasks, those of all tasks side by side."""
        tasks, sites = tuple(batch.rows), self.sites
        found = []
        for task in tasks:
            with LanePass(sites, self.lane(task), batch.tensors.get("attention_mask")).watching():
                found.append(self.inner(batch))
        return side_by_side(found, tasks)

    def train(self, mode: bool = True) -> Lanes:
        super().train(mode)
        self.inner.eval()
        return self

    def own(self, task: str) -> dict[str, nn.Parameter]:
        return {f"lanes.{task}.{name}": p for name, p in self.lane(task).named_parameters()}

    def frozen(self) -> set[int]:
        """The inner encoder, and lanes of tasks that do not learn."""
        kept = [] if self.learns is None else [task for task in self.lanes if task not in self.learns]
        return {id(p) for p in (*self.inner.parameters(), *(p for task in kept for p in self.own(task).values()))}

    def save(self, folder: Path) -> None:
        (folder / INNER).mkdir()
        self.inner.save(folder / INNER)
        save_tensors(self.lanes, folder / ADDED)
        settings = {"tasks": list(self.lanes), **self.settings}
        write_json(folder / CONFIG, {"encoder": self.name, "settings": settings})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Lanes:
        try:
            encoder = cls(load_encoder(folder / INNER), **settings).eval()
        except (TypeError, ValueError, RuntimeError) as error:
            raise AllroundError(
                f"load the encoder in {folder}", f"{CONFIG} is damaged: {error}", "copy the folder again, whole"
            ) from error
        load_tensors(encoder.lanes, folder / ADDED)
        return encoder
