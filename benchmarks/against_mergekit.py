"""Whether allround gives mergekit's numbers: both merge by the same recipes, in mergekit's form, and are compared.

Makes small checkpoints of a Llama-like model with random weights, a base and three tuned ones, writes a recipe for
every method of mergekit's, runs `mergekit-yaml RECIPE OUT` and `allround merge RECIPE -o OUT`, and prints a table. For
methods that draw at random there are the share of the weights that left the base and the mean size of the changes.

    python -m venv ENV && ENV/bin/pip install mergekit==0.1.5
    python benchmarks/against_mergekit.py --mergekit ENV/bin/mergekit-yaml
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

WIDTH, INNER, VOCABULARY, LAYERS = 64, 128, 128, 2
#: The dtype of the checkpoints, and what the recipe says about dtypes.
DTYPES: dict[str, tuple[torch.dtype, dict[str, str]]] = {
    "float32": (torch.float32, {}),
    "bfloat16": (torch.bfloat16, {"dtype": "bfloat16"}),
    "bfloat16 by float32": (torch.bfloat16, {"dtype": "float32", "out_dtype": "bfloat16"}),
}


@dataclass(frozen=True)
class Case:
    """One merge. shared: parameters for all models; own: lists with one value for each model."""

    method: str
    shared: dict[str, Any] = field(default_factory=dict)
    own: dict[str, list[Any]] = field(default_factory=dict)
    models: int = 3
    base: bool = True
    random: bool = False

    def recipe(self, folder: Path, dtypes: dict[str, str]) -> dict[str, Any]:
        models = [
            {
                "model": str(folder / f"tuned{n + 1}"),
                "parameters": {name: values[n] for name, values in self.own.items()},
            }
            for n in range(self.models)
        ]
        base = {"base_model": str(folder / "base")} if self.base else {}
        shared = {"parameters": self.shared} if self.shared else {}
        return {"merge_method": self.method, **base, "models": models, **shared, **dtypes}

    def __str__(self) -> str:
        words = [f"{k} {v}" for k, v in {**self.own, **self.shared}.items()]
        words += [] if self.base else ["no base"]
        return ", ".join(words + ([f"{self.models} tuned"] if self.models != 3 else []))


WEIGHT = {"weight": [0.6, 0.3, 0.4]}
TWO = {"weight": [0.6, 0.3]}
DENSE = WEIGHT | {"density": [0.5, 0.3, 0.7]}
CASES = (
    Case("linear", {}, WEIGHT, base=False),
    Case("linear", {"normalize": False}, WEIGHT, base=False),
    Case("slerp", {"t": 0.3}, models=1),
    Case("nuslerp", {}, TWO, models=2),
    Case("nuslerp", {}, TWO, models=2, base=False),
    Case("nuslerp", {"nuslerp_flatten": False}, TWO, models=2),
    Case("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}, TWO, models=2),
    Case("multislerp", {}, WEIGHT),
    Case("multislerp", {}, WEIGHT, base=False),
    Case("karcher", base=False),
    Case("karcher"),
    Case("passthrough", {}, {"scale": [0.5]}, models=1, base=False),
    Case("model_stock"),
    Case("model_stock", {"filter_wise": True}),
    Case("arcee_fusion", models=1),
    Case("nearswap", {"t": 0.002}, models=1),
    Case("sce"),
    Case("sce", {"select_topk": 0.3}),
    Case("ram", {"epsilon": 0.002}),
    Case("ramplus_tl", {"epsilon": 0.002, "r": 0.3, "alpha": 0.5}),
    Case("task_arithmetic", {"lambda": 0.7}, WEIGHT),
    Case("ties", {}, DENSE),
    Case("ties", {"normalize": False, "lambda": 0.7}, DENSE),
    Case("breadcrumbs", {"lambda": 0.7}, DENSE | {"gamma": [0.05, 0.02, 0.1]}),
    Case("breadcrumbs_ties", {}, DENSE),
    Case("dare_linear", {}, DENSE, random=True),
    Case("dare_linear", {"rescale": False}, DENSE, random=True),
    Case("dare_ties", {}, DENSE, random=True),
    Case("della", {}, DENSE, random=True),
    Case("della_linear", {"lambda": 0.7}, DENSE, random=True),
)


def shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (VOCABULARY, WIDTH),
    }
    for layer in range(LAYERS):
        for name, shape in {
            **{f"self_attn.{p}_proj": (WIDTH, WIDTH) for p in "qkvo"},
            "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH), "mlp.down_proj": (WIDTH, INNER),
            "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
        }.items():  # fmt: skip
            found[f"model.layers.{layer}.{name}.weight"] = shape
    return found


def make(folder: Path, dtype: torch.dtype) -> None:
    """A base and three models that differ from it by a quarter in half of the weights."""
    name = str(dtype).removeprefix("torch.")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": INNER,
        "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY,
        "tie_word_embeddings": False, "torch_dtype": name, "rms_norm_eps": 1e-6, "hidden_act": "silu",
    }  # fmt: skip
    for number in range(4):
        target = folder / ("base" if number == 0 else f"tuned{number}")
        target.mkdir(parents=True)
        tensors = {}
        for place, (tensor, shape) in enumerate(shapes().items()):
            weight = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(place))
            if len(shape) == 1:
                weight += 1
            if number:
                generator = torch.Generator().manual_seed(1000 * number + place)
                changed = torch.rand(shape, generator=generator) < 0.5
                weight += 0.005 * torch.randn(shape, generator=generator) * changed
            tensors[tensor] = weight.to(dtype)
        save_file(tensors, target / "model.safetensors", {"format": "pt"})
        (target / "config.json").write_text(json.dumps(config))


def run(command: list[str]) -> str:
    """An empty string, or the last line of what went wrong."""
    done = subprocess.run(command, capture_output=True, text=True)
    lines = (done.stderr + done.stdout).strip().splitlines()
    return "" if done.returncode == 0 else " ".join(lines[-1:]) or f"exit {done.returncode}"


def load(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor.double()
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def unit(values: torch.Tensor) -> torch.Tensor:
    """What the last place of a bfloat16 of this size is worth: it has 8 significant bits."""
    _, exponent = torch.frexp(values.abs().clamp_min(2.0**-126))
    return torch.ldexp(torch.ones_like(values), exponent - 8)


def compare(case: Case, base: Path, ours: Path, theirs: Path) -> tuple[str, str]:
    a, b = load(ours), load(theirs)
    if set(a) != set(b):
        return "other tensors", ", ".join(sorted(set(a) ^ set(b))[:3])
    if case.random:
        start = load(base)
        changes = [torch.cat([(side[name] - start[name]).flatten() for name in sorted(start)]) for side in (a, b)]
        moved = [f"{float((change != 0).double().mean()):.4f}" for change in changes]
        sizes = [f"{float(change.abs().mean()):.3e}" for change in changes]
        return f"moved {moved[0]}, theirs {moved[1]}", f"mean {sizes[0]}, theirs {sizes[1]}"
    x, y = (torch.cat([side[name].flatten() for name in sorted(a)]) for side in (a, b))
    apart = (x - y).abs()
    share = float((apart > unit(torch.maximum(x.abs(), y.abs()))).double().mean())
    return f"{float(apart.max()):.1e}", f"{100 * share:.3g} %"


def row(
    case: Case, dtype: str, folder: Path, mergekit: list[str], allround: list[str], number: int
) -> tuple[str, bool]:
    inputs = folder / dtype.split()[0]
    work = folder / f"{dtype.replace(' ', '_')}-{number}"
    work.mkdir()
    recipe = work / "recipe.yml"
    recipe.write_text(yaml.safe_dump(case.recipe(inputs, DTYPES[dtype][1]), sort_keys=False))
    failed = run([*mergekit, str(recipe), str(work / "theirs"), "--no-copy-tokenizer", "--quiet"])
    by = "mergekit"
    if not failed:
        failed = run([*allround, "merge", str(recipe), "-o", str(work / "ours")])
        by = "allround"
    cells = (f"{by} failed", failed) if failed else compare(case, inputs / "base", work / "ours", work / "theirs")
    return f"| {case.method} | {case} | {dtype} | {cells[0]} | {cells[1]} |", bool(failed)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mergekit", default=shutil.which("mergekit-yaml"), help="mergekit's command")
    options.add_argument("--allround", help="allround's command; by default that of this Python")
    options.add_argument("--methods", help="only these of mergekit's methods, with commas between")
    options.add_argument("--dtypes", default=",".join(DTYPES), help="only these: " + ", ".join(DTYPES))
    options.add_argument("--jobs", type=int, default=2, help="how many merges run at a time")
    options.add_argument("--keep", type=Path, help="a new folder where checkpoints, recipes and results stay")
    given = options.parse_args()
    if not given.mergekit:
        options.error("mergekit-yaml is not on the path: name it with --mergekit")
    wanted = given.methods.split(",") if given.methods else [case.method for case in CASES]
    cases = [case for case in CASES if case.method in wanted]
    mergekit = shlex.split(given.mergekit)
    allround = shlex.split(given.allround) if given.allround else [sys.executable, "-m", "allround"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        dtypes = given.dtypes.split(",")
        for name in dict.fromkeys(dtype.split()[0] for dtype in dtypes):
            make(folder / name, DTYPES[name][0])
        print("| method | parameters | dtype | largest difference | more than one bfloat16 unit apart |")
        print("|---|---|---|---|---|", flush=True)
        failures = 0
        with ThreadPoolExecutor(given.jobs) as pool:
            todo = [(case, dtype) for case in cases for dtype in dtypes]
            done = [
                pool.submit(row, case, dtype, folder, mergekit, allround, number)
                for number, (case, dtype) in enumerate(todo)
            ]
            for one in done:
                line, failed = one.result()
                failures += failed
                print(line, flush=True)
    if failures:
        sys.exit(f"{failures} of {len(todo)} merges failed")


if __name__ == "__main__":
    main()
