"""The Hessian's spectrum: its largest eigenvalues, and its density."""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from analysis.curvature import CurvatureTracker, LossCurvature, Matvec, spectral_density

from .base import Column

if TYPE_CHECKING:
    from nets.descent import Problem, State

__all__ = ["Density", "Eigenvalues"]


def _hessian(problem: "Problem", module: nn.Module) -> Matvec:
    """Products with the Hessian of the run's loss where the module is."""

    def rows(outputs: Tensor, targets: Tensor) -> Tensor:  # a row of tokens counts as one example
        return problem.loss(outputs, targets).reshape(len(targets), -1).mean(1)

    return LossCurvature(module, rows, problem.inputs, problem.targets).linearise()[2]


class Eigenvalues:
    r"""The k largest algebraic eigenvalues of the Hessian, by ``CurvatureTracker`` from a cold start.

    Args:
        problem: The run's problem.
        every: Steps between observations.
        k: Number of eigenvalues, at most P.
        tol: Relative error asked for; ``eigenvalue_errors`` says what was reached with at most 200 products, a
            bound (rounding aside) that fails with probability 1e-6.
    """

    name = "eigenvalues"

    def __init__(self, problem: "Problem", every: int, k: int, tol: float) -> None:
        self.problem, self.every, self.k, self.tol = problem, every, k, tol
        size = problem.n_parameters
        if k > size:
            raise ValueError(f"k must be at most the number of parameters {size}, got {k}; pass less")
        self.columns = {
            "eigenvalues": Column(("eig",), (k,), "loss per squared parameter", "largest Hessian eigenvalues"),
            "eigenvalue_errors": Column(
                ("eig",), (k,), "1", "relative error of each eigenvalue (bound, rounding aside)"
            ),
        }

    def observe(self, module: nn.Module, state: "State") -> dict[str, np.ndarray]:
        """Values, largest first, and errors, each shape (k,)."""
        tracker = CurvatureTracker(self.k, tol=self.tol, seed=self.problem.config.seed)
        found = tracker.measure(_hessian(self.problem, module), state.eigenvector)
        return {"eigenvalues": found.values.cpu().numpy(), "eigenvalue_errors": found.errors.cpu().numpy()}


class Density:
    r"""Density of the Hessian's spectrum by stochastic Lanczos quadrature: nodes t and weights w, see
    ``analysis.curvature.SpectralDensity``, which takes the two arrays of a step.

    Args:
        problem: The run's problem.
        every: Steps between observations.
        steps: Products per probe.
        probes: Random starts, the same at every step.
    """

    name = "density"

    def __init__(self, problem: "Problem", every: int, steps: int, probes: int) -> None:
        self.problem, self.every, self.steps, self.probes = problem, every, steps, probes
        dims, shape = ("density_probe", "density_node"), (probes, min(steps, problem.n_parameters))
        self.columns = {
            "density_nodes": Column(dims, shape, "loss per squared parameter", "nodes of the spectral density"),
            "density_weights": Column(dims, shape, "1", "weights of the nodes; each row sums to 1"),
        }

    def observe(self, module: nn.Module, state: "State") -> dict[str, np.ndarray]:
        """Nodes and weights, each shape (probes, steps)."""
        found = spectral_density(
            _hessian(self.problem, module),
            state.parameters,
            steps=self.steps,
            probes=self.probes,
            seed=self.problem.config.seed,
        )
        return {"density_nodes": found.nodes, "density_weights": found.weights}
