"""fute: whether two models, seen through their answers to the same rows alone, rest on the same features."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.transfer.estimating import cosine
from allround.transfer.matrix import Values
from allround.transfer.task_rows import Classes
from allround.transfer.view import TransferView

#: The least probability of an answer that counts.
_LEAST = 1e-4


@method(
    source="FUTE: Wang et al., 2024, arXiv:2402.14522; xnyuwg/fute",
    paper="Towards Unified Task Embeddings Across Multiple Models: Bridging the Gap for Prompt-Based Large Language "
    "Models and Beyond",
    needs=("features", "heads"),
    symmetric=True,
    self_best=True,
    cheap=True,
)
def fute(view: TransferView, *, penalty: float = 0.1) -> Values:
    """Let each model (a specialist of any sort, or else a head on the base) label the rows of all tasks, and let one
    surrogate learn its answers; compare what the surrogates rest on. No model is opened, and no label is read but by
    heads on the base.

    Formula: value(s, t) = cos(e_s, e_t); e_j = mean over rows x of E_{y ~ q(y | x)} (d log q(y | x) / d f_j)^2,
    q = softmax(W f(x) + b); W, b are the least squares fit of the logs of the model's answers, + penalty |W|^2, on the
    standardised features f of the base
    penalty: on the surrogate's weights. It is known for models whose labels exclude each other.
    Differs: the surrogate is linear, on a frozen base, and learns logs in closed form, where the paper tunes a whole
    model for an epoch, or a prefix; the authors' code squares the mean gradient, here each row's is squared.

    >>> answers = np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    >>> embedding(np.array([[1.0], [0.0], [-1.0]]), answers, np.arange(3), 1 / 3).round(4).tolist()
    [0.3969]
    """
    if not penalty > 0:
        raise AllroundError(f"fit surrogates with the penalty {penalty:g}", "it must be above 0", "give such as 0.1")
    pool = {name: features for name in view.rows if (features := view.common(name)) is not None}
    if not pool:
        return view.table(float, lambda source, target: [None])
    rows = np.concatenate(list(pool.values()))
    rows = (rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-4)
    ends = np.cumsum([len(features) for features in pool.values()]).tolist()
    places = {name: np.arange(end - len(pool[name]), end) for name, end in zip(pool, ends, strict=True)}

    def embedded(source: str) -> Values | None:
        answers = {name: found for name in pool if (found := view.probabilities(source, name)) is not None}
        if not answers:
            return None
        answered = np.concatenate([places[name] for name in answers])
        return embedding(rows, np.concatenate(list(answers.values())), answered, penalty)

    return view.between(cosine, embedded)


def embedding(rows: Values, answers: Values, answered: Classes, penalty: float) -> Values:
    """What a surrogate of a model rests on. Shapes: features of all rows (n, d), probabilities of the model's labels
    for m of them (m, labels), the places of these (m,) -> (d,)."""
    logs = np.log(np.maximum(answers, _LEAST))
    some = rows[answered]
    x, y = some - some.mean(0), logs - logs.mean(0)
    weight = np.linalg.solve(x.T @ x / len(x) + penalty * np.eye(x.shape[1]), x.T @ y / len(x))
    given = softmax(rows @ weight + logs.mean(0) - some.mean(0) @ weight, axis=1)
    return np.asarray((given @ np.square(weight).T - np.square(given @ weight.T)).mean(0))
