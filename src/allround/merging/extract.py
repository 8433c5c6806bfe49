"""A full tuned checkpoint as a LoRA adapter of its base: the change of every linear layer, cut to a low rank."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allround.checkpoints.adapter_config import CONFIG
from allround.checkpoints.edits import FLIPPED, FLIPPED_LAYERS, model_type
from allround.checkpoints.finite import count_odd, odd_words
from allround.checkpoints.header import FLOATS, dtype_name
from allround.checkpoints.quantised import UNPACK, check_not_quantised
from allround.checkpoints.source import Source
from allround.checkpoints.tied import EMBEDDING, twins_of
from allround.checkpoints.write import write_weights
from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.outputs import output_folder
from allround.merging.fit import differing_words, missing_words
from allround.merging.names import Names
from allround.merging.recipe import Model
from allround.merging.sources import open_model, untie

_EMBEDDING = re.compile(
    r"(embed_tokens|wte|wpe|shared|embed_in|embed_positions|relative_attention_bias|embeddings?|\w+_embeddings?)"
)
#: Up to this many rows or columns the decomposition is exact: it takes a fraction of a second. A randomised one of
#: four rounds loses less than 0.01 % of what an exact one keeps where singular values decay at all, and is 10 to 70
#: times as fast on matrices of 1,000 to 2,000 (exactly flat spectra lose up to 7 %, and `kept` says so).
_EXACT = 512
_ROUNDS = 4


@dataclass(frozen=True)
class Extracted:
    """What became of a tuned checkpoint.

    ranks, kept: of each weight of a low rank, its rank and the share of its squared change that the adapter holds.
    whole: tensors that the adapter holds as they are (norms, biases). left_out: tensors that changed and are not in
    the adapter, each with its share of the whole squared change. extra: tensors that the base lacks, left out as well.
    share: of the whole squared change, how much the adapter holds.
    """

    path: Path
    ranks: dict[str, int]
    kept: dict[str, float]
    whole: tuple[str, ...]
    left_out: dict[str, float]
    extra: tuple[str, ...]
    share: float


def extract_lora(
    tuned: Path | str | Source,
    base: Path | str | Source,
    out: Path | str,
    rank: int,
    *,
    energy: float | None = None,
    embeddings: bool = False,
    device: str = "cpu",
    force: bool = False,
    merged: Mapping[str, object] | None = None,
) -> Extracted:
    """Write the adapter that takes `base` to `tuned`, as closely as a rank allows, into the folder `out`.

    Each two-dimensional weight's change is cut to its `rank` largest singular values, shared evenly between both
    factors; alpha is the rank, so that nothing is scaled. Norms and biases that changed are stored as they are, as
    PEFT's `modules_to_save` and `bias`. Holds one weight and the adapter in memory.

    Where the base's output layer is its embedding, the adapter changes both alike (`ensure_weight_tying`); but each by
    itself where they differ in the tuned model.

    energy: take the least rank that keeps this share of a weight's squared change, at most `rank`. embeddings: cut
    these too. merged: what is to be written down as merge.json, where a merge is extracted as it is made.
    A folder that is there is replaced only where `extract-lora` wrote it and nothing was changed since, or with
    `force`; never one of the models.
    Errors: models that differ in their tensors or shapes, that are equal, or in which no linear layer changed.
    """
    asked = f"extract a LoRA of rank {rank} from {getattr(tuned, 'path', tuned)}"
    if type(rank) is not int or rank < 1:
        raise AllroundError(asked, "a rank is a whole number above 0", "choose one such as 16 or 64")
    if energy is not None and not 0 < energy <= 1:
        raise AllroundError(asked, f"energy is a share above 0 and up to 1, not {energy}", "choose one such as 0.9")
    first, second = (s if isinstance(s, Source) else open_model(Model(str(s)), None) for s in (base, tuned))
    command = "extract-lora" if merged is None else "merge"
    read = [base, tuned, *(path for source in (first, second) for path in (source.path, *source.files))]
    with torch.inference_mode(), output_folder(out, command, force=force, inputs=read) as folder:
        work = _Extraction(asked, first, second, rank, energy, embeddings, torch.device(device))
        work.run()
        made = work.write(folder, Path(out))
        if merged is not None:
            write_json(folder / "merge.json", {**merged, "kept": made.share, "ranks": made.ranks})
        return made


class _Extraction:
    def __init__(
        self,
        asked: str,
        base: Source,
        tuned: Source,
        rank: int,
        energy: float | None,
        embeddings: bool,
        device: torch.device,
    ) -> None:
        self.asked, self.tuned = asked, tuned
        self.base = untie([base, tuned])[0]
        self.tied = False
        self.rank, self.energy, self.embeddings, self.device = rank, energy, embeddings, device
        self.flipped = model_type(base) in FLIPPED
        self.names = self._pair()
        self.factors: dict[str, tuple[Tensor, Tensor]] = {}

        self.rest: dict[str, float] = {}
        self.squares: dict[str, float] = {}
        self.kept: dict[str, float] = {}
        self.modules: list[str] = []
        self.full: dict[str, str] = {}

    def _pair(self) -> dict[str, str]:
        """Every tensor of the base with its name in the tuned model."""
        for source in (self.base, self.tuned):
            check_not_quantised(source, self.asked)
        names = Names(self.base, self.tuned)
        found = {name: names.find(name) for name in self.base if self.base.dtype(name) in FLOATS}
        missing = [name for name, other in found.items() if other is None]
        differ = [n for n, o in found.items() if o is not None and self.tuned.shape(o) != self.base.shape(n)]
        if missing or differ:
            words = [missing_words(missing, "the base")] if missing else []
            if differ:
                one = differ[0]
                shapes = f"{self.tuned.shape(found[one] or '')}, in the base {self.base.shape(one)}"
                words.append(differing_words(differ, shapes))
            raise AllroundError(self.asked, "; ".join(words), f"give the base it was tuned from, not {self.base.path}")
        pairs = {name: other for name, other in found.items() if other is not None}
        for name, other in pairs.items():
            if self.tuned.dtype(other) not in FLOATS:
                stored = f"'{other}' is stored as {self.tuned.dtype(other)}, in the base as {self.base.dtype(name)}"
                raise AllroundError(self.asked, stored, UNPACK)
        used = set(pairs.values())
        self.extra = tuple(
            n for n in self.tuned
            if n not in used and self.tuned.dtype(n) in FLOATS and n not in self.base and not names.is_tied(n)
        )  # fmt: skip
        return pairs

    def run(self) -> None:
        for name in self.names:
            module = name.rpartition(".")[0]
            change = self._change(name)
            total = float(change.double().square().sum())
            if not math.isfinite(total):
                who = next((s for s in (self.base, self.tuned) if name in s and count_odd(s.get(name))), self.tuned)
                found = f"'{name}' in {who.path} holds {odd_words(change)}"
                raise AllroundError(self.asked, found, "tune it again, or check the base")
            if total == 0:
                continue
            self.squares[name] = total
            if not takes_factors(name, change.shape, self.embeddings):
                self.rest[name] = total
                continue
            embedding = _is_embedding(module)
            flip = embedding or (self.flipped and module.rpartition(".")[2] in FLIPPED_LAYERS)
            b, a, kept = self._cut(change.T if flip else change, total)
            self.factors[module] = b.cpu(), a.cpu()
            self.kept[name] = kept
        if not self.squares:
            raise AllroundError(
                self.asked, f"it holds the same weights as {self.base.path}", "give a model that was tuned from it"
            )
        if not self.factors:
            raise AllroundError(
                self.asked,
                f"no linear layer changed, only {', '.join(list(self.rest)[:3])}",
                "LoRA cannot hold that: keep the checkpoint as it is"
                + ("" if self.embeddings else ", or extract the embeddings too"),
            )
        self._repeat_twins()
        self._place_rest()

    def _change(self, name: str) -> Tensor:
        tuned = self.tuned.get(self.names[name]).to(self.device, torch.float32)
        return tuned.sub_(self.base.get(name).to(self.device, torch.float32))

    def _cut(self, change: Tensor, total: float) -> tuple[Tensor, Tensor, float]:
        """Factors (out, r) and (r, in) of the best change of a low rank, and the share of the squares it keeps."""
        u, s, v = _decompose(change, self.rank)
        squares = s.double().square().cumsum(0)
        found = int((s > s[0] * 1e-7).sum())
        if self.energy is not None:
            found = min(found, int((squares < self.energy * total * (1 - 1e-12)).sum()) + 1)
        root = s[:found].sqrt()
        return u[:, :found] * root, root[:, None] * v[:found], min(1.0, float(squares[found - 1]) / total)

    def _repeat_twins(self) -> None:
        """An output layer that is the embedding takes the same change: PEFT trains and loads the two by themselves."""
        changed = [m for m in self.factors if EMBEDDING.search(f"{m}.weight")]
        for name, origin in twins_of(self.base, self.asked).items() if changed else ():
            if (module := origin.removesuffix(".weight")) in self.factors:
                b, a = self.factors[module]
                self.factors[name.removesuffix(".weight")] = a.T, b.T
                self.tied = True

    def _place_rest(self) -> None:
        """Store what no low rank holds where PEFT loads it as it is: whole norms, and biases."""
        modules = {name.rpartition(".")[0] for name in self.base}
        for name in list(self.rest):
            module, _, end = name.rpartition(".")
            shape = self.base.shape(name)
            if end == "weight" and len(shape) == 1 and module and "/" not in name and module not in self.modules:
                # PEFT takes every module whose name ends so, and wants all of their tensors.
                caught = [m for m in modules if m.endswith(module)]
                inside = [n for n in self.base if any(n.startswith(f"{m}.") for m in caught)]
                if all(n in self.names and len(self.base.shape(n)) == 1 for n in inside):
                    self.modules.append(module)
                    self.full |= {n: n for n in inside}
            elif end == "bias" and len(shape) == 1 and module and "/" not in name:
                self.full.setdefault(name, f"{module}.base_layer.bias" if module in self.factors else name)
        for name in self.full:
            self.rest.pop(name, None)
        # Layers that PEFT would take for a target by the end of their names; it wants factors for them too.
        targets = tuple(f".{module}" for module in self.factors)
        for module in modules - set(self.factors):
            name = f"{module}.weight"
            if module.endswith(targets) and name in self.base and len(self.base.shape(name)) == 2:
                out, inner = self.base.shape(name)
                flip = self.flipped and module.rpartition(".")[2] in FLIPPED_LAYERS
                self.factors[module] = (torch.zeros(inner if flip else out, 1), torch.zeros(1, out if flip else inner))

    def write(self, folder: Path, out: Path) -> Extracted:
        """Write the adapter into a folder that will be at `out`."""
        tensors = dict(self._tensors())
        ranks = {module: len(a) for module, (_, a) in self.factors.items()}
        usual = max(ranks.values())
        other = {f"^{re.escape(module)}": rank for module, rank in ranks.items() if rank != usual}
        config: dict[str, Any] = {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": str(self.base.path),
            "inference_mode": True,
            "r": usual,
            "lora_alpha": usual,
            "rank_pattern": other,
            "alpha_pattern": other,
            "target_modules": list(self.factors),
            "modules_to_save": self.modules or None,
            "bias": "all" if any(name.endswith("bias") for name in self.full) else "none",
            "fan_in_fan_out": self.flipped,
            "lora_dropout": 0.0,
            "init_lora_weights": True,
            "use_rslora": False,
            "use_dora": False,
            **({"ensure_weight_tying": True} if self.tied else {}),
        }
        write_json(folder / CONFIG, config)
        plan = {n: (dtype_name(t.dtype), tuple(t.shape)) for n, t in tensors.items()}
        write_weights(folder / "adapter_model.safetensors", plan, tensors.items())
        whole = sum(self.squares.values())
        lost = sum((1 - self.kept[n]) * self.squares[n] for n in self.kept) + sum(self.rest.values())
        return Extracted(
            out,
            {name: ranks[name.removesuffix(".weight")] for name in self.kept},
            self.kept,
            tuple(name for name in self.full if name in self.squares),
            {name: total / whole for name, total in self.rest.items()},
            self.extra,
            1 - lost / whole,
        )

    def _tensors(self) -> Iterable[tuple[str, Tensor]]:
        start = "base_model.model."
        for module, (b, a) in self.factors.items():
            if _is_embedding(module):
                yield f"{start}{module}.lora_embedding_A", a.contiguous()
                yield f"{start}{module}.lora_embedding_B", b.contiguous()
            else:
                yield f"{start}{module}.lora_A.weight", a.contiguous()
                yield f"{start}{module}.lora_B.weight", b.contiguous()
        for name, key in self.full.items():
            yield start + key, self.tuned.get(self.names[name])


def takes_factors(name: str, shape: Sequence[int], embeddings: bool = False) -> bool:
    """Whether an adapter holds the change of a tensor by two factors. embeddings: those of an embedding too.

    >>> takes_factors("layer.0.query.weight", (8, 8)), takes_factors("layers.0.weight", (8, 8, 3, 3))
    (True, False)
    """
    module, _, end = name.rpartition(".")
    fits = len(shape) == 2 and end == "weight" and bool(module) and "/" not in name
    return fits and (embeddings or not _is_embedding(module))


def _is_embedding(module: str) -> bool:
    return bool(_EMBEDDING.fullmatch(module.rpartition(".")[2]))


def _decompose(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values of a matrix: u (m, r), s (r), v (r, n). The same numbers in every run."""
    least = min(matrix.shape)
    drawn = rank + max(rank, 16)
    if least <= _EXACT or drawn >= least:
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], v[:rank]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrix.shape[1], drawn, generator=generator).to(matrix.device)
    basis = torch.linalg.qr(matrix @ start).Q
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    u, s, v = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return (basis @ u)[:, :rank], s[:rank], v[:rank]
