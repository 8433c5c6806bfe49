"""Speed and memory of merging 0.70 billion parameters from files: allround, and mergekit where it is installed.

Makes a base and four tuned checkpoints of a Llama-like model in bfloat16 with random weights (7 GB), then runs each
merge as a whole process of its own, one after the other, and prints seconds, peak resident memory and the ratio.
Where mergekit lives in another environment, name its command: --mergekit ENV/bin/mergekit-yaml.

    python benchmarks/merge_speed.py --folder runs/merge_speed --methods average,ties
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WIDTH, INNER, VOCABULARY, LAYERS = 1536, 4096, 32000, 23
#: mergekit's name and parameters for the method that stands beside each of ours.
PEER = {
    "average": ("linear", {}, {"weight": 1.0}),
    "task_arithmetic": ("task_arithmetic", {"lambda": 0.3}, {"weight": 1.0}),
    "ties": ("ties", {}, {"weight": 1.0, "density": 0.2}),
    "breadcrumbs": ("breadcrumbs", {"lambda": 0.3}, {"weight": 1.0, "density": 0.85}),
    "dare": ("dare_linear", {"lambda": 0.3}, {"weight": 1.0, "density": 0.5}),
    "della": ("della", {}, {"weight": 1.0, "density": 0.5}),
    "model_stock": ("model_stock", {}, {}),
    "sce": ("sce", {}, {}),
    "karcher": ("karcher", {}, {}),
    "multislerp": ("multislerp", {}, {"weight": 1.0}),
    "slerp": ("slerp", {"t": 0.5}, {}),
    "nuslerp": ("nuslerp", {}, {"weight": 1.0}),
    "nearswap": ("nearswap", {"t": 0.001}, {}),
    "arcee_fusion": ("arcee_fusion", {}, {}),
    "ram": ("ram", {}, {}),
    "passthrough": ("passthrough", {}, {}),
}
TWO = {"slerp", "nearswap", "arcee_fusion"}


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    for i in range(layers):
        for name, shape in {
            **{f"self_attn.{p}_proj": (WIDTH, WIDTH) for p in "qkvo"},
            "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH), "mlp.down_proj": (WIDTH, INNER),
            "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
        }.items():  # fmt: skip
            found[f"model.layers.{i}.{name}.weight"] = shape
    return found | {"model.norm.weight": (WIDTH,)}


def make(folder: Path, layers: int) -> None:
    """A base and four models that differ from it by a hundredth, each weight at random."""
    import torch
    from safetensors.torch import save_file

    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": INNER,
        "num_attention_heads": 12, "num_key_value_heads": 12, "num_hidden_layers": layers, "vocab_size": VOCABULARY,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-6, "hidden_act": "silu",
    }  # fmt: skip
    for number in range(5):
        target = folder / ("base" if number == 0 else f"tuned{number}")
        if (target / "model.safetensors").is_file():
            continue
        target.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for place, (name, shape) in enumerate(shapes(layers).items()):
            base = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(place))
            if number:
                base += 2e-4 * torch.randn(shape, generator=torch.Generator().manual_seed(1000 * number + place))
            tensors[name] = base.bfloat16()
        save_file(tensors, target / "model.safetensors", {"format": "pt"})
        (target / "config.json").write_text(json.dumps(config))


def measured(command: list[str], log: Path) -> tuple[float, float]:
    """Seconds of a whole process, and its peak resident memory in GB."""
    started = time.perf_counter()
    with open(log, "w") as file:
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}\n{log.read_text()[-2000:]}")
    return time.perf_counter() - started, usage.ru_maxrss / 1e6


@contextmanager
def beside(count: int) -> Iterator[None]:
    """So many processes at work meanwhile that compute without a pause."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def numbers_of(method: str) -> tuple[int, ...]:
    """Which of the tuned models a method is given."""
    return (1,) if method in TWO else (1, 2) if method == "nuslerp" else (1, 2, 3, 4)


def ours(folder: Path, method: str, log: Path) -> tuple[float, float]:
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    models = [str(folder / f"tuned{n}") for n in numbers_of(method)]
    command = [sys.executable, "-m", "allround", "merge", str(folder / "base"), *models]
    options = {"della": ["--keep", "0.5"], "nearswap": ["--t", "0.001"]}.get(method, [])
    return measured([*command, "--method", method, "--out", str(out), *options], log)


def theirs(folder: Path, method: str, mergekit: str, log: Path) -> tuple[float, float]:
    out = folder / "peer"
    shutil.rmtree(out, ignore_errors=True)
    name, shared, own = PEER[method]
    models = [str(folder / f"tuned{n}") for n in numbers_of(method)]
    recipe = {
        "merge_method": name, "parameters": shared, "dtype": "bfloat16",
        "models": [{"model": model, **({"parameters": own} if own else {})} for model in models],
    }  # fmt: skip
    if method in TWO or method not in ("average", "karcher", "passthrough", "multislerp", "nuslerp"):
        recipe["base_model"] = str(folder / "base")
    path = folder / "recipe.yml"
    path.write_text(json.dumps(recipe))
    return measured([mergekit, str(path), str(out), "--no-copy-tokenizer", "--quiet"], log)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, required=True, help="where the checkpoints lie or are made (7 GB)")
    options.add_argument("--methods", default="average,task_arithmetic,ties")
    options.add_argument("--layers", type=int, default=LAYERS)
    options.add_argument("--rounds", type=int, default=3, help="of allround; the median is printed")
    options.add_argument("--mergekit", default=shutil.which("mergekit-yaml"), help="mergekit's command; '' for none")
    options.add_argument("--busy", type=int, default=0, help="other processes that compute beside each merge")
    given = options.parse_args()
    folder = given.folder / str(given.layers)
    make(folder, given.layers)
    for file in folder.rglob("*.safetensors"):  # all in the page cache, as for the peer
        with open(file, "rb") as opened:
            while opened.read(1 << 24):
                pass
    count = sum(a * (b[0] if b else 1) for a, *b in shapes(given.layers).values())
    print(
        f"{count / 1e9:.2f} billion parameters, bfloat16, base and 4 models; {os.cpu_count()} cores, "
        f"{given.busy} other processes at work"
    )
    print(f"{'method':<24}{'allround s':>11}{'GB':>6}{'mergekit s':>12}{'GB':>6}{'ratio':>7}")
    with beside(given.busy):
        for method in given.methods.split(","):
            rounds = sorted(ours(folder, method, folder / "log") for _ in range(given.rounds))
            seconds, _ = rounds[len(rounds) // 2]
            line = f"{method:<24}{seconds:>11.2f}{max(r[1] for r in rounds):>6.2f}"
            if given.mergekit and method in PEER:
                peer = theirs(folder, method, given.mergekit, folder / "log")
                line += f"{peer[0]:>12.2f}{peer[1]:>6.2f}{peer[0] / seconds:>7.1f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
