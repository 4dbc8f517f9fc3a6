r"""The semidefinite complementarity problem that fixes the covariance of an oscillation at the edge.

Find $X \succeq 0$ with $S = A + \mathcal B[X] \succeq 0$ and $\langle X, S\rangle = 0$. For a symmetric positive
semidefinite $\mathcal B$ these are the optimality conditions of the convex problem
$\min_{X\succeq 0} \tfrac12\langle X, \mathcal B[X]\rangle + \langle A, X\rangle$.
"""

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Complementarity", "solve_complementarity"]

MOST_ITERATIONS = 60
CENTERING = 0.1  # of the gap aimed at; more after a step that the cone's boundary cut short
STUCK = 1e-2  # length of a step below which nothing more is to be won along it
BACKOFF = 0.98  # share of the step to the cone's boundary
GAP = 1e-11  # of the scaled problem, in which the largest entries of A and B are 1


@dataclass(frozen=True)
class Complementarity:
    r"""A solution with the evidence of its quality.

    Args:
        solution: X, shape (k, k), float64, symmetric positive semidefinite.
        gap: $\langle X, S\rangle$ in the scaled problem.
        residual: $\|A + \mathcal B[X] - S\|$ in the scaled problem.
        converged: Whether both are below 1e-9. False e.g. where A is negative along a direction in which
            $\mathcal B$ vanishes: then there is no solution.
    """

    solution: np.ndarray
    gap: float
    residual: float
    converged: bool


def solve_complementarity(constant: np.ndarray, linear: np.ndarray) -> Complementarity:
    r"""Primal-dual interior point with the Nesterov-Todd direction; exact to about 1e-9 in the scaled problem.

    Args:
        constant: A, shape (k, k), symmetric.
        linear: $\mathcal B_{ijkl}$, shape (k, k, k, k), symmetric under (ij) ↔ (kl), i ↔ j and k ↔ l, positive
            semidefinite.
    Raises:
        ValueError: If the shapes do not match.
    References: Todd, Toh & Tütüncü (1998), SIAM J. Optim. 8, 769.
    """
    a, b = np.asarray(constant, dtype=np.float64), np.asarray(linear, dtype=np.float64)
    k = len(a)
    if a.shape != (k, k) or b.shape != (k, k, k, k):
        raise ValueError(f"linear must have shape {(k,) * 4} and constant {(k, k)}, got {b.shape} and {a.shape}")
    if k == 0 or np.linalg.eigvalsh(a)[0] >= 0:
        return Complementarity(np.zeros((k, k)), 0.0, 0.0, True)
    basis = _symmetric_basis(k)
    # in an orthonormal basis of the symmetric matrices, scaled
    flat = basis.reshape(-1, k * k)
    matrix, vector = flat @ b.reshape(k * k, k * k) @ flat.T, flat @ a.reshape(-1)
    size, strength = float(np.abs(vector).max()), float(np.abs(matrix).max())
    if not (math.isfinite(size) and math.isfinite(strength) and strength > 0):
        return Complementarity(np.zeros((k, k)), math.inf, math.inf, False)
    x, gap, residual = _interior_point(vector / size, (matrix + matrix.T) / (2 * strength), basis)
    return Complementarity(x * size / strength, gap, residual, max(gap, residual) <= 1e-9)


def _interior_point(vector: np.ndarray, matrix: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, float, float]:
    k = basis.shape[1]

    def whole(coordinates: np.ndarray) -> np.ndarray:
        return np.tensordot(coordinates, basis, 1)

    def coordinates(whole: np.ndarray) -> np.ndarray:
        return np.tensordot(basis, whole, 2)

    x, s, aim = np.eye(k), np.eye(k), CENTERING
    best = (math.inf, x, s)
    for _ in range(MOST_ITERATIONS):
        miss = vector + matrix @ coordinates(x) - coordinates(s)
        gap = float(np.sum(x * s)) / k
        best = min(best, (max(gap, float(np.linalg.norm(miss))), x, s), key=lambda found: found[0])
        if gap <= GAP and np.linalg.norm(miss) <= GAP:
            break
        root = _power(x, 0.5)
        back = _power(x, -0.5)
        inverse = back @ _power(root @ s @ root, 0.5) @ back  # W^-1, where W S W = X
        metric = np.tensordot(basis, inverse @ basis @ inverse, ((1, 2), (1, 2)))
        wanted = aim * gap * back @ back - s
        try:
            move = np.linalg.solve(matrix + (metric + metric.T) / 2, coordinates(wanted) - miss)
        except np.linalg.LinAlgError:  # at the limit of rounding; whether it is good enough, gap and residual say
            break
        dx, ds = whole(move), whole(matrix @ move + miss)
        length = min(1.0, BACKOFF * _to_boundary(x, dx), BACKOFF * _to_boundary(s, ds))
        if not np.isfinite(move).all():
            break
        if length < STUCK:  # both are on the boundary to rounding: back inside, at the price of some gap
            inside = math.sqrt(max(gap, GAP)) * np.eye(k)
            x, s = x + inside, s + inside
            continue
        x, s, aim = x + length * dx, s + length * ds, max(CENTERING, (1 - length) ** 2)
    _, x, s = best
    miss = vector + matrix @ coordinates(x) - coordinates(s)
    return x, float(np.sum(x * s)) / k, float(np.linalg.norm(miss))


def _symmetric_basis(k: int) -> np.ndarray:
    """Orthonormal basis of the symmetric matrices, shape (k(k+1)/2, k, k)."""
    basis = []
    for i in range(k):
        for j in range(i, k):
            e = np.zeros((k, k))
            e[i, j] = e[j, i] = 1.0 if i == j else math.sqrt(0.5)
            basis.append(e)
    return np.array(basis)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, np.finfo(float).tiny) ** exponent) @ vectors.T


def _to_boundary(matrix: np.ndarray, step: np.ndarray) -> float:
    """Largest t with matrix + t step in the cone."""
    root = _power(matrix, -0.5)
    least = float(np.linalg.eigvalsh(root @ step @ root)[0])
    return -1 / least if least < 0 else math.inf
