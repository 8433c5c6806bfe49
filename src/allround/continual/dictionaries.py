"""Dictionaries that write a vector as a sum of few atoms, and learn from what was written."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def drawn_atoms(atoms: int, width: int, length: float, random: np.random.Generator) -> Matrix:
    """A dictionary to begin with, (atoms, width): normal numbers, each atom cut to a length."""
    return np.stack([cut(atom, length) for atom in random.normal(size=(atoms, width))])


def sparse_code(vector: Matrix, dictionary: Matrix, penalty: float) -> Matrix:
    """The numbers of the atoms in a vector: (d,), (k, d) -> (k,), most of them zero.

    Formula: argmin_c |vector - c dictionary|^2 / 2 + penalty |c|_1, by least angle regression (scikit-learn)

    >>> sparse_code(np.array([3.0, 0.2]), np.eye(2), 0.5).round(6).tolist()
    [2.5, 0.0]
    """
    from sklearn.decomposition import sparse_encode

    found: Matrix = sparse_encode(vector[None], dictionary, algorithm="lasso_lars", alpha=penalty, max_iter=10_000)[0]
    return found


def updated(dictionary: Matrix, vectors: Matrix, codes: Matrix, length: float, random: np.random.Generator) -> Matrix:
    """A dictionary that is brought to write vectors by their codes, atom by atom. An atom that no code uses is drawn
    anew around the last vector.

    Shapes: dictionary (k, d), vectors (n, d), codes (n, k) -> (k, d)
    Formula: d_j += ((X^T C)_j - (C^T C)_j dictionary) / (C^T C)_jj, then cut to `length`
    Mairal et al., JMLR 2010, algorithm 2; as in jaxrl/dict_learning/task_dict.py of stevenyangyj/CoTASP.

    >>> x, c = np.array([[2.0, 0.0]]), np.array([[1.0]])  # one atom, which is to be x
    >>> updated(np.array([[0.0, 1.0]]), x, c, 5.0, np.random.default_rng(0)).tolist()
    [[2.0, 0.0]]
    """
    made, squares, products = dictionary.copy(), codes.T @ codes, vectors.T @ codes
    for atom in range(len(made)):
        if squares[atom, atom] > 1e-6:
            made[atom] += (products[:, atom] - squares[atom] @ made) / squares[atom, atom]
        else:
            made[atom] = vectors[-1] + random.normal(size=vectors.shape[1]) * (vectors[-1].std() or 1.0)
        made[atom] = cut(made[atom], length)
    return made


def cut(vector: Matrix, length: float) -> Matrix:
    """A vector of at most so much length."""
    found: Matrix = vector * min(1.0, length / (float(np.linalg.norm(vector)) + 1e-6))
    return found
