"""Several LoRA modules at one layer: weighed between their factors, and with each module's own output.

python benchmarks/lora_modules.py: forward and backward of 16 texts of 64 tokens at a layer of 384 to 1,536 numbers, in
processor seconds of one thread, the least of five. Both give the same numbers, but for rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from allround.models.share.bank.lora import Lora
from allround.models.share.bank_base import Bank

Mixed = Callable[[Tensor, Tensor], Tensor]


def measure(mixed: Mixed, values: Tensor, weights: Tensor) -> tuple[float, Tensor]:
    """The least time of five, and what came out."""
    least = float("inf")
    for _ in range(5):
        started = time.process_time()
        found = mixed(values, weights)
        found.sum().backward()
        least = min(least, time.process_time() - started)
    return least, found.detach()


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    values = torch.randn(16, 64, 384, requires_grad=True)
    for count, rank in ((1, 8), (4, 8), (8, 1), (32, 1)):
        bank = Lora(count, 384, 1536, rank=rank)
        torch.nn.init.normal_(bank.b)
        weights = torch.rand(count)
        slow, one = measure(lambda x, w, bank=bank: Bank.mixed(bank, x, w), values, weights)  # type: ignore[misc]
        quick, other = measure(bank.mixed, values, weights)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        print(f"{count} modules of rank {rank}: {1e3 * slow:.1f} ms, between the factors {1e3 * quick:.1f} ms, "
              f"{slow / quick:.1f} times as fast")  # fmt: skip


if __name__ == "__main__":
    main()
