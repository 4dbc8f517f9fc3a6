r"""Robust low-rank part of a blocks × examples matrix, turned to simple structure: one component per direction.

Everything here is equivariant under a change of sign of whole rows (blocks): the example vectors do not depend on the
rows' signs. The test of `analysis.opposition.reversal_p_values` rests on that.
"""

import numpy as np

__all__ = ["count_components", "distinct_components", "robust_low_rank", "varimax"]

LEAST_ENERGY = 0.05
SAME_RHYTHM = 0.95
CLIP = 3.0  # entries further than this many robust deviations from the fit are pulled in
MAD_TO_DEVIATION = 1.4826  # of a normal distribution


def _top(matrix: np.ndarray, rank: int) -> np.ndarray:
    """Leading left singular vectors, shape (B, rank), by the small Gram matrix."""
    _, vectors = np.linalg.eigh(matrix @ matrix.T)
    return vectors[:, ::-1][:, :rank]


def winsorised(matrix: np.ndarray) -> np.ndarray:
    """Entries limited to 3 robust deviations of their column: no single entry can make a component."""
    limit = CLIP * MAD_TO_DEVIATION * np.median(np.abs(matrix), axis=0)
    return np.clip(matrix, -limit, limit)


def distinct_components(matrix: np.ndarray, most: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    r"""`robust_low_rank` with as many components as are common to examples, hold energy, and have rhythms of their own.

    An oscillating direction has one amplitude per step. Higher orders in it, and a network that changes over the
    window, add small components that rise and fall with the main one; turned to simple structure they would cut the
    pair apart. So a component must hold 5 % of the matrix' sum of squares (before rotation), and where two have
    amplitudes with a cosine beyond 0.95 one component fewer is fitted.

    Args:
        matrix: Z, shape (B, n).
        most: Largest number of components.
        seed: Of the sign patterns in `count_components`.
    Returns:
        As `robust_low_rank`.
    """
    limited = winsorised(matrix)
    energy = np.maximum(np.linalg.eigvalsh(limited @ limited.T)[::-1], 0.0)
    rank = min(count_components(matrix, most, seed=seed), max(1, int((energy >= LEAST_ENERGY * energy.sum()).sum())))
    while True:
        amplitudes, vectors = robust_low_rank(matrix, rank)
        norm = np.linalg.norm(amplitudes, axis=0)
        cosines = np.abs(amplitudes.T @ amplitudes) / np.maximum(np.outer(norm, norm), np.finfo(np.float64).tiny)
        if rank == 1 or float((cosines - np.eye(rank)).max()) <= SAME_RHYTHM:
            return amplitudes, vectors
        rank -= 1


def count_components(matrix: np.ndarray, most: int, draws: int = 20, seed: int = 0) -> int:
    r"""Number of components that examples have in common, at least 1.

    The next component counts as long as the largest singular value of what remains is above all those of the same
    entries with independent random signs: examples whose amplitudes rise and fall together add up, others do not. With
    20 draws a second component of independent examples is counted about once in 21 times, or less.

    Args:
        matrix: Shape (B, n).
        most: Largest number returned.
        draws: Random sign patterns compared with.
        seed: Of the patterns.
    """
    rest = winsorised(matrix)
    size = np.sqrt(np.sqrt((rest**2).mean(axis=0)))  # between covariance and correlation: one example is no component
    rest = np.divide(rest, size, out=np.zeros_like(rest), where=size > 0)
    rng = np.random.default_rng(seed)
    most = max(1, min(most, *matrix.shape))
    blocks = len(rest)
    taken = np.empty((blocks, 0))
    for count in range(most):
        null = 0.0
        for _ in range(draws):
            flipped = rest * (2.0 * rng.integers(0, 2, rest.shape) - 1.0)
            # what remains lies in blocks - count dimensions: so must what it is compared with, at the same energy
            flipped = flipped - taken @ (taken.T @ flipped)
            null = max(null, float(np.linalg.eigvalsh(flipped @ flipped.T)[-1]) * blocks / (blocks - count))
        top = _top(rest, 1)
        along = top.T @ rest
        if float((along**2).sum()) <= null:
            return max(count, 1)
        rest = rest - top @ along
        taken = np.hstack([taken, top])
    return most


def varimax(vectors: np.ndarray, iterations: int = 200) -> np.ndarray:
    r"""Rotation R, shape (K, K), that concentrates each column of an orthonormal matrix, shape (n, K), on few rows.

    Maximises $\sum_{ik} (VR)_{ik}^4$ by the fixed point $R \leftarrow$ polar factor of $V^\top (VR)^{\circ 3}$. Groups
    that share no example are told apart exactly, since their vectors are orthogonal and a rotation only mixes them.
    """
    k = vectors.shape[1]
    rotation = np.eye(k)
    value = 0.0
    for _ in range(iterations):
        turned = vectors @ rotation
        left, _, right = np.linalg.svd(vectors.T @ turned**3)
        rotation = left @ right
        new = float(((vectors @ rotation) ** 4).sum())
        if new <= value * (1 + 1e-12):
            break
        value = new
    return rotation


def robust_low_rank(matrix: np.ndarray, rank: int, iterations: int = 25) -> tuple[np.ndarray, np.ndarray]:
    r"""Huber fit $Z \approx A V^\top$ by pseudo-values: residuals beyond 3 robust deviations are pulled in.

    Each round fits the truncated singular value decomposition to $\hat Z + \mathrm{clip}(Z - \hat Z)$, with a scale per
    example, so that one step at which one example's loss jumps does not make a component. A component that grows over
    the window is not clipped: it belongs to the fit.

    Args:
        matrix: Z, shape (B, n).
        rank: K ≤ min(B, n).
    Returns:
        Amplitudes A, shape (B, K), and unit example vectors V, shape (n, K), strongest first.
    """
    start = winsorised(matrix)
    vectors, _ = np.linalg.qr((_top(start, rank).T @ start).T)
    fit = (matrix @ vectors) @ vectors.T  # of the matrix itself: growth over the window must not start out clipped
    pseudo = fit
    floor = np.finfo(np.float64).eps * max(float(np.abs(matrix).max(initial=0.0)), np.finfo(np.float64).tiny)
    for _ in range(iterations):
        residual = matrix - fit
        limit = CLIP * np.maximum(MAD_TO_DEVIATION * np.median(np.abs(residual), axis=0), floor)
        new = fit + np.clip(residual, -limit, limit)
        done = float(np.abs(new - pseudo).max(initial=0.0)) <= 1e-10 * float(np.abs(pseudo).max(initial=0.0))
        pseudo = new
        left = _top(pseudo, rank)
        fit = left @ (left.T @ pseudo)
        if done:
            break
    vectors, _ = np.linalg.qr((left.T @ pseudo).T)
    vectors = vectors @ varimax(vectors)
    amplitudes = pseudo @ vectors
    order = np.argsort(-(amplitudes**2).sum(axis=0), kind="stable")
    return amplitudes[:, order], vectors[:, order]
