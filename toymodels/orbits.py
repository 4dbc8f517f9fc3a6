"""Attractors of gradient descent on any symbolic model: orbit diagrams, Lyapunov exponents, periodic orbits.

The map and its Jacobian are generated from the model; nothing here knows a formula. Every function takes its inputs
as :func:`toymodels.simulation.simulate` does: plain arrays broadcast to one dimension ``run``, DataArrays by name.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp
import xarray as xr
from numpy.typing import ArrayLike

from toymodels.batch import Batch, make_batch, named_inputs, resolve_model
from toymodels.kernels import BLOWN
from toymodels.optimizers import GD
from toymodels.simulation import simulate
from toymodels.symbolic import SymbolicModel
from toymodels.validation import count

__all__ = [
    "balanced_line",
    "cycle_multipliers",
    "generated_map",
    "lyapunov_exponents",
    "map_inputs",
    "orbit_diagram",
    "periodic_orbit",
]

SMALLEST = 1e-300  # even weights restart from at least this magnitude: nothing else feels them below it


@lru_cache(maxsize=1)
def balanced_line() -> SymbolicModel:
    r"""The two-layer model on its invariant line $c=b_\parallel=x$, $u=b_\perp=0$: $L=\tfrac14(\|\beta\|-x^2)^2$.

    Gradient descent on this L is the two-layer map on that line (proved in ``derivations.gd_dynamics``): the cubic
    map $x\mapsto x+\eta x(\|\beta\|-x^2)$. L itself is half the two-layer loss there.
    """
    x, beta = sp.Symbol("x", real=True), sp.Symbol("beta", positive=True)
    return SymbolicModel((x,), (beta,), (beta - x**2) ** 2 / 4)


@lru_cache(maxsize=64)
def generated_map(model: SymbolicModel) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    r"""Gradient descent's map and its Jacobian $1-\eta\nabla^2L$ as numpy functions.

    Returns:
        ``step(w, constants)`` with w of shape (weight, ...) and constants a sequence of the model's parameters, then
        lr, shape (...) each; and ``jacobian(w, constants)``, shape (..., weight, weight).
    """
    lr = sp.Symbol("lr", positive=True)
    arguments = (*model.weights, *model.parameters, lr)
    move = sp.lambdify(arguments, model.gd_map(lr).T.tolist()[0], "numpy", cse=True)
    entries: Any = model.gd_map(lr).jacobian(sp.Matrix(model.weights)).flat()
    slope = sp.lambdify(arguments, list(entries), "numpy", cse=True)
    n = len(model.weights)

    def step(w: np.ndarray, constants: Any) -> np.ndarray:
        return np.stack([np.broadcast_to(v, w.shape[1:]) for v in move(*w, *constants)])

    def jacobian(w: np.ndarray, constants: Any) -> np.ndarray:
        rows = [np.broadcast_to(v, w.shape[1:]) for v in slope(*w, *constants)]
        return np.stack(rows, axis=-1).reshape(*w.shape[1:], n, n)

    return step, jacobian


def cycle_multipliers(model: SymbolicModel, orbit: ArrayLike, lr: ArrayLike, parameters: Mapping[str, Any]):
    """Eigenvalues of the product of the map's Jacobians along a periodic orbit.

    Args:
        model: Symbolic model.
        orbit: Weights, shape (weight, phase, ...), in the model's order; not checked to be periodic.
        lr: Step size, broadcasts to (...).
        parameters: By name, broadcast to (...).
    Returns:
        Complex array (weight, ...), by falling modulus; NaN where the orbit is.
    """
    w = np.asarray(orbit, float)
    jacobian = generated_map(model)[1]
    constants = [np.broadcast_to(parameters[p.name], w.shape[2:]) for p in model.parameters]
    constants.append(np.broadcast_to(lr, w.shape[2:]))
    product = np.eye(len(w))
    for phase in range(w.shape[1]):
        product = jacobian(w[:, phase], constants) @ product
    return _sorted_eigenvalues(product)


def _sorted_eigenvalues(matrix: np.ndarray) -> np.ndarray:
    fine = np.asarray(np.isfinite(matrix).all(axis=(-2, -1)))
    values = np.linalg.eigvals(np.where(fine[..., None, None], matrix, 0.0)).astype(complex)
    order = np.argsort(-np.abs(values), axis=-1, kind="stable")
    values = np.take_along_axis(values, order, axis=-1)
    return np.moveaxis(np.where(fine[..., None], values, np.nan), -1, 0)


def map_inputs(
    model: Any, lr: Any, start: Any, parameters: Any
) -> tuple[SymbolicModel, Batch, np.ndarray, list[np.ndarray]]:
    """Symbolic model, batch, weights at the start (weight, run), and the constants of :func:`generated_map`."""
    symbolic, start, parameters = resolve_model(model, start, parameters)
    batch = make_batch(named_inputs(symbolic, GD(), lr, start, parameters))
    w = np.stack([batch.slice(f"start_{x.name}", 0, batch.size) for x in symbolic.weights])
    names = (*(p.name for p in symbolic.parameters), "lr")
    return symbolic, batch, w, [batch.slice(name, 0, batch.size) for name in names]


def periodic_orbit(
    model: SymbolicModel,
    period: int,
    lr: Any,
    *,
    start: Mapping[str, Any],
    parameters: Mapping[str, Any],
    iterations: int = 60,
) -> xr.Dataset:
    r"""Periodic orbits of gradient descent by Newton's method on the composed map, with their multipliers (numerical).

    Where the orbits form a continuum (minima of an overparametrised model) the step of least norm is taken.

    Args:
        model: Symbolic model.
        period: Length, ≥ 1; an orbit whose least period divides it is found too, see ``prime``.
        lr: Step size η > 0.
        start: Guess for the first point, by weight.
        parameters: Model parameters by name.
        iterations: Newton steps at most.
    Returns:
        Dataset: ``orbit`` (..., phase, weight), ``multipliers`` (..., multiplier) complex by falling modulus,
        ``residual`` $|F^n(w)-w|_\infty$, ``rounding`` (the residual that rounding alone explains),
        ``converged`` (residual ≤ rounding) and ``prime`` (whether no shorter period fits).
    Raises:
        ValueError: If an argument is out of range.
    """
    period, iterations = count("period", period), count("iterations", iterations)
    symbolic, batch, w, constants = map_inputs(model, lr, start, parameters)
    step, jacobian = generated_map(symbolic)
    eye = np.eye(len(w))

    def along(first: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
        points, product, rounding = [first], np.broadcast_to(eye, (batch.size, *eye.shape)), np.zeros(batch.size)
        for _ in range(period):
            here = jacobian(points[-1], constants)
            product = here @ product
            points.append(step(points[-1], constants))
            # 16 roundings of the terms of one step, carried on by the Jacobian's norm
            terms = np.abs(points[-2]).max(0) + np.abs(points[-1] - points[-2]).max(0)
            rounding = np.sqrt((here**2).sum((-2, -1))) * rounding + 16 * np.finfo(float).eps * terms
        return points, product, points.pop() - first, rounding

    with np.errstate(all="ignore"):
        for _ in range(iterations):
            _, product, gap, _ = along(w)
            fine = np.asarray((np.abs(product) < BLOWN).all((-2, -1)) & (np.abs(gap) < BLOWN).all(0))
            inverse = np.linalg.pinv(np.where(fine[:, None, None], product, 0.0) - eye, rcond=1e-9)
            move = (inverse @ np.where(fine, gap, np.nan).T[..., None])[..., 0].T
            w = w - move
            if not np.nanmax(np.abs(move), initial=0.0) > 1e-16:
                break
        points, product, gap, rounding = along(w)
        residual = np.abs(gap).max(0)
        shorter = [d for d in range(1, period) if period % d == 0]
        # closer to itself after a shorter period than the square root of rounding: that orbit, not this one
        scale = np.sqrt(np.finfo(float).eps) * (1 + np.abs(w).max(0))
        prime = np.ones(batch.size, bool)
        for d in shorter:
            prime &= np.abs(points[d] - w).max(0) > scale
    shape = batch.shape
    data = xr.Dataset(coords=batch.coords)
    data = data.assign_coords(weight=[x.name for x in symbolic.weights], phase=np.arange(period))
    orbit = np.stack(points, axis=1)  # weight, phase, run
    data["orbit"] = ((*batch.dims, "phase", "weight"), orbit.transpose(2, 1, 0).reshape(*shape, period, len(w)))
    multipliers = _sorted_eigenvalues(product).T.reshape(*shape, len(w))
    data["multipliers"] = ((*batch.dims, "multiplier"), multipliers)
    flags = {"residual": residual, "rounding": rounding, "converged": residual <= rounding, "prime": prime}
    for name, value in flags.items():
        data[name] = (batch.dims, value.reshape(shape))
    return data


def lyapunov_exponents(
    model: SymbolicModel,
    lr: Any,
    *,
    start: Mapping[str, Any],
    parameters: Mapping[str, Any],
    steps: int = 2000,
    transient: int = 1000,
    n_exponents: int = 1,
) -> xr.Dataset:
    r"""Largest Lyapunov exponents of gradient descent, by its Jacobian with renormalisation (measured).

    The tangent vectors are general: the exponent also sees directions in which the orbit does not move (along a curve
    of minima it is 0; for u = 0 it includes the growth of a small u).

    Args:
        model: Symbolic model.
        lr: Step size η > 0.
        start: Weights at the start by name.
        parameters: Model parameters by name.
        steps: Steps over which the exponents are averaged, ≥ 2.
        transient: Steps before them, ≥ 0.
        n_exponents: How many, at most the number of weights.
    Returns:
        Dataset: ``exponent`` (..., exponent) in 1/step, −inf through a superstable point, NaN where the run diverged;
        ``half_difference``, second half's average minus the first's, a measure of what is not averaged out;
        ``diverged``.
    Raises:
        ValueError: If an argument is out of range.
    """
    steps, transient = count("steps", steps, 2), count("transient", transient, 0)
    symbolic, batch, w, constants = map_inputs(model, lr, start, parameters)
    n = len(w)
    if not 1 <= count("n_exponents", n_exponents) <= n:
        raise ValueError(f"n_exponents must be at most the number of weights, {n}, got {n_exponents}; pass fewer")
    step, jacobian = generated_map(symbolic)
    # no axis and no symmetric direction of a model: the square roots of the primes are independent
    primes = np.sqrt([sp.prime(i + 1) for i in range(n)])
    frame = np.stack([np.roll(primes, k) for k in range(n_exponents)], axis=-1)
    frame = np.broadcast_to(np.linalg.qr(frame)[0], (batch.size, n, n_exponents))
    sums = np.zeros((2, batch.size, n_exponents))
    with np.errstate(all="ignore"):
        for i in range(transient + steps):
            frame = jacobian(w, constants) @ frame
            size, frame = _renormalise(frame)
            if i >= transient:
                sums[int(i - transient >= steps // 2)] += np.log(size)
            w = step(w, constants)
        diverged = ~(np.abs(w).max(0) < BLOWN)
        total = sums.sum(0) / steps
        halves = sums[1] / (steps - steps // 2) - sums[0] / (steps // 2)
    data = xr.Dataset(coords=batch.coords)
    for name, value in (("exponent", total), ("half_difference", halves)):
        value = np.where(diverged[:, None], np.nan, value)
        data[name] = ((*batch.dims, "exponent_number"), value.reshape(*batch.shape, n_exponents))
        data[name].attrs["units"] = "1/step"
    data["diverged"] = (batch.dims, diverged.reshape(batch.shape))
    return data


def _renormalise(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes (run, k) and the orthonormal frame (run, weight, k); a vector that died stays 0."""
    if frame.shape[-1] == 1:
        size = np.sqrt((frame**2).sum(axis=1))
        return size, frame / np.where(size > 0, size, 1.0)[:, None]
    fine = np.asarray(np.isfinite(frame).all(axis=(1, 2)))
    q, r = np.linalg.qr(np.where(fine[:, None, None], frame, 0.0))
    size = np.abs(np.diagonal(r, axis1=-2, axis2=-1))
    return np.where(fine[:, None], size, np.nan), q


def orbit_diagram(
    model: SymbolicModel,
    lr: Any,
    *,
    start: Mapping[str, Any],
    parameters: Mapping[str, Any],
    transient: int = 2000,
    samples: int = 200,
) -> xr.Dataset:
    """Where gradient descent ends up: consecutive points of each run after a transient (simulated).

    Even weights pass below float64's range in the transient and are not lost; the samples start with at least 1e-300
    of them. Where there is a continuum of attractors the result depends on the start.

    Args:
        model: Symbolic model.
        lr: Step size η > 0; a DataArray names the diagram's axis, as may one of ``parameters``.
        start: Weights at the start by name.
        parameters: Model parameters by name.
        transient: Steps made and thrown away, ≥ 1.
        samples: Steps kept, ≥ 1.
    Returns:
        Dataset along ``sample``: each weight and ``loss``, NaN where the run diverged; ``diverged`` per run.
    Raises:
        ValueError: If an argument is out of range.
    """
    transient, samples = count("transient", transient), count("samples", samples)
    symbolic, batch, _, _ = map_inputs(model, lr, start, parameters)
    first = simulate(symbolic, "gd", lr, transient, start=start, parameters=parameters, stride=transient)
    gone = (first.status == 2).values
    again: dict[str, Any] = {}
    for w in symbolic.weights:
        value = first[f"final_{w.name}"].values
        if w in symbolic.even_weights:
            alive = np.isfinite(first[f"final_log_abs_{w.name}"].values) & (np.abs(value) < SMALLEST)
            value = np.where(alive, np.where(np.signbit(value), -SMALLEST, SMALLEST), value)
        again[w.name] = xr.DataArray(np.where(gone, 0.0, value), dims=batch.dims)
    kept = simulate(
        symbolic,
        "gd",
        _named(batch, "lr"),
        samples,
        start=again,
        parameters={p.name: _named(batch, p.name) for p in symbolic.parameters},
    )
    data = xr.Dataset(coords=batch.coords)
    data["diverged"] = (batch.dims, gone | (kept.status == 2).values)
    for name in (*(w.name for w in symbolic.weights), "loss"):
        value = np.where(data.diverged.values[..., None], np.nan, kept[name].values[..., 1:])
        data[name] = ((*batch.dims, "sample"), value)
    return data


def _named(batch: Batch, name: str) -> xr.DataArray:
    return xr.DataArray(np.reshape(batch.slice(name, 0, batch.size), batch.shape), dims=batch.dims)
