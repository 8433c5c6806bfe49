"""Finding out from a network itself which features its weights share, by watching it compute.

The network runs on an example batch, and every tensor operation is seen below all modules, so that what a network is
made of does not matter. Each kind of operation says which entries of its inputs and outputs belong together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.merging.align.axes import (
    fix,
    plain,
    tie,
)
from allround.merging.align.recorder import Recorder
from allround.merging.align.rules import rule_of
from allround.merging.align.trace import ContractedInput, Trace
from allround.models.batch import Features


@torch.no_grad()
def watch(trace: Trace, network: nn.Module, batch: Any, kind: str, *, free_output: bool) -> list[ContractedInput]:
    """Run a network on a batch, add what is seen to the trace, and return what was read.

    kind: batches of one kind give the same features. free_output: whatever reads the output can be adapted, so its
    last dimension may be reordered too.
    """
    training = network.training
    network.eval()
    recorder = Recorder(trace, network, rule_of)
    try:
        with _plain_attention(), recorder:
            output = network(batch)
            output = output.values if isinstance(output, Features) else output
    finally:
        network.train(training)
    if not isinstance(output, Tensor):
        raise AllroundError(
            "find out which features of a network belong together",
            f"it returns a {type(output).__name__}",
            "wrap it in a module that takes one batch and returns one tensor",
        )
    axes = recorder.axes(output)
    for name, steps in recorder.uses.items():
        trace.uses.setdefault(name, steps)
    fix(axes if not free_output else axes[:-1], "an output of the network")
    if free_output:
        recorder.read(output, axes[-1:])
        tie(trace.outputs.setdefault(kind, plain(axes[-1])), axes[-1])
    trace.forget()
    return recorder.readings


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as products and a softmax, not as one operation that hides them."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
