r"""Spectral density of a symmetric matrix by stochastic Lanczos quadrature."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .subspace import Subspace
from .vectors import Matvec

__all__ = ["SpectralDensity", "spectral_density"]


@dataclass(frozen=True)
class SpectralDensity:
    r"""Quadrature $\frac1P\sum_i f(\lambda_i) \approx \frac1m\sum_{p,j} w_{pj} f(t_{pj})$ (statistical in the probes).

    Args:
        nodes: $t_{pj}$, shape (probes, steps), loss per squared parameter unit.
        weights: $w_{pj}$, same shape; each row sums to 1; padded with zeros where a Krylov space ended early.
        size: P.
    """

    nodes: np.ndarray
    weights: np.ndarray
    size: int

    def mean(self, values: np.ndarray) -> tuple[float, float]:
        r"""$\frac1P\sum_i f(\lambda_i)$ and its standard error over the probes, for ``values`` = f(nodes)."""
        rows = (self.weights * values).sum(axis=1)
        spread = rows.std(ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.inf
        return float(rows.mean()), float(spread)

    def smoothed(self, grid: np.ndarray, width: float) -> np.ndarray:
        """Density on ``grid``, each node a normal curve of standard deviation ``width`` > 0; integrates to 1.

        Raises:
            ValueError: If ``width`` is not positive.
        """
        if not width > 0:
            raise ValueError(f"width must be positive, got {width}; pass e.g. 1 % of the sharpness")
        z = (np.asarray(grid)[..., None, None] - self.nodes) / width
        bells = np.exp(-0.5 * z**2) / (width * np.sqrt(2 * np.pi))
        return (bells * self.weights).sum(axis=(-1, -2)) / len(self.nodes)


def spectral_density(
    matvec: Matvec, like: Tensor, *, steps: int = 60, probes: int = 4, seed: int = 0
) -> SpectralDensity:
    r"""Nodes and weights from ``probes`` Lanczos runs of ``steps`` products each, from random starts.

    Exact in each probe for polynomials up to degree 2 steps - 1; the error over probes is statistical,
    $O(1/\sqrt{P \cdot \text{probes}})$ for smooth f.

    Args:
        matvec: $v \mapsto Hv$.
        like: Tensor of shape (P,) that gives type and device.
        steps: Lanczos steps per probe (memory: two vectors each); at most P.
        probes: Random starts.
        seed: Of the starts.
    Raises:
        ValueError: If ``steps`` or ``probes`` is below 1.
    References: Golub & Meurant (2010); Ubaru, Chen & Saad (2017).
    """
    for name, value in (("steps", steps), ("probes", probes)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}; pass {name} >= 1")
    size = like.numel()
    steps = min(steps, size)
    generator = torch.Generator(device=like.device).manual_seed(seed)
    nodes, weights = np.zeros((probes, steps)), np.zeros((probes, steps))
    for p in range(probes):
        space = Subspace(size, steps, like.dtype, like.device)
        start = torch.randn(size, generator=generator, dtype=like.dtype, device=like.device)
        unit: Tensor | None = start / start.norm()
        while unit is not None and not space.full:
            image = space.append(unit, matvec)
            unit, _ = space.orthogonalise(image)
        pairs = space.ritz()
        nodes[p, : len(space)] = pairs.values
        weights[p, : len(space)] = pairs.weights[0] ** 2
    return SpectralDensity(nodes, weights, size)
