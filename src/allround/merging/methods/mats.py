"""MaTS: steps of conjugate gradients towards the weight that matches each model in the subspace of its task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import Search, method
from allround.merging.matrices import by_counts, conjugate_gradients, knows, mean, shrunk, weighted, wide
from allround.merging.parts import Each, combine, each
from allround.merging.report import SILENT, Report
from allround.merging.whole import WHOLE, Whole

SUBSPACES = ("identity", "fisher", "gram", "kfac")


@method(
    source="Tam et al., TMLR 2024, arXiv:2312.04339",
    paper="Merging by Matching Models in Task Subspaces",
    block="tensor",
    scope="model",
    needs=("fisher", "gram", "kfac"),
    needs_by="subspace",
)
def mats(
    base: Tensor,
    deltas: Tensor,
    *,
    fisher: Tensor | None = None,
    gram: Tensor | None = None,
    kfac: tuple[Tensor, Tensor] | None = None,
    subspace: str = "gram",
    steps: Annotated[int, Search(10, 30, 100)] = 100,
    tolerance: float = 1e-5,
    start_scale: Annotated[float, Search(0.1, 0.3, 0.5)] = 0.3,
    shrink: float = 1.0,
    floor: float = 1e-6,
    normalize: bool = True,
    counts: bool = False,
    weights: Each = 1.0,
    whole: Whole = WHOLE,
    report: Report = SILENT,
) -> Tensor:
    """Merge k changes of one weight, each matched in its task's subspace, which a matrix C_i stands for.

    Shapes: base (out, in), deltas (k, out, in) -> merged (out, in); a convolution (out, ...) is the matrix by which it
    multiplies a patch. subspace says what C_i is, and which statistic is taken:
    `identity`: the average. `fisher`: the diagonal Fisher information (k, *s) of a weight of any shape.
    `gram`: as for regmean, (k, in, in), or counts (k, in) of an embedding (in, n).
    `kfac`: Kronecker factors, A (k, in, in) of the inputs and G (k, out, out) of the gradients.
    What has an empty statistic, or for the last two is no matrix, is averaged by `weights`, and without `counts`
    embeddings too.
    Formula: base + D, where D comes from `steps` steps of conjugate gradients on sum_i c_i C_i (D - d_i) = 0, from
    start_scale * sum_i w_i d_i (1 / k starts from the average); C_i D is D, F_i D, D A_i or G_i D A_i. c_i is w_i; for
    `fisher` and `kfac`, whose size is that of a model's gradients, w_i / ||C_i|| over the whole model, or w_i without
    `normalize`. F_i is at least `floor`; the entries of A and G off the diagonal are times `shrink`. Ends early when
    the residual is `tolerance` times the right side. Reports the steps taken and the residual over the right side.
    Differs: the authors' code neither normalises nor has a floor here: the model whose loss is steepest then decides.
    With a diagonal C_i, steps are those preconditioned by the diagonal, of which the first arrives. With `gram`, they
    are taken in the eigenvectors of sum_i w_i A_i, where each costs next to nothing; in exact arithmetic they are the
    same. The right side is that of the changes; in the authors' code it has the base in it, so that the same tolerance
    ends earlier.

    >>> import torch
    >>> gram = torch.stack([torch.diag(torch.tensor([3.0, 1.0])), torch.diag(torch.tensor([1.0, 1.0]))])
    >>> mats(torch.zeros(1, 2), torch.tensor([[[4.0, 4.0]], [[0.0, 0.0]]]), gram=gram)
    tensor([[3., 2.]])
    """
    if steps < 0:
        raise AllroundError(f"take {steps} steps", "that is less than none", "give a number such as 100")
    if floor <= 0:
        raise AllroundError(f"set 'floor' of 'mats' to {floor}", "that is not above zero", "give one such as 1e-6")
    if subspace not in SUBSPACES:
        raise AllroundError(
            f"match models in the subspace '{subspace}'", "no method has that name", suggestion(subspace, SUBSPACES)
        )
    column = each(weights, deltas)
    if normalize:  # asked in all subspaces: the engine learns that there is no question only from a whole merge
        sizes = {"fisher": (fisher,), "kfac": kfac}.get(subspace) or ()
        column = column / _norms(deltas, [part for part in sizes if part is not None], whole)
    if subspace == "gram" and counts and gram is not None and gram.ndim == 2 and gram.numel():
        return base + by_counts(deltas, gram, weights)
    start = start_scale * combine(deltas, weights, elect=False, normalize=False)
    if subspace == "identity" or (subspace == "fisher" and fisher is not None and fisher.numel()):
        if subspace == "identity" or fisher is None:
            goal = mean(deltas, weights)
        else:
            counted = fisher.clamp_min(floor).mul_(column)
            goal = (counted * deltas).sum(0) / counted.sum(0)
        length = float(goal.norm())
        moved, taken, residual = conjugate_gradients(lambda x: x, goal - start, length, steps, tolerance)
    elif subspace == "gram" and gram is not None and gram.ndim == 3 and knows(gram, base, "mats"):
        total, left = weighted(deltas.flatten(2), gram, weights, shrink, "mats", start.flatten(1))
        length = float((left + wide(start.flatten(1)) @ total).norm())
        values, vectors = torch.linalg.eigh(total)
        moved, taken, residual = conjugate_gradients(lambda x: x * values, left @ vectors, length, steps, tolerance)
        moved = moved @ vectors.T
    elif subspace == "kfac" and kfac is not None and knows(kfac[0], base, "mats"):
        # Of the same size for all tensors: float32 then holds their products.
        inputs, outputs = (shrunk(factor / factor.abs().max().clamp_min(1e-30), shrink, "mats") for factor in kfac)
        outputs = outputs * column.reshape(-1, 1, 1)

        def apply(matrix: Tensor) -> Tensor:
            return (outputs @ matrix @ inputs).sum(0)

        begin = start.flatten(1)
        left = (outputs @ (deltas.flatten(2) - begin) @ inputs).sum(0)
        length = float((left + apply(begin)).norm())
        moved, taken, residual = conjugate_gradients(apply, left, length, steps, tolerance)
    else:
        return base + mean(deltas, weights)
    report(steps=taken, residual=residual)
    return base + start + moved.to(base.dtype).reshape(base.shape)


def _norms(deltas: Tensor, parts: Sequence[Tensor], whole: Whole) -> Tensor:
    """The norm over the whole model of each model's C_i, a Kronecker product of parts (k, ...); 1 where it has none."""
    squares = wide(deltas.new_full((len(deltas),), float(len(parts) > 0)))
    for part in parts:
        squares = squares * wide(part).square().reshape(len(part), part[0].numel()).sum(1)
    norms = whole.sum(squares).sqrt()
    return torch.where(norms > 0, norms, 1).to(deltas.dtype).reshape(-1, *[1] * (deltas.ndim - 1))
