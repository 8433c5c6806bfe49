"""ridge: each member of a group adds its part to what a task does there, fitted on the groups that were measured."""

from __future__ import annotations

import numpy as np

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.transfer.grouping import GroupRuns, Members, member_parts
from allround.transfer.matrix import Values


@method(source="surrogate models of groups, linear in their members: Li et al., TMLR 2023, arXiv:2303.14582")
def ridge(runs: GroupRuns, groups: Members, *, penalty: float = 0.1) -> Values:
    """Foretell groups from any groups that were measured, chosen at random for example.

    Shapes: groups (G, n) -> (G, n)
    Formula: value(i, group) = b_i + sum over j in group, j != i, of w_ij, with b and w the least squares over the
    measured groups that hold i, plus penalty * |w_i|^2; b_i is not penalised.
    Differs: the paper fits on random groups of one size, without a penalty. Errors: a task that was never measured.

    >>> runs = GroupRuns.of({("a",): {"a": 1.0}, ("b",): {"b": 2.0}, ("a", "b"): {"a": 3.0, "b": 2.0}})
    >>> ridge(runs, np.array([[True, True]]), penalty=0.0).round(3).tolist()
    [[3.0, 2.0]]
    """
    found = np.full(groups.shape, np.nan)
    for task in range(len(runs.tasks)):
        rows = runs.members[:, task]
        if not rows.any():
            raise AllroundError("foretell groups by 'ridge'", f"'{runs.tasks[task]}' was never measured",
                                "measure it in one group at least")  # fmt: skip
        other = np.arange(len(runs.tasks)) != task
        inputs, values = runs.members[rows][:, other], runs.values[rows, task]
        weights = member_parts(inputs, penalty)[0] @ values
        found[:, task] = values.mean() + (groups[:, other] - inputs.mean(0)) @ weights
    return found
