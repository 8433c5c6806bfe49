"""transferability: tasks whose examples serve all tasks as the examples of the others do (BenTo)."""

from __future__ import annotations

from allround.core.registry import method
from allround.transfer.deciding import facility_location
from allround.transfer.reducing import KnownTasks, similarity


@method(
    source="Zhao et al., ICLR 2025, arXiv:2410.13804; benchmark-reduction/analysis_compare_methods_.py of "
    "tianyi-lab/BenTo",
    paper="BenTo: Benchmark Task Reduction with In-Context Transferability",
    needs=("transfer",),
)
def transferability(known: KnownTasks, count: int, *, slack: float = 1.5) -> list[int]:
    """Choose tasks by transfer between them, without scores of models.

    Formula: facility location over s_ij = slack * max d - d_ij, d_ij the distance of rows i and j of the transfer from
    each task (row) to all, from which the mean of each column is taken
    Differs: the paper's variant with eigenvectors of the Laplacian is left out: the code keeps all of them, so that all
    tasks are equally far from each other and rounding makes the choice.

    >>> import numpy as np
    >>> transfer = np.array([[0.5, 0.5, 0.1], [0.5, 0.6, 0.1], [0.2, 0.1, 0.9]])
    >>> transferability(KnownTasks(np.zeros((0, 3)), transfer), 2)
    [0, 2]
    """
    assert known.transfer is not None
    return facility_location(similarity(known.transfer - known.transfer.mean(0), slack), count)
