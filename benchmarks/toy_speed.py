"""Gradient steps per second of the two-layer model: generated kernels against NumPy, JAX and torch.compile.

All contenders make the same updates (c, b_par, b_perp, u; float64) from the same starts and are checked against each
other before they are timed. Rounds are interleaved in one process; medians. ``--device cuda`` times the CUDA kernel.
JAX and a C++ compiler (for torch.compile) are used where they are installed; what was absent is said and recorded.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rows import row, write

from toymodels.codegen import generate
from toymodels.kernels import RESULTS, cuda_source, load, numba_source, run_tiles
from toymodels.optimizers import GD
from toymodels.symbolic import two_layer

REPEATS = 7
STEPS = 1024
BETA = 1.0


def starts(lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """State (4, lanes) and constants (beta, alpha, lr): runs that stay normal numbers for the steps timed."""
    rng = np.random.default_rng(0)
    state = np.stack(
        [rng.uniform(0.6, 0.9, lanes), rng.uniform(0.1, 0.5, lanes), np.full(lanes, 0.2), np.full(lanes, 0.01)]
    )
    alpha = rng.uniform(50, 100, lanes)
    return state, np.stack([np.full(lanes, BETA), alpha, rng.uniform(0.1, 0.3, lanes) / alpha])


def numpy_steps(state: np.ndarray, constants: np.ndarray, steps: int) -> np.ndarray:
    """NumPy at its best: in-place operations on preallocated buffers, nothing computed twice."""
    c, b, p, u = (row.copy() for row in state)
    beta, alpha, lr = constants
    r, t, g, q = (np.empty_like(c) for _ in range(4))
    for _ in range(steps):
        np.multiply(c, b, out=r)
        np.subtract(beta, r, out=r)
        np.multiply(u, u, out=t)
        np.multiply(t, alpha, out=t)
        np.multiply(p, p, out=g)
        np.add(g, t, out=g)
        np.multiply(g, c, out=g)
        np.multiply(b, r, out=t)
        np.subtract(t, g, out=g)  # minus the gradient of c
        np.multiply(lr, c, out=t)
        np.multiply(t, r, out=r)
        np.add(b, r, out=b)
        np.multiply(t, c, out=t)
        np.multiply(t, p, out=q)
        np.subtract(p, q, out=p)
        np.multiply(t, alpha, out=t)
        np.multiply(t, u, out=t)
        np.subtract(u, t, out=u)
        np.multiply(g, lr, out=g)
        np.add(c, g, out=c)
    return np.stack([c, b, p, u])


def generated(scaled: bool, events: bool) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    """The generated CPU kernel on all threads."""
    program = generate(two_layer(), GD(), scaled=scaled)
    kernel = load(numba_source(program, events=events, exits=False))
    n_groups = len(program.groups)

    def run(state, constants, steps):
        lanes = state.shape[1]
        fixed = np.concatenate([constants, constants[2:], np.zeros((1, lanes))])
        result = np.empty((len(RESULTS) + 4 + 2 * n_groups, lanes))
        run_tiles(kernel, lanes, state, fixed, result, np.empty((0, 6, 0)), steps, steps, False, 0.0)
        final = result[len(RESULTS) : len(RESULTS) + 4].copy()
        for i, group in enumerate(program.groups):
            row = program.weights.index(group.weight)
            final[row] = np.ldexp(final[row], result[len(RESULTS) + 4 + i].astype(np.int32))
        return final

    return run


def jax_steps() -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    """jit of lax.scan over steps of a vmapped step, float64."""
    import jax  # pyright: ignore[reportMissingImports]

    jax.config.update("jax_enable_x64", True)
    from functools import partial

    def step(w, k):
        c, b, p, u = w
        beta, alpha, lr = k
        r = beta - c * b
        return (
            c + lr * (b * r - c * (p * p + alpha * u * u)),
            b + lr * c * r,
            p - lr * c * c * p,
            u - lr * alpha * c * c * u,
        )

    @partial(jax.jit, static_argnums=2)
    def many(state, constants, steps):
        batched = jax.vmap(step)
        rows, fixed = tuple(state), tuple(constants)
        out, _ = jax.lax.scan(lambda w, _: (batched(w, fixed), None), rows, None, length=steps, unroll=8)
        return jax.numpy.stack(out)

    return lambda state, constants, steps: np.asarray(many(state, constants, steps).block_until_ready())


def torch_steps() -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    """torch.compile of sixteen steps, called in a loop."""
    import torch

    def sixteen(c, b, p, u, beta, alpha, lr):
        for _ in range(16):
            r = beta - c * b
            g = b * r - c * (p * p + alpha * u * u)
            lc = lr * c * c
            c, b, p, u = c + lr * g, b + lr * c * r, p - lc * p, u - alpha * lc * u
        return c, b, p, u

    compiled: Any = torch.compile(sixteen)

    def run(state, constants, steps):
        w = tuple(torch.from_numpy(row.copy()) for row in state)
        k = tuple(torch.from_numpy(row) for row in constants)
        with torch.no_grad():
            for _ in range(steps // 16):
                w = compiled(*w, *k)
        return np.stack([v.numpy() for v in w])

    return run


def timed(run: Callable[..., Any], lanes: int, total: float) -> float:
    """Steps per second over about ``total`` steps, ``STEPS`` a call: u stays a normal number that long."""
    state, constants = starts(lanes)
    calls = max(1, round(total / lanes / STEPS))
    begin = time.perf_counter()
    for _ in range(calls):
        run(state, constants, STEPS)
    return calls * lanes * STEPS / (time.perf_counter() - begin)


def best_batch(run: Callable[..., Any], sizes: tuple[int, ...]) -> int:
    """The number of lanes at which a contender is fastest."""
    for lanes in sizes:
        run(*starts(lanes), STEPS)  # compiles for the shape
    speed = {lanes: max(timed(run, lanes, 1e8) for _ in range(2)) for lanes in sizes}
    return max(speed, key=lambda lanes: speed[lanes])


def contenders() -> tuple[dict[str, Callable[..., Any]], list[str]]:
    """What can run here, and what is absent."""
    found: dict[str, Callable[..., Any]] = {
        "numpy": numpy_steps,
        "generated, plain": generated(False, False),
        "generated, underflow-proof": generated(True, False),
        "generated, underflow-proof, with onset, spike and peak": generated(True, True),
    }
    absent = []
    state, constants = starts(64)
    for name, make in (("jax scan + vmap", jax_steps), ("torch.compile", torch_steps)):
        try:
            run = make()
            run(state, constants, 64)
            found[name] = run
        except Exception as error:  # an absent package or compiler is a result here
            absent.append(f"{name}: {type(error).__name__}")
    return found, absent


PACKAGES = ("numpy", "numba", "jax", "torch")
BASELINE = "numpy at its best batch size"


def cpu() -> list[dict[str, Any]]:
    """Interleaved rounds of every contender at its own best batch size."""
    found, absent = contenders()
    state, constants = starts(256)
    reference = numpy_steps(state, constants, 64)
    for name, run in found.items():
        np.testing.assert_allclose(run(state, constants, 64), reference, rtol=1e-12, err_msg=name)
    sizes = {name: best_batch(run, (1024, 4096, 16384, 131072)) for name, run in found.items()}
    speeds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(REPEATS):
        for name, run in found.items():
            speeds[name].append(timed(run, sizes[name], 2e8 if name == "numpy" else 1e9))
    medians = {name: float(np.median(v)) for name, v in speeds.items()}
    # the ratio of each round, not of medians: the machine's speed drifts
    ratios = {name: float(np.median(np.array(v) / np.array(speeds["numpy"]))) for name, v in speeds.items()}
    rows = []
    for name, value in medians.items():
        about: dict[str, Any] = {"baseline": BASELINE, "baseline_value": medians["numpy"], "ratio": ratios[name]}
        case = f"{name}, {sizes[name]} runs"
        rows.append(row("toy_speed", case, "gradient steps per second", value, "1/s", packages=PACKAGES, **about))
        print(f"{name:<56}{sizes[name]:>8} runs {value:10.3g} steps/s {ratios[name]:8.1f} x numpy")
    for name in absent:
        print(f"absent: {name}")
        rows.append(row("toy_speed", name, "absent", None, "", packages=PACKAGES))
    return rows


def cuda(lanes: int, steps: int) -> list[dict[str, Any]]:
    """The CUDA kernels, with the share of the float64 roofline."""
    from numba import cuda as device_module

    device = device_module.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
    rows = []
    for scaled, events in ((False, False), (True, False), (True, True)):
        program = generate(two_layer(), GD(), scaled=scaled)
        kernel: Any = load(cuda_source(program, events=events))
        state, constants = starts(lanes)
        fixed = np.concatenate([constants, constants[2:], np.zeros((1, lanes))])
        sent = [device_module.to_device(a) for a in (state, fixed)]
        result = device_module.device_array((len(RESULTS) + 4 + 2 * len(program.groups), lanes))
        empty = device_module.device_array((1, 1, 1))
        speeds = []
        for _ in range(REPEATS + 1):
            device_module.synchronize()
            begin = time.perf_counter()
            kernel[(lanes + 127) // 128, 128](*sent, result, empty, steps, steps, False, 0.0)
            device_module.synchronize()
            speeds.append(lanes * steps / (time.perf_counter() - begin))
        value = float(np.median(speeds[1:]))
        operations = sum(line.count("*") + line.count("+") + line.count(" - ") for line in program.step)
        case = f"CUDA, {'underflow-proof' if scaled else 'plain'}{', with events' if events else ''}"
        cores = device.MULTIPROCESSOR_COUNT * 64  # float64 units of a Hopper multiprocessor
        peak = cores * 1e3 * device.CLOCK_RATE
        where: dict[str, Any] = {"device": name, "packages": PACKAGES}
        rows.append(row("toy_speed", case, "gradient steps per second", value, "1/s", **where))
        rows.append(row("toy_speed", case, "share of float64 issue slots", value * operations / peak, "1", **where))
        print(
            f"{case:<40}{value:10.3g} steps/s, {operations} operations a step, {value * operations / peak:.2f} of peak"
        )
    return rows


def main() -> None:
    """Print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--lanes", type=int, default=1 << 22)
    parser.add_argument("--steps", type=int, default=20_000)
    options = parser.parse_args()
    rows = cpu() if options.device == "cpu" else cuda(options.lanes, options.steps)
    write("toy_speed" if options.device == "cpu" else "toy_speed_cuda", rows)


if __name__ == "__main__":
    main()
