"""Time of a batch whose rows use different low-rank modules, beside the base alone and PEFT's mixed batches.

python benchmarks/mixed_modules.py [--rows 64] [--modules 8] [--rank 16] [--words 24] [--rounds 15] [--threads 1]

On all-MiniLM-L6-v2 with adapters of random factors on all linear layers of its blocks. The three ways take turns, so
that other work on the machine hits them alike; printed are medians of the rounds, and ratios of these. All three give
the same vectors (checked). Sorted rows: those of one module stand together, as a routed system puts them; mixed rows
alternate.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from allround.checkpoints.weights import Weights
from allround.composition.modules.bank import ModuleBank
from allround.composition.modules.changes import Changes
from allround.models.base import find_folder, load_encoder


def adapters(network: nn.Module, folder: Path, count: int, rank: int) -> list[Path]:
    """Adapters with random factors, as PEFT saves them."""
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and "layer." in name]
    found = []
    for number in range(count):
        torch.manual_seed(number)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=layers, init_lora_weights=False)
        get_peft_model(copy.deepcopy(network), config).save_pretrained(str(folder / f"a{number}"))
        found.append(folder / f"a{number}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"rows": 64, "modules": 8, "rank": 16, "words": 24, "rounds": 15, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    base = find_folder("all-MiniLM-L6-v2")
    encoder = load_encoder(base)
    network = encoder.backbone.eval()
    ids = torch.randint(1000, 20000, (asked.rows, asked.words), generator=torch.Generator().manual_seed(0))
    together = torch.arange(asked.rows) * asked.modules // asked.rows
    apart = torch.arange(asked.rows) % asked.modules

    def hidden(found: object) -> Tensor:
        return found[0] if isinstance(found, tuple) else found.last_hidden_state  # type: ignore[attr-defined]

    with tempfile.TemporaryDirectory() as place:
        folders = adapters(network, Path(place), asked.modules, asked.rank)
        plain = copy.deepcopy(network)
        peft = PeftModel.from_pretrained(copy.deepcopy(network), str(folders[0]), adapter_name="a0")
        for number, folder in enumerate(folders[1:], 1):
            peft.load_adapter(str(folder), adapter_name=f"a{number}")
        peft.eval()
        bank = ModuleBank(encoder, [Changes(Weights(base), folder) for folder in folders])

        def ours(order: Tensor) -> Tensor:
            with bank.using(nn.functional.one_hot(order, asked.modules).float()):
                return hidden(network(ids))

        def theirs(order: Tensor) -> Tensor:
            return hidden(peft(input_ids=ids, adapter_names=[f"a{number}" for number in order.tolist()]))

        ways: dict[str, Callable[[], Tensor]] = {
            "base alone": lambda: hidden(plain(ids)),
            "modules, rows sorted": lambda: ours(together),
            "modules, rows mixed": lambda: ours(apart),
            "PEFT, rows sorted": lambda: theirs(together),
            "PEFT, rows mixed": lambda: theirs(apart),
        }
        with torch.inference_mode():
            for order in (together, apart):
                apart_by = (ours(order) - theirs(order)).abs().max()
                assert apart_by < 1e-4, f"the two differ by {apart_by}"
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(asked.rounds):
                for name, way in ways.items():
                    started = time.perf_counter()
                    way()
                    times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, took in medians.items():
        print(f"{name:22s} {1000 * took:7.1f} ms  {took / medians['base alone']:.2f} times the base alone")
    for order in ("sorted", "mixed"):
        ratio = medians[f"modules, rows {order}"] / medians[f"PEFT, rows {order}"]
        print(f"of PEFT's time, rows {order}: {ratio:.2f}")


if __name__ == "__main__":
    main()
