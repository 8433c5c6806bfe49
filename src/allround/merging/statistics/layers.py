"""What the layers of a network are given and give: rows, whatever the layer is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: What a layer does with its weight W: x W^T, x W, x W^T on every patch, or W[x].
MATRIX, TRANSPOSED, CONVOLUTION, LOOKUP = "matrix", "transposed", "convolution", "lookup"


@dataclass(frozen=True)
class Layer:
    """A module whose weight is a matrix. weight: the name of that parameter in the network."""

    weight: str
    module: nn.Module
    form: str

    @property
    def width(self) -> int:
        """The length of the rows that it is given; of a lookup, how many it chooses from."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight.shape[0] if self.form in (TRANSPOSED, LOOKUP) else weight[0].numel()

    def rows_in(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """What it is given, one row for each position: (n, width), or (n,) whole numbers of a lookup."""
        if self.form == CONVOLUTION:
            module, padding = self.module, self.module.padding
            assert isinstance(module, nn.Conv2d) and isinstance(padding, tuple)
            patches = F.unfold(inputs, module.kernel_size, module.dilation, padding, module.stride)
            return patches.transpose(1, 2).reshape(-1, self.width)
        if self.form == LOOKUP:
            return _counted(inputs.unsqueeze(-1), mask).squeeze(-1)
        return _counted(inputs, mask)

    def rows_out(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """What it gives, or the gradients there, for the same positions: (n, out)."""
        if self.form == CONVOLUTION:
            return outputs.flatten(2).transpose(1, 2).reshape(-1, outputs.shape[1])
        return _counted(outputs, mask)


@dataclass(frozen=True)
class Call:
    """One call of a layer. inputs: as rows. outputs: as the layer gave them, for gradients. mask: what counts."""

    layer: Layer
    inputs: Tensor
    outputs: Tensor
    mask: Tensor | None


class Watch:
    """Sees the calls of a network's layers while it runs.

    mask: of the batch at hand, (examples, positions); what it says is padding is in no rows.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.mask: Tensor | None = None
        #: What is called with every call that is seen.
        self.take: Callable[[Call], None] = lambda call: None
        self._names = {id(parameter): name for name, parameter in network.named_parameters()}
        #: Weight -> how its first call used it. One that is used in another way as well (an output layer tied to an
        #: embedding) is known by the first.
        self._forms: dict[str, str] = {}

    @contextmanager
    def on(self) -> Iterator[Watch]:
        """See calls while the context lasts."""
        handles = []
        for module in self.network.modules():
            weight = module._parameters.get("weight")
            if (
                weight is not None
                and id(weight) in self._names
                and weight.ndim == (4 if _is_convolution(module) else 2)
            ):
                handles.append(module.register_forward_hook(self._called, with_kwargs=True))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _called(
        self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], outputs: object
    ) -> Tensor | None:
        inputs = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if inputs is None or not isinstance(outputs, Tensor):
            return None
        weight = self._names[id(module._parameters["weight"])]
        form = form_of(module, inputs, outputs)
        if form is None or self._forms.setdefault(weight, form) != form:
            return None
        layer = Layer(weight, module, form)
        mask = self.mask if self.mask is None or self.mask.shape == _positions(inputs, form) else None
        self.take(Call(layer, layer.rows_in(inputs, mask), outputs, mask))
        # What comes after may change its input in place; then the gradient at our tensor would be another's.
        return outputs.clone() if outputs.requires_grad else None


def form_of(module: nn.Module, inputs: Tensor, outputs: Tensor) -> str | None:
    """How a module uses its weight, found by doing the same with a few rows; None where it is none of the forms.

    >>> layer = nn.Linear(3, 2)
    >>> form_of(layer, torch.ones(4, 3), layer(torch.ones(4, 3)))
    'matrix'
    """
    weight, bias = module._parameters["weight"], module._parameters.get("bias")
    assert weight is not None
    if _is_convolution(module):
        return CONVOLUTION
    if not inputs.is_floating_point():
        return LOOKUP if outputs.shape == (*inputs.shape, weight.shape[1]) and weight.shape[0] > inputs.max() else None
    with torch.no_grad():
        for form, matrix in ((MATRIX, weight), (TRANSPOSED, weight.T)):
            if inputs.shape[-1] != matrix.shape[1] or outputs.shape != (*inputs.shape[:-1], matrix.shape[0]):
                continue
            rows, given = (t.reshape(-1, t.shape[-1])[:4].to(matrix.dtype) for t in (inputs, outputs))
            expected = F.linear(rows, matrix, bias)
            exact = torch.finfo(min(inputs.dtype, outputs.dtype, key=lambda d: torch.finfo(d).bits)).eps
            if (expected - given).norm() <= 100 * exact * (1 + expected.norm()):
                return form
    return None


def _is_convolution(module: nn.Module) -> bool:
    """A convolution that is a product with every patch; those with groups or other padding than zeros are not."""
    plain = isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"
    return plain and isinstance(module.padding, tuple)


def _positions(inputs: Tensor, form: str) -> torch.Size:
    return inputs.shape if form == LOOKUP else inputs.shape[:-1]


def _counted(values: Tensor, mask: Tensor | None) -> Tensor:
    return values[mask.bool()] if mask is not None else values.reshape(-1, values.shape[-1])
