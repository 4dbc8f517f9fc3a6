r"""The network before the reduction: vectors b, b_o and sampled data; full batch or minibatches.

$f(x, x_o) = c\,(b^\top x + b_o^\top x_o)$ on n examples, squared loss, target $\beta^\top x + \gamma|1^\top x_o|$.
It checks that the reduction to four numbers is exact, and it is where SGD on actual data runs: a batch draws its own
outliers, so u receives noise that no reduced map has.

All examples share the direction of $x_o = \pm\sqrt{\alpha/(p d_2)}\,1$, so of $b_o$ only $u = 1^\top b_o/\sqrt{d_2}$
ever moves (its other components receive no gradient); that part of the reduction is used, and tested.
"""

from dataclasses import dataclass

import numba
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from toymodels.model import TwoLayerLinear
from toymodels.validation import count, finite, positive

__all__ = ["Sample", "draw_sample", "simulate_network"]


@dataclass(frozen=True)
class Sample:
    r"""n examples of the model.

    Args:
        x: Ordinary features, shape (n, d1).
        projection: $1^\top x_o/\sqrt{d_2}$ of each example, $\pm\sqrt{\alpha/p}$ or 0, shape (n,).
        target: Shape (n,).
        beta: The true signal, shape (d1,).
        model: Where it was drawn from.
        whitened: Whether the sample's second moments are exactly the population's.
    """

    x: np.ndarray
    projection: np.ndarray
    target: np.ndarray
    beta: np.ndarray
    model: TwoLayerLinear
    whitened: bool

    @property
    def groups(self) -> np.ndarray:
        """Sign of the opposing feature of each example: +1, −1 or 0, shape (n,)."""
        return np.sign(self.projection)


def draw_sample(
    model: TwoLayerLinear,
    n_examples: int,
    seed: int,
    *,
    whitened: bool = False,
    delta: float = 0.0,
    direction: ArrayLike | None = None,
) -> Sample:
    r"""Draw n examples.

    Args:
        model: Distribution of x (standard normal), of the opposing feature, and of the target.
        n_examples: Number of examples n.
        seed: Of numpy's default generators, one each for x, for the carriers and their signs, and for β.
        whitened: Make the sample's second moments exactly the population's: round(np(1 ± δ)/2) examples of either sign,
            their size such that the mean of $\|x_o\|^2$ is α, $x^\top x/n = I$, and x orthogonal to the outliers' sign
            and to the offset. For δ = 0 and np an even integer the full-batch loss is the population's, and the
            reduction exact to rounding.
        delta: Imbalance of the signs, $P(s=1) = (1+\delta)/2$, in [−1, 1].
        direction: Of β, shape (d1,); default a random one.
    Raises:
        ValueError: If a parameter is out of range, n is too small, or a whitened sample would have no carrier.
    """
    n = count("n_examples", n_examples)
    if not -1 <= delta <= 1:
        raise ValueError(f"delta must lie in [-1, 1], got {delta}; pass the imbalance of the pair")
    normal, uniform, order, sphere = (np.random.default_rng([seed, k]) for k in range(4))
    along = sphere.normal(size=model.d1) if direction is None else finite("direction", direction)
    if along.shape != (model.d1,) or not np.linalg.norm(along) > 0:
        raise ValueError(f"direction must be a vector of shape ({model.d1},) that is not 0, got {along!r}; pass one")
    beta = model.beta * along / np.linalg.norm(along)
    x = normal.standard_normal((n, model.d1))
    size = model.projection
    if whitened:
        if n < model.d1 + 2:
            raise ValueError(
                f"n_examples must be at least d1 + 2 = {model.d1 + 2} for whitened data, got {n}; pass more"
            )
        plus, minus = (round(n * model.p * (1 + s * delta) / 2) for s in (1, -1))
        if not 1 <= plus + minus <= n:
            raise ValueError(f"p must give 1..{n} carriers among {n}, got {plus + minus}; pass more examples")
        sign = order.permutation(np.repeat([1.0, -1.0, 0.0], [plus, minus, n - plus - minus]))
        size = float(np.sqrt(model.alpha * n / (plus + minus)))
        outliers = np.stack([np.abs(sign), sign], axis=1)
        if min(plus, minus) == 0:  # one sign only: the two columns are parallel
            outliers = outliers[:, :1]
        x = np.linalg.qr(np.concatenate([outliers, x], axis=1))[0][:, outliers.shape[1] :] * np.sqrt(n)
    else:
        draws = uniform.random((n, 2))
        sign = np.where(draws[:, 0] < model.p, np.where(draws[:, 1] < (1 + delta) / 2, 1.0, -1.0), 0.0)
    # |1^T x_o| = sqrt(d2) times the projection
    offset = model.gamma * np.sqrt(model.d2) * size
    return Sample(x, size * sign, x @ beta + offset * np.abs(sign), beta, model, whitened)


@numba.njit(cache=True, error_model="numpy")
def _train(x, projection, target, b, c, u, lr, batches, kept, out):  # pragma: no cover - compiled
    """Make one update per row of ``batches`` (indices); (c, u, loss of the batch) and b into ``out`` at ``kept``."""
    k = 0
    g = np.empty(b.shape[0])
    for n in range(batches.shape[0] + 1):
        if k < kept.shape[0] and kept[k] == n:
            out[k, 0], out[k, 1] = c, u
            out[k, 2:] = b
            k += 1
        if n == batches.shape[0] or not (abs(c) < 1e100 and abs(u) < 1e100):
            return n
        g[:] = 0.0
        gc, gu, size = 0.0, 0.0, batches.shape[1]
        for i in batches[n]:
            inner = projection[i] * u
            for j in range(b.shape[0]):
                inner += x[i, j] * b[j]
            error = c * inner - target[i]
            gc += error * inner
            gu += error * projection[i]
            for j in range(b.shape[0]):
                g[j] += error * x[i, j]
        for j in range(b.shape[0]):
            b[j] -= lr * c * g[j] / size
        u -= lr * c * gu / size
        c -= lr * gc / size
    return -1


def simulate_network(
    sample: Sample,
    lr: ArrayLike,
    steps: int,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    replacement: bool = False,
    c: float = 1.0,
    b: ArrayLike | None = None,
    u: float | None = None,
    stride: int = 1,
) -> xr.Dataset:
    r"""Train the network before the reduction, by gradient descent or SGD on actual examples.

    Args:
        sample: The data.
        lr: Step sizes η, shape (runs,) or scalar; all runs see the same batches.
        steps: Updates.
        batch_size: B examples a step; None is the full batch.
        seed: Of the order of examples (and of b where it is not given).
        replacement: Draw each batch anew with replacement; else epochs of a random order, the last short batch of an
            epoch dropped.
        c: Second layer at the start.
        b: First layer at the start, shape (d1,); default the reference initialisation's, in a random direction.
        u: $1^\top b_o/\sqrt{d_2}$ at the start; default the reference initialisation's.
        stride: Keep every so manieth step.
    Returns:
        Dataset with dimensions run, step: c, b_par, b_perp, u, loss (full batch, without the target's own variance
        of the offset where the sample is whitened), loss_plus, loss_minus (means over the two groups; NaN if empty);
        last_step and status (0 running, 2 diverged) per run. Measured: plain float64, u underflows below 1e-308.
    Raises:
        ValueError: If an argument is out of range.
    """
    lrs = np.atleast_1d(positive("lr", lr))
    n = len(sample.target)
    for name, value in (("steps", steps), ("stride", stride), ("batch_size", n if batch_size is None else batch_size)):
        count(name, value)
    size = n if batch_size is None else int(batch_size)
    if size > n and not replacement:
        raise ValueError(f"batch_size must be at most the {n} examples, got {size}; pass replacement=True or less")
    rng = np.random.default_rng(seed)
    reference = sample.model.reference_state()
    if b is None:
        direction = rng.normal(size=sample.model.d1)
        along = sample.beta / sample.model.beta
        across = direction - along * (along @ direction)
        norm = np.linalg.norm(across)
        first = reference.b_par * along + (reference.b_perp * across / norm if norm > 0 else 0.0)
    else:
        first = np.array(b, dtype=float)
        if first.shape != (sample.model.d1,):
            raise ValueError(f"b must have shape ({sample.model.d1},), got {first.shape}")
    kept = np.arange(steps // stride + 1) * stride
    start_u = reference.u if u is None else u
    batches = _batches(n, size, steps, rng, replacement)
    out = np.full((len(lrs), len(kept), 2 + sample.model.d1), np.nan)
    last = np.zeros(len(lrs), dtype=np.int64)
    for i, rate in enumerate(lrs):
        last[i] = _train(  # pyright: ignore[reportCallIssue] - compiled
            sample.x, sample.projection, sample.target, first.copy(), float(c), float(start_u), rate, batches, kept,
            out[i],
        )  # fmt: skip
    return _dataset(sample, lrs, kept, out, last, steps)


def _batches(n: int, size: int, steps: int, rng: np.random.Generator, replacement: bool) -> np.ndarray:
    """Indices, shape (steps, size)."""
    if size == n and not replacement:
        return np.broadcast_to(np.arange(n), (steps, n))
    if replacement:
        return rng.integers(0, n, size=(steps, size))
    per_epoch = n // size
    epochs = [rng.permutation(n)[: per_epoch * size].reshape(per_epoch, size) for _ in range(-(-steps // per_epoch))]
    return np.concatenate(epochs)[:steps]


def _dataset(sample: Sample, lrs, kept, out, last, steps) -> xr.Dataset:
    c, u, b = out[..., 0], out[..., 1], out[..., 2:]
    along = sample.beta / sample.model.beta
    b_par = b @ along
    with np.errstate(over="ignore", invalid="ignore"):
        norm = np.sqrt(((b - b_par[..., None] * along) ** 2).sum(axis=-1))
        f = c[..., None] * (b @ sample.x.T + u[..., None] * sample.projection)
        losses = (f - sample.target) ** 2 / 2
    values = {"c": c, "b_par": b_par, "b_perp": norm, "u": u, "loss": losses.mean(axis=-1)}
    for name, sign in (("loss_plus", 1), ("loss_minus", -1)):
        chosen = sample.groups == sign
        values[name] = losses[..., chosen].mean(axis=-1) if chosen.any() else np.full(c.shape, np.nan)
    data = xr.Dataset({name: (("run", "step"), v) for name, v in values.items()})
    data["last_step"] = ("run", last)
    data["status"] = ("run", np.where(last < steps, 2, 0).astype(np.int8))
    data["status"].attrs.update(flag_values=[0, 2], flag_meanings="running diverged")
    return data.assign_coords(step=kept, lr=("run", lrs))
