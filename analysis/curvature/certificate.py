r"""How much larger an eigenvalue can be than the Ritz values found: bounds, and the chance that they fail.

Two facts are combined. (1) Lanczos from a random start in the complement of what was found: its polynomial
$p_j$ has $p_j(C)z = q_{j+1}$, a unit vector, so an eigenvector w of the complement's matrix C with eigenvalue
μ obeys $|z\cdot w|\,|p_j(\mu)| \le 1$; and $|z\cdot w|$ is below $\delta\sqrt{\pi/2n}$ with probability at
most δ. Beyond its largest zero $p_j$ grows, so C has no eigenvalue above U, the point where
$p_j(U) = \sqrt{2n/\pi}/\delta$. (2) In a basis that begins with the Ritz vectors, $H = \begin{pmatrix}\Theta &
B\\ B^\top & C\end{pmatrix} \preceq \begin{pmatrix}\Theta & B\\ B^\top & U I\end{pmatrix}$, so the sorted
eigenvalues of the right side bound those of H one by one, multiplicities included.
"""

import math

import numpy as np

__all__ = ["complement_bound", "value_bounds"]


def complement_bound(diagonal: list[float], offdiagonal: list[float], size: int, failure: float) -> float:
    r"""Upper bound U on the spectrum of a symmetric matrix after j Lanczos steps from a random start (derived).

    Args:
        diagonal: $\alpha_1..\alpha_j$ of the Lanczos matrix.
        offdiagonal: $\beta_1..\beta_j$; the last one leads out of the space.
        size: Dimension n of the matrix.
        failure: Probability δ that an eigenvalue lies above U, over the choice of the start.
    Returns:
        U; the largest Ritz value itself where the Krylov space is invariant.
    References: Van Dorsselaer, Hochstenbach & Van der Vorst (2000).
    """
    alpha, beta = np.asarray(diagonal, dtype=float), np.asarray(offdiagonal, dtype=float)
    matrix = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    zeros = np.linalg.eigvalsh(matrix)
    if beta[-1] <= 0 or len(alpha) >= size:
        return float(zeros[-1])
    wanted = 0.5 * math.log(2 * size / math.pi) - math.log(failure) + float(np.log(beta).sum())
    # p_j(top + x) >= x^j / prod(beta): the root lies within exp(wanted / j) of the top
    high = math.exp(wanted / len(alpha))
    low = 1e-12 * high
    for _ in range(4):  # four grids of 32 points: the bracket shrinks to below 1e-4 of the distance
        grid = np.geomspace(low, high, 32)
        grid[-1] = high
        above = np.log(zeros[-1] - zeros[None, :] + grid[:, None]).sum(axis=1) >= wanted
        above[-1] = True
        first = int(above.argmax())
        low, high = (grid[first - 1] if first else low), grid[first]
    return float(zeros[-1] + high)


def value_bounds(ritz: np.ndarray, residual_gram: np.ndarray, complement: float) -> np.ndarray:
    r"""Upper bounds on the largest eigenvalues of H, one by one (derived).

    Args:
        ritz: Ritz values $\theta_1 \ge \theta_2 \ge \dots$ of a space, shape (m,), float64.
        residual_gram: $R^\top R$ of their residuals $R = HY - Y\Theta$, shape (m, m).
        complement: U, upper bound on the spectrum of H compressed to the complement of that space.
    Returns:
        Shape (m,): λ_i(H) ≤ bound_i; with $\lambda_i(H) \ge \theta_i$ the error is at most ``bound_i - ritz_i``.
    """
    m = len(ritz)
    squares, axes = np.linalg.eigh(residual_gram)
    kept = squares > 1e-14 * max(squares[-1], 0.0)
    coupling = axes[:, kept] * np.sqrt(squares[kept])  # G with G Gᵀ = RᵀR
    left_out = math.sqrt(max(float(squares[~kept].sum()), 0.0))
    r = coupling.shape[1]
    matrix = np.zeros((m + r, m + r))
    matrix[range(m), range(m)] = ritz
    matrix[:m, m:], matrix[m:, :m] = coupling, coupling.T
    matrix[range(m, m + r), range(m, m + r)] = complement
    values = np.concatenate([np.linalg.eigvalsh(matrix), np.full(m, complement)])
    return np.sort(values)[::-1][:m] + left_out
