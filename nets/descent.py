r"""One step of training and the quantities read off it.

The step is split in `measure` (one forward pass, one gradient with its graph, one eigenpair; changes no
parameter) and `update` (for gradient descent $\theta \leftarrow \theta - \eta g$), so that a run can stop between the
two.
"""

import functools
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from analysis.curvature import flatten, top_eigenpair
from analysis.projection import demodulated_amplitude

from .architectures import Task, build_model
from .batches import batch_rows
from .config import ConfigError, TrainConfig
from .data import Dataset
from .device import Bfloat16, find_device
from .evaluation import ChunkedLoss, FullBatch
from .losses import WeightedLoss, per_example_loss
from .optimizers import make_optimizer
from .ranks import Ranks
from .shared_loss import SharedLoss

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
        """Whether loss, gradient and, where it was measured, sharpness are all finite."""
        values = [self.loss, self.grad_norm, *([self.sharpness] if self.products else [])]
        return bool(np.isfinite(values).all())


@dataclass
class State:
    r"""Everything that decides the rest of a run; all of it is in the checkpoint.

    Args:
        step: Step n that the parameters belong to.
        logged: Whether row n is recorded already (the update of step n is still to come).
        diverged: Whether row n holds the first non-finite value, which ends the run.
        parameters: θ_n, flat, shape (P,).
        gradient, previous_gradient: The two last gradients computed, shape (P,): $g_n, g_{n-1}$ if
            ``logged``, else $g_{n-1}, g_{n-2}$; zero where there is none yet and where the sharpness is never measured,
            NaN where it is not known (forks).
        eigenvector: Top Hessian eigenvector last computed, shape (P,); zero before the first.
        rng_state: State of the eigen-solver's random generator, uint8.
        batch_rng: State of the generator that shuffles the rows, at the start of the current epoch, uint8; empty
            without batches.
        optimizer: What the optimizer keeps, by its names, e.g. ``momentum_buffer`` (P,); empty for gradient descent.
        losses: Losses of the last recorded step, shape (n,), where the record needs them (`losses_kept`); else empty.
    """

    step: int
    logged: bool
    diverged: bool
    parameters: Tensor
    gradient: Tensor
    previous_gradient: Tensor
    eigenvector: Tensor
    rng_state: Tensor
    batch_rng: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    losses: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def rows(self) -> int:
        """Number of recorded rows."""
        return self.step + int(self.logged)

    def to(self, device: torch.device) -> None:
        """Move everything of shape (P,) to a device, in place; generators and counters stay where they are."""
        for name in ("parameters", "gradient", "previous_gradient", "eigenvector"):
            setattr(self, name, getattr(self, name).to(device))
        self.optimizer = {name: value.to(device) if value.ndim else value for name, value in self.optimizer.items()}


class Problem:
    """The data, the network and the loss of a configuration; computes, but holds no state of the run.

    Args:
        config: Configuration.
        dataset: Its data.
        ranks: Processes that compute together, as process 0 sees them; None: this one alone.
        n_rows: Rows that the mean loss is over, of which ``dataset`` holds a part; None: the dataset's own.
    """

    def __init__(
        self, config: TrainConfig, dataset: Dataset, ranks: Ranks | None = None, n_rows: int | None = None
    ) -> None:
        self.config, self.dataset = config, dataset
        if ranks is not None:
            ranks.check_device(config.device)
        self.device = find_device(config.device)
        self.dtype = getattr(torch, config.dtype)
        self.inputs, self.targets = dataset.tensors(self.dtype, self.device)
        self.task = Task(
            dataset.inputs.shape[1:],
            dataset.n_classes,
            dataset.image_shape,
            dataset.vocabulary,
            dataset.kind == "tokens",
        )
        self.module = self.new_module()
        plain = per_example_loss(config.loss, config.label_smoothing)
        self.loss = WeightedLoss(plain, *dataset.emphasis(self.dtype, self.device))
        if not self.loss.plain and (config.chunk_size or ranks is not None):
            raise ConfigError(
                f"intervention {config.intervention} weighs examples and must have all rows in one chunk and process, "
                f"got chunk_size {config.chunk_size} and {1 if ranks is None else ranks.size} processes; choose drop"
            )
        self._check()
        n = len(self.inputs)
        rows = slice(n) if ranks is None else ranks.rows(n)
        self.local = ChunkedLoss(
            self.module,
            self.loss,
            self.inputs[rows],
            self.targets[rows],
            chunk_size=config.chunk_size,
            n_rows=n_rows or n,
            kernels=config.kernels,
        )
        self.full_batch: FullBatch = self.local
        if ranks is not None:
            about = {"config": config.to_dict(), "data": dataset.fingerprint}
            self.full_batch = SharedLoss(ranks, self.local, about)

    @property
    def n_parameters(self) -> int:
        """P."""
        return sum(p.numel() for p in self.module.parameters())

    def new_module(self) -> nn.Module:
        """The network with its initial weights.

        Raises:
            ConfigError: If the network does not fit the data.
        """
        c = self.config
        options = c.model_settings
        if c.model == "mlp":
            options = {"widths": c.widths, "activation": c.activation, **options}
        try:
            network = build_model(c.model, self.task, seed=c.seed, dtype=self.dtype, **options).to(self.device)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return Bfloat16(network) if c.precision == "bf16" else network

    def _check(self) -> None:
        """Try the network and the loss on two rows, before anything is written."""
        inputs, targets = self.inputs[:2], self.targets[:2]
        positions = self.task.input_shape if self.task.per_position else ()
        wanted = (len(inputs), *positions, self.task.n_outputs)
        try:
            with torch.no_grad():
                outputs = self.module(inputs)
        except Exception as error:  # whatever a user's module raises
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"model {self.config.model} must take the data, got {reason}; correct it") from error
        if not isinstance(outputs, Tensor) or tuple(outputs.shape) != wanted:
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ConfigError(f"model {self.config.model} must give outputs of shape {wanted}, got {got}; correct it")
        try:
            self.loss.of(slice(2))(outputs, targets)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def initial_state(self) -> State:
        """The state before step 0."""
        theta = flatten([p.detach() for p in self.new_module().parameters()])
        generator = torch.Generator(self.device).manual_seed(self.config.seed)
        a, b, c = (torch.zeros_like(theta) for _ in range(3))
        state = State(0, False, False, theta, a, b, c, generator.get_state())
        if self.config.batch_size:
            state.batch_rng = torch.Generator().manual_seed(self.config.seed).get_state()
        return state

    def module_at(self, parameters: Tensor) -> nn.Module:
        """A new module that holds the given flat parameters, shape (P,)."""
        module = self.new_module()
        nn.utils.vector_to_parameters(parameters.to(self.device, copy=True), module.parameters())
        return module

    def measure(self, state: State) -> tuple[StepState, np.ndarray]:
        """Measure at ``state.parameters`` and note gradient, eigenvector and generator in ``state``.

        Returns:
            The logged values and the example losses, shape (n,).
        """
        every = self.config.eig_every
        due = every > 0 and state.step % every == 0
        here = self.full_batch.evaluate(state.parameters, products=due)
        before, last = state.previous_gradient, state.gradient
        gradient, loss = here.gradient, here.loss
        grad_norm = float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
        nan = float("nan")
        value, residual, converged, products, grad_v, oscillation = nan, nan, False, 0, nan, nan
        vector, generator = state.eigenvector, torch.Generator(self.device)
        generator.set_state(state.rng_state)
        if due and np.isfinite([loss, grad_norm]).all():
            pair = top_eigenpair(
                here.product,
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
            grad_v = float(gradient.double() @ vector.double())
            if state.step >= 2:
                oscillation = demodulated_amplitude(gradient, last, before, vector, value)
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
            here.accuracy,
        )
        state.diverged = not logged.finite
        return logged, here.losses.cpu().numpy()

    def update(self, state: State) -> None:
        r"""One step of the optimizer from θ_n; for gradient descent $\theta_{n+1} = \theta_n - \eta g_n$.

        With batches the gradient is that of the step's rows, else the logged one of all rows.
        """
        if self.config.plain_descent:
            step = self.config.lr * state.gradient
            state.parameters = torch.sub(state.parameters, step, out=step)  # one new vector, not two
        else:
            self._optimizer_step(state)
        if not self.config.eig_every:  # nothing asks for the last gradients: not kept, nor put into checkpoints
            state.gradient = state.previous_gradient = self._zero
        state.step += 1
        state.logged = False

    @functools.cached_property
    def _zero(self) -> Tensor:
        """Zero vector (P,), shared: no tensor of a state is ever changed in place."""
        return torch.zeros(self.n_parameters, dtype=self.dtype, device=self.device)

    def _optimizer_step(self, state: State) -> None:
        c = self.config
        theta = state.parameters.clone().requires_grad_()
        optimizer = make_optimizer(c.optimizer, [theta], c.lr, **c.optimizer_settings)
        if state.optimizer:
            optimizer.state[theta].update({name: value.clone() for name, value in state.optimizer.items()})
        rows, batch_rng = None, state.batch_rng
        if c.batch_size:
            rows, batch_rng = batch_rows(len(self.inputs), c.batch_size, state.step, state.batch_rng)
        known = state.gradient if rows is None else None

        def closure() -> Tensor:
            nonlocal known
            theta.grad = self.full_batch.gradient(theta.detach(), rows) if known is None else known.clone()
            known = None  # only the first call is at θ_n
            return torch.zeros((), dtype=self.dtype)

        optimizer.step(closure)  # type: ignore[arg-type]
        kept = {name: value.detach() for name, value in optimizer.state[theta].items()}
        state.parameters, state.batch_rng, state.optimizer = theta.detach(), batch_rng, kept


def row_of(logged: StepState) -> dict[str, float | int]:
    """The logged values under the names of the record."""
    return {
        "loss": logged.loss,
        "sharpness": logged.sharpness,
        "sharpness_residual": logged.sharpness_residual,
        "sharpness_converged": int(logged.converged),
        "products": logged.products,
        "grad_norm": logged.grad_norm,
        "grad_v": logged.grad_v,
        "oscillation": logged.oscillation,
        "accuracy": logged.accuracy,
    }
