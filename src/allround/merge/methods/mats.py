"""MaTS: steps of conjugate gradients towards the weight that matches each model in the subspace of its task."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import Search, method
from allround.merge.matrices import by_counts, conjugate_gradients, knows, mean, shrunk, weighted, wide
from allround.merge.parts import Each, combine, each
from allround.merge.report import SILENT, Report

SUBSPACES = ("identity", "fisher", "gram", "kfac")


@method(
    source="Tam et al., TMLR 2024, arXiv:2312.04339",
    paper="Merging by Matching Models in Task Subspaces",
    block="tensor",
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
    counts: bool = False,
    weights: Each = 1.0,
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
    Formula: base + D, where D comes from `steps` steps of conjugate gradients on sum_i w_i C_i (D - d_i) = 0, from
    start_scale * sum_i w_i d_i (1 / k starts from the average); C_i D is D, F_i D, D A_i or G_i D A_i. The entries of
    A and G off the diagonal are times `shrink`. Ends early when the residual is `tolerance` times the right side.
    Reports the steps taken and the residual over the right side.
    Differs: with `gram`, steps are taken in the eigenvectors of sum_i w_i A_i, where each costs next to nothing; in
    exact arithmetic they are the same. The right side is that of the changes; in the authors' code it has the base in
    it, so that the same tolerance ends earlier.

    >>> import torch
    >>> gram = torch.stack([torch.diag(torch.tensor([3.0, 1.0])), torch.diag(torch.tensor([1.0, 1.0]))])
    >>> mats(torch.zeros(1, 2), torch.tensor([[[4.0, 4.0]], [[0.0, 0.0]]]), gram=gram)
    tensor([[3., 2.]])
    """
    if steps < 0:
        raise AllroundError(f"take {steps} steps", "that is less than none", "give a number such as 100")
    if subspace not in SUBSPACES:
        raise AllroundError(
            f"match models in the subspace '{subspace}'", "there is none of that name", suggestion(subspace, SUBSPACES)
        )
    if subspace == "gram" and counts and gram is not None and gram.ndim == 2 and gram.numel():
        return base + by_counts(deltas, gram, weights)
    column = each(weights, deltas)
    start = start_scale * combine(deltas, weights, elect=False, normalize=False)
    vectors: Tensor | None = None
    scale: Tensor | None = None
    if subspace == "identity" or (subspace == "fisher" and fisher is not None and fisher.numel()):
        diagonal = wide(column.expand_as(deltas) if fisher is None else fisher * column)
        scale, side, begin = diagonal.sum(0), (diagonal * deltas).sum(0), wide(start)
    elif subspace == "gram" and gram is not None and gram.ndim == 3 and knows(gram, base, "mats"):
        total, side = weighted(deltas.flatten(2), gram, weights, shrink, "mats")
        scale, vectors = torch.linalg.eigh(total)
        side, begin = side @ vectors, wide(start.flatten(1)) @ vectors
    elif subspace == "kfac" and kfac is not None and knows(kfac[0], base, "mats"):
        # Of the same size for all tensors: float32 then holds their products.
        inputs, outputs = (shrunk(factor / factor.abs().max().clamp_min(1e-30), shrink, "mats") for factor in kfac)
        outputs = outputs * each(weights, outputs)
        side, begin = (outputs @ deltas.flatten(2) @ inputs).sum(0), start.flatten(1)
    else:
        return base + mean(deltas, weights)

    def apply(matrix: Tensor) -> Tensor:
        return matrix * scale if scale is not None else (outputs @ matrix @ inputs).sum(0)

    moved, taken, residual = conjugate_gradients(apply, side, begin, steps, tolerance)
    report(steps=taken, residual=residual)
    moved = moved if vectors is None else moved @ vectors.T
    return base + start + moved.to(base.dtype).reshape(base.shape)
