"""The curvature tracker on drifting matrices with known eigenvalues: error, its own estimate, products, wrong flags.

Eight operators of size 200, whose leading eigenvectors turn and whose two largest eigenvalues cross, 80 steps each.
``check_every`` steps apart a check looks for eigenvalues that were missed; between checks the error is an estimate.
"""

import numpy as np
import torch
from rows import row, write
from scipy.stats import ortho_group

from analysis.curvature import CurvatureTracker

SIZE, STEPS, SEEDS = 200, 80, range(1, 9)


def drifting(seed: int, pace: float = 0.0005):
    """The matrices of one operator, one after the other, float64."""
    rng = np.random.default_rng(seed)
    turn = rng.normal(size=(SIZE, SIZE))
    turn = torch.matrix_exp(torch.from_numpy(pace * (turn - turn.T)))
    vectors = torch.from_numpy(ortho_group.rvs(SIZE, random_state=seed))
    for i in range(STEPS):
        values = np.linspace(-10, 90, SIZE)
        values[:3] = 100 + np.array([3 * np.sin(i / 5), 3 * np.cos(i / 5), -4])
        yield vectors @ torch.diag(torch.from_numpy(values)) @ vectors.T
        vectors = turn @ vectors


def main() -> None:
    """Print and write the rows."""
    torch.set_num_threads(1)
    rows = []
    for tol, every in ((3e-3, 1000), (1e-3, 1000), (3e-3, 1)):
        errors, claimed, flags, products = [], [], [], []
        for seed in SEEDS:
            tracker = CurvatureTracker(1, tol=tol, check_every=every)
            for matrix in drifting(seed):
                found = tracker.measure(lambda v, m=matrix: m @ v, torch.zeros(SIZE, dtype=torch.float64))
                errors.append(abs(found.top / torch.linalg.eigvalsh(matrix)[-1].item() - 1))
                claimed.append(float(found.errors[0]))
                flags.append(bool(found.converged[0]))
                products.append(found.products)
        error, estimate, flag = np.array(errors), np.array(claimed), np.array(flags)
        values = {
            "steps": error.size,
            "relative error, 95th percentile": float(np.quantile(error, 0.95)),
            "share of steps within the own estimate": float(np.mean(error <= estimate)),
            "steps called converged": int(flag.sum()),
            "of them with an error above tol": int((flag & (error > tol)).sum()),
            "products per step": float(np.mean(products)),
        }
        case = f"tol {tol:g}, a check every {every} steps"
        for metric, value in values.items():
            print(f"{case:<40}{metric:<46}{value:.4g}")
            rows.append(row("tracking", case, metric, value, "1", packages=("torch", "numpy")))
    write("tracking", rows)


if __name__ == "__main__":
    main()
