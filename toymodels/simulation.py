"""Simulation of a symbolic model: any optimizer, any number of runs at once, beyond underflow."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp
import xarray as xr
from numpy.typing import ArrayLike

from toymodels.batch import Batch, make_batch, named_inputs, resolve_model
from toymodels.codegen import Program, generate
from toymodels.flow_solve import flow_dataset, simulate_flow
from toymodels.kernels import BLOCK, RESULTS, TILE, cuda_source, load, numba_source, run_tiles
from toymodels.model import ReducedState, TwoLayerLinear
from toymodels.optimizers import GD, Optimizer, make_optimizer
from toymodels.symbolic import SymbolicModel, two_layer
from toymodels.validation import count

__all__ = ["SPIKE_SHARE", "STATUS", "simulate", "simulate_flow", "simulate_gd", "status_names"]

SPIKE_SHARE = 0.05  # a spike begins where the load (two-layer: alpha u^2) reaches this share of the drift (b_par r / c)
STATUS = ("running", "converged", "diverged")
CONVERGED = 1e-8  # of the gradient's norm at the start
CHUNK = 1 << 17  # runs in one call of the kernel
TRAJECTORY_BYTES = 1 << 28  # of one call's trajectories


@lru_cache(maxsize=64)
def _numeric(model: SymbolicModel) -> dict[str, Callable[..., Any]]:
    """Loss and gradient of a model as numpy functions of weights and parameters."""
    arguments = (*model.weights, *model.parameters)
    return {
        "loss": sp.lambdify(arguments, model.loss, "numpy"),
        "gradient": sp.lambdify(arguments, model.gradient.T.tolist()[0], "numpy"),
        "hessian": sp.lambdify(arguments, model.hessian.tolist(), "numpy"),
    }


def simulate(
    model: SymbolicModel | TwoLayerLinear,
    optimizer: str | Optimizer = "gd",
    lr: ArrayLike | xr.DataArray = 0.01,
    steps: int = 1000,
    *,
    start: ReducedState | Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    stride: int | None = 1,
    watch: str | None = None,
    noise_floor: float = 0.0,
    scaled: bool = True,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    r"""Run an optimizer on a model, many runs at once; the kernel is generated from the symbolic model.

    Weights in which the loss is even (for the two-layer model u and b_perp) are carried as mantissa and integer
    exponent and never underflow. Time and memory: summaries need none per step.

    Args:
        model: A symbolic model, or the parameters of a two-layer one.
        optimizer: A name of ``optimizers.OPTIMIZERS``, "flow" for gradient flow (time is lr * step), or an instance
            whose hyperparameters may be arrays.
        lr: Step size η > 0.
        steps: Updates to make, ≥ 1.
        start: Weights at the start by name; default for a ``TwoLayerLinear``: its reference state.
        parameters: Model parameters by name. Plain arrays broadcast to one dimension ``run``; if any input is a
            DataArray, all broadcast by name and the result has those dimensions.
        stride: Keep every so manieth step of the trajectories; None keeps summaries only.
        watch: Even weight whose oscillation is watched; default the last one.
        noise_floor: Least magnitude of the watched weight, as rounding or sampling noise would leave it; 0 is exact.
        scaled: False runs plain float64, which underflows: for comparison only.
        device: "cpu" or "cuda".
        progress: Called with (runs done, runs in all).
    Returns:
        Dataset. Per run: onset_step (first ``stability`` > 2 after one ≤ 2), spike_step (first step after it whose
        load reaches 5 % of the drift, see ``SymbolicModel.load_and_drift``), peak_step and peak_log_abs_<watch>
        (first peak after that); −1 or NaN where there is none; last_step, status (0 running, 1 converged,
        2 diverged), final_<weight>, final_log_abs_<weight> of even ones, final_sharpness (largest Hessian
        eigenvalue, 1/time). With a stride also, along ``step``: <weight>, <weight>_sign and log_abs_<weight> of even
        ones, loss, stability ($2\lambda/\lambda^*$ with λ the watched curvature and λ* the optimizer's critical one;
        gradient descent: $s = \eta\lambda$). Divergence is a status, never an error; values after it are NaN.
    Raises:
        ValueError: If an argument is out of range or unknown.
    """
    symbolic, start, parameters = resolve_model(model, start, parameters)
    for name, value in (("steps", steps), ("stride", 1 if stride is None else stride)):
        count(name, value)
    if not (np.isfinite(noise_floor) and noise_floor >= 0):
        raise ValueError(f"noise_floor must be >= 0 and finite, got {noise_floor}; pass 0 for exact arithmetic")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got {device!r}")
    if optimizer == "flow":
        batch = make_batch(named_inputs(symbolic, GD(), lr, start, parameters))
        return flow_dataset(symbolic, batch, steps, stride, watch)
    rule = make_optimizer(optimizer)
    batch = make_batch(named_inputs(symbolic, rule, lr, start, parameters))
    program = generate(symbolic, rule, watch=watch, share=SPIKE_SHARE, scaled=scaled and noise_floor == 0)
    if noise_floor > 0 and program.watch is None:
        raise ValueError("noise_floor needs a weight in which the loss is even, the model has none; pass 0")
    run = _kernel(program, noise_floor > 0, device)
    pieces = []
    for lo, hi in _chunks(batch.size, len(program.variables) + len(program.groups), steps, stride):
        pieces.append(_piece(symbolic, rule, program, run, batch, lo, hi, steps, stride, noise_floor))
        if progress is not None:
            progress(hi, batch.size)
    return _dataset(program, batch, pieces, steps, stride)


def _kernel(program: Program, floor: bool, device: str) -> Callable[..., None]:
    if device == "cpu":
        tiles = load(numba_source(program, floor=floor))
        return lambda state, *rest: run_tiles(tiles, state.shape[1], state, *rest)
    from numba import cuda

    if not cuda.is_available():
        raise ValueError("device must be cpu here, got 'cuda' but no CUDA device was found; pass device='cpu'")
    kernel: Any = load(cuda_source(program, floor=floor))

    def run(state, constants, result, out, *rest):
        sent = [cuda.to_device(a) for a in (state, constants, result)]
        kept = cuda.to_device(out) if out.size else cuda.device_array((1, max(out.shape[1], 1), 1))
        kernel[(state.shape[1] + 127) // 128, 128](*sent, kept, *rest)
        result[:] = sent[2].copy_to_host()
        if out.size:
            out[:] = kept.copy_to_host()

    return run


def _chunks(size: int, rows: int, steps: int, stride: int | None) -> Iterator[tuple[int, int]]:
    kept = 0 if stride is None else steps // stride + 1
    most = CHUNK if kept == 0 else max(TILE, min(CHUNK, TRAJECTORY_BYTES // (8 * rows * kept) // TILE * TILE))
    for lo in range(0, size, most):
        yield lo, min(lo + most, size)


def _piece(
    model: SymbolicModel,
    rule: Optimizer,
    program: Program,
    run: Callable[..., None],
    batch: Batch,
    lo: int,
    hi: int,
    steps: int,
    stride: int | None,
    floor: float,
) -> dict[str, np.ndarray]:
    """Results of the runs lo..hi, flat."""
    lanes = hi - lo
    padded = -(-lanes // TILE) * TILE

    def row(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values, np.broadcast_to(values[-1:], padded - lanes)])

    weights = {name: batch.slice(f"start_{name}", lo, hi) for name in program.weights}
    constants = {p.name: batch.slice(p.name, lo, hi) for p in model.parameters}
    lr = batch.slice("lr", lo, hi)
    hyper = {name: batch.slice(name, lo, hi) for name in rule.hyperparameters()}
    rates = rule.rate(lr, hyper)
    state = np.zeros((len(program.variables), padded))
    for i, name in enumerate(program.weights):
        state[i] = row(weights[name])
    fixed = np.stack([row(np.asarray(v, float)) for v in (*constants.values(), lr, rates, *hyper.values())])
    n_var, n_groups = len(program.variables), len(program.groups)
    result = np.zeros((len(RESULTS) + n_var + 2 * n_groups, padded))
    kept = 0 if stride is None else steps // stride + 1
    out = np.empty((kept, n_var + n_groups, padded if kept else 0))
    run(state, fixed, result, out, steps, stride or steps, stride is not None, float(floor))
    found = dict(zip(RESULTS, result[: len(RESULTS), :lanes], strict=True))
    piece: dict[str, np.ndarray] = {
        "onset_step": found["onset"].astype(np.int32),
        "spike_step": found["begin"].astype(np.int32),
        "peak_step": found["peak"].astype(np.int32),
        "last_step": found["last"].astype(np.int64 if steps >= 2**31 else np.int32),
    }
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        if program.watch is not None:
            piece[f"peak_log_abs_{program.watch}"] = np.log(found["peak_size"]) + np.log(2.0) * found["peak_exponent"]
        final = result[len(RESULTS) :, :lanes]
        exponents, shrink = final[n_var : n_var + n_groups], final[n_var + n_groups :]
        logs = _values(program, final[:n_var], exponents, piece, "final_")
        for i, g in enumerate(program.groups):  # runs that stopped moving: the rest of the steps by their factor
            rest = np.where(found["rest"] > 0, found["rest"] / BLOCK * np.log(shrink[i]), 0.0)
            logs[g.weight] = piece[f"final_log_abs_{g.weight}"] = logs[g.weight] + rest
            still = found["rest"] > 0
            sign = np.sign(final[program.variables.index(g.weight)])
            piece[f"final_{g.weight}"] = np.where(still, sign * np.exp(logs[g.weight]), piece[f"final_{g.weight}"])
        end = [piece[f"final_{w}"] for w in program.weights]
        functions = _numeric(model)
        sizes = []
        for point in (list(weights.values()), end):
            gradient = functions["gradient"](*point, *constants.values())
            sizes.append(np.sqrt(sum(np.broadcast_to(g, lanes) ** 2 for g in gradient)))
        alive = found["alive"] > 0
        converged = alive & (sizes[1] <= CONVERGED * sizes[0])
        piece["status"] = np.where(alive, converged, 2).astype(np.int8)
        piece["final_sharpness"] = _sharpness(model, end, constants, alive)
    if kept:
        _trajectories(model, program, out[:, :, :lanes], constants, lr, rates, hyper, rule, piece, stride or 1)
    return piece


def _values(program: Program, final: np.ndarray, exponents: np.ndarray, into: dict[str, Any], prefix: str):
    """Weights from mantissas and exponents: value, and sign and log of the even ones. Arrays (rows, ...)."""
    units = {g.weight: exponents[i] for i, g in enumerate(program.groups)}
    logs = {}
    for i, name in enumerate(program.weights):
        mantissa = final[i]
        if name in units:
            into[prefix + name] = np.ldexp(mantissa, np.clip(units[name], -(2**30), 2**30).astype(np.int32))
        else:
            into[prefix + name] = mantissa.copy()
        if name in units or name == program.watch:
            logs[name] = np.log(np.abs(mantissa)) + np.log(2.0) * units.get(name, 0.0)
            into[f"{prefix}log_abs_{name}"] = logs[name]
            if not prefix:
                into[f"{name}_sign"] = np.sign(mantissa)
    return logs


def _sharpness(model: SymbolicModel, end: list[Any], constants: dict[str, Any], alive: np.ndarray) -> np.ndarray:
    """Largest eigenvalue of the Hessian at the end; NaN for runs that diverged."""
    found = np.full(len(alive), np.nan)
    if not alive.any():
        return found
    values = [np.broadcast_to(v, len(alive))[alive] for v in (*end, *constants.values())]
    if model is two_layer():
        from toymodels.sharpness import arrow_sharpness

        c, b, p, u, beta, alpha = values
        found[alive] = arrow_sharpness(ReducedState(c, b, np.abs(p), u), beta, alpha)
    else:
        rows = _numeric(model)["hessian"](*values)
        dense = np.stack([np.stack([np.broadcast_to(x, alive.sum()) for x in r], -1) for r in rows], -2)
        found[alive] = np.linalg.eigvalsh(dense)[:, -1]
    return found


def _trajectories(model, program, out, constants, lr, rates, hyper, rule, piece, stride) -> None:
    """Fill in what is kept along the steps; arrays (lanes, kept)."""
    n_var = len(program.variables)
    kept, _, lanes = out.shape
    into: dict[str, np.ndarray] = {}
    with np.errstate(all="ignore"):
        _values(program, out[:, :n_var].swapaxes(0, 1), out[:, n_var:].swapaxes(0, 1), into, "")
        weights = [into[w] for w in program.weights]
        into["loss"] = np.broadcast_to(_numeric(model)["loss"](*weights, *constants.values()), (kept, lanes)).copy()
        if program.watch is not None:
            into["stability"] = _stability(model, program, rule, weights, out, constants, rates, hyper, stride)
        gone = np.arange(kept)[:, None] * stride > piece["last_step"]
        for name, values in into.items():
            piece[name] = np.where(gone, np.nan, values).T


def _stability(model, program, rule, weights, out, constants, rates, hyper, stride) -> np.ndarray:
    from types import SimpleNamespace

    watched = next(w for w in model.weights if w.name == program.watch)
    i = program.weights.index(watched.name)
    aux = {a: sp.Symbol(f"aux_{a}") for a in rule.aux}
    h = SimpleNamespace(lr=sp.Symbol("lr"), n=sp.Symbol("n"), **{name: sp.Symbol(name) for name in hyper})
    expression = rule.curvature(model.curvature(watched), aux, h)
    arguments = [*model.weights, *model.parameters, *aux.values(), h.n, *(getattr(h, k) for k in hyper)]
    function = sp.lambdify(arguments, expression, "numpy")
    held = [out[:, program.variables.index(f"{a}_{program.weights[i]}")] for a in rule.aux]
    n = np.arange(out.shape[0])[:, None] * stride + 1.0
    return rates * function(*weights, *constants.values(), *held, n, *hyper.values())


def _dataset(
    program: Program, batch: Batch, pieces: list[dict[str, np.ndarray]], steps: int, stride: int | None
) -> xr.Dataset:
    data = xr.Dataset()
    for name in pieces[0]:
        joined = pieces[0][name] if len(pieces) == 1 else np.concatenate([piece[name] for piece in pieces])
        dims = batch.dims + (("step",) if joined.ndim == 2 else ())
        data[name] = (dims, joined.reshape(batch.shape + joined.shape[1:]))
    data["status"].attrs.update(flag_values=[0, 1, 2], flag_meanings=" ".join(STATUS))
    data["final_sharpness"].attrs["units"] = "1/time"
    data = data.assign_coords(batch.coords)
    if stride is not None:
        data = data.assign_coords(step=np.arange(steps // stride + 1) * stride)
    if batch.dims == ("run",):
        shown = [c for c in program.constants if c != "rate"]
        data = data.assign_coords({c: ("run", batch.values[c]) for c in shown})
    return data


def status_names(data: xr.Dataset) -> np.ndarray:
    """Status of each run in words, shape of ``data.status``."""
    return np.array(STATUS)[data.status.values]


def simulate_gd(
    state: ReducedState,
    beta: ArrayLike,
    alpha: ArrayLike,
    lr: ArrayLike,
    steps: int,
    *,
    stride: int | None = 1,
    noise_floor: float = 0.0,
) -> xr.Dataset:
    r"""Gradient descent on the two-layer model: :func:`simulate` with its arguments by position.

    Args:
        state: Start; its entries, ``beta``, ``alpha`` and ``lr`` broadcast to the runs.
        beta: $\|\beta\|$.
        alpha: Opposing variance α.
        lr: Step size η.
        steps: Updates to make.
        stride: Keep every so manieth step of the trajectories; None keeps summaries only.
        noise_floor: Least |u|; 0 is exact arithmetic.
    """
    return simulate(
        two_layer(),
        GD(),
        lr,
        steps,
        start=state,
        parameters={"beta": beta, "alpha": alpha},
        stride=stride,
        noise_floor=noise_floor,
    )
