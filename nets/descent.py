r"""One step of full-batch gradient descent and the quantities read off it.

The step is split in `measure` (one forward pass, one gradient with its graph, one eigenpair; changes no
parameter) and `update` ($\theta \leftarrow \theta - \eta g$), so that a run can stop between the two.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from analysis.curvature import flat_hvp, flatten, top_eigenpair

from .architectures import mlp
from .config import TrainConfig
from .data import Dataset
from .losses import per_example_loss

__all__ = ["Problem", "State", "StepState"]


@dataclass(frozen=True)
class StepState:
    """The values logged at one step, at parameters θ_n, before the update; units as in the record."""

    step: int
    loss: float
    sharpness: float
    sharpness_residual: float
    converged: bool
    products: int
    grad_norm: float
    grad_v: float
    oscillation: float
    accuracy: float

    @property
    def finite(self) -> bool:
        """Whether loss, gradient and sharpness are all finite."""
        return bool(np.isfinite([self.loss, self.grad_norm, self.sharpness]).all())


@dataclass
class State:
    r"""Everything that decides the rest of a run; all of it is in the checkpoint.

    Args:
        step: Step n that the parameters belong to.
        logged: Whether row n is recorded already (the update of step n is still to come).
        diverged: Whether row n holds the first non-finite value, which ends the run.
        parameters: θ_n, flat, shape (P,).
        gradient, previous_gradient: The two last gradients computed, shape (P,): $g_n, g_{n-1}$ if
            ``logged``, else $g_{n-1}, g_{n-2}$; zero where there is none yet.
        eigenvector: Top Hessian eigenvector last computed, shape (P,); zero before the first.
        rng_state: State of the eigen-solver's random generator, uint8.
    """

    step: int
    logged: bool
    diverged: bool
    parameters: Tensor
    gradient: Tensor
    previous_gradient: Tensor
    eigenvector: Tensor
    rng_state: Tensor

    @property
    def rows(self) -> int:
        """Number of recorded rows."""
        return self.step + int(self.logged)


class Problem:
    """The data, the network and the loss of a configuration; computes, but holds no state of the run.

    Args:
        config: Configuration.
        dataset: Its data.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset) -> None:
        self.config = config
        self.dtype = getattr(torch, config.dtype)
        # copied into torch's own memory, aligned the same way in every process: sums depend on alignment
        self.inputs = torch.from_numpy(dataset.inputs).to(self.dtype, copy=True)
        self.targets = torch.from_numpy(dataset.targets).clone()
        self.d_in, self.n_classes = dataset.inputs.shape[1], dataset.n_classes
        self.module = self.new_module()
        self.loss = per_example_loss(config.loss)

    def new_module(self) -> nn.Sequential:
        """The network with its initial weights."""
        c = self.config
        return mlp(self.d_in, c.widths, self.n_classes, activation=c.activation, seed=c.seed, dtype=self.dtype)

    def initial_state(self) -> State:
        """The state before step 0."""
        theta = flatten([p.detach() for p in self.new_module().parameters()])
        generator = torch.Generator().manual_seed(self.config.seed)
        a, b, c = (torch.zeros_like(theta) for _ in range(3))
        return State(0, False, False, theta, a, b, c, generator.get_state())

    def module_at(self, parameters: Tensor) -> nn.Sequential:
        """A new module that holds the given flat parameters, shape (P,)."""
        module = self.new_module()
        nn.utils.vector_to_parameters(parameters.clone(), module.parameters())
        return module

    def measure(self, state: State) -> tuple[StepState, np.ndarray]:
        """Measure at ``state.parameters`` and note gradient, eigenvector and generator in ``state``.

        Returns:
            The logged values and the example losses, shape (n,).
        """
        params = list(self.module.parameters())
        with torch.no_grad():
            nn.utils.vector_to_parameters(state.parameters.clone(), params)
        outputs = self.module(self.inputs)
        losses = self.loss(outputs, self.targets)
        mean = losses.mean()
        grads = torch.autograd.grad(mean, params, create_graph=True)
        before, last = state.previous_gradient, state.gradient
        gradient = flatten([g.detach() for g in grads])
        loss = float(mean.detach())
        accuracy = float((outputs.detach().argmax(dim=1) == self.targets).double().mean())
        grad_norm = float(gradient.double().norm())
        nan = float("nan")
        value, residual, converged, products, grad_v, oscillation = nan, nan, False, 0, nan, nan
        vector, generator = state.eigenvector, torch.Generator()
        generator.set_state(state.rng_state)
        if np.isfinite([loss, grad_norm]).all():
            pair = top_eigenpair(
                flat_hvp(grads, params),
                state.eigenvector,
                tol=self.config.eig_tol,
                max_products=self.config.max_products,
                generator=generator,
            )
            value, residual, products = pair.value, pair.residual, pair.products
            converged = pair.converged
            vector = pair.vector.detach()
            if float(vector @ state.eigenvector) < 0:  # v is defined up to its sign: keep the last one's
                vector = -vector
            v, g = vector.double(), gradient.double()
            grad_v = float(g @ v)
            if state.step >= 2:
                oscillation = float((g - 2 * last.double() + before.double()) @ v) / (4 * value)
        # only now, all together, does the state change: an interrupt before leaves it as it was
        state.rng_state, state.eigenvector = generator.get_state(), vector
        state.previous_gradient, state.gradient, state.logged = last, gradient, True
        logged = StepState(
            state.step,
            loss,
            value,
            residual,
            converged,
            products,
            grad_norm,
            grad_v,
            oscillation,
            accuracy,
        )
        state.diverged = not logged.finite
        return logged, losses.detach().numpy()

    def update(self, state: State) -> None:
        r"""$\theta_{n+1} = \theta_n - \eta g_n$ with the gradient of the logged step n."""
        state.parameters = state.parameters - self.config.lr * state.gradient
        state.step += 1
        state.logged = False


def row_of(logged: StepState, example_loss: np.ndarray) -> dict[str, np.ndarray | float | int]:
    """The logged values under the names of the record."""
    return {
        "loss": logged.loss,
        "example_loss": example_loss,
        "sharpness": logged.sharpness,
        "sharpness_residual": logged.sharpness_residual,
        "sharpness_converged": int(logged.converged),
        "products": logged.products,
        "grad_norm": logged.grad_norm,
        "grad_v": logged.grad_v,
        "oscillation": logged.oscillation,
        "accuracy": logged.accuracy,
    }
