"""The two-layer model's forecast from its start, against simulation, over random starts that reach the edge.

The rules of the draws were fixed before any error was looked at, and none is left out by its error: alpha log-uniform
in 30..1000, beta log-uniform in 0.5..5, c 0.3..1.5, b_par -0.2..1, u log-uniform in 0.01..0.1, b_perp 0 or 0.1..0.8,
lr 1.1..1.8 times the largest stable one; kept if the limit of the flow lies beyond the edge and lr alpha c0^2 < 1.5.
An event that is simulated but not forecast, or the reverse, counts as an infinite error. Baseline: the exact flow with
log|u| summed along it, that is the expansion's order 0.
"""

import time

import numpy as np
from rows import row, write

from toymodels import DescentForecast, ReducedState, forecast_descent, limit_c2, limit_sharpness, simulate_gd
from toymodels.descent_path import descent_path, most_steps
from toymodels.forecast import onset_and_spike

DRAWS, STEPS, SEED = 500, 60_000, 4242
CASES = {"b_perp = 0": (0.0, 0.0), "b_perp in 0.1..0.8": (0.1, 0.8)}
STATISTICS = (("median", 0.5), ("95th percentile", 0.95), ("worst", 1.0))


def draw(rng: np.random.Generator, b_perp: tuple[float, float]) -> tuple[float, ...]:
    """c, b_par, b_perp, u, beta, alpha, lr of one draw."""
    while True:
        alpha, beta = np.exp(rng.uniform(np.log([30, 0.5]), np.log([1000, 5])))
        c, b, u = rng.uniform(0.3, 1.5), rng.uniform(-0.2, 1.0), np.exp(rng.uniform(np.log(0.01), np.log(0.1)))
        p = rng.uniform(*b_perp)
        lr = 2 / float(limit_sharpness(c, b, beta, alpha, p, u)) * rng.uniform(1.1, 1.8)
        if lr * alpha * c**2 < 1.5 and lr * alpha * float(limit_c2(c, b, beta, p, u)) > 2:
            return c, b, p, u, beta, alpha, lr


def by_flow(one: np.ndarray) -> tuple[int | None, int | None]:
    """Onset and spike by the flow alone, in stretches of doubling length."""
    state, (beta, alpha, lr) = ReducedState(*one[:3]), one[4:]
    most = min(STEPS, most_steps(state, beta, lr))
    steps = 256
    while True:
        steps = min(2 * steps, most)
        path = descent_path(state, beta, alpha, lr, steps, log_u=float(np.log(one[3])), order=0)
        onset, spike = onset_and_spike(path, alpha, None)
        if spike is not None or steps == most:
            return onset, spike


def relative(told: list, seen: np.ndarray) -> np.ndarray:
    """Errors as shares of the elapsed steps."""
    none = [
        (0.0 if s < 0 else np.inf) if t is None else (abs(t - s) / s if s > 0 else np.inf)
        for t, s in zip(told, seen, strict=True)
    ]
    return np.array(none)


def case(b_perp: tuple[float, float]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Errors by name, and shares and times of the case."""
    rng = np.random.default_rng(SEED)
    draws = np.array([draw(rng, b_perp) for _ in range(DRAWS)])
    c, b, p, u, beta, alpha, lr = draws.T
    told: dict[int, list[DescentForecast]] = {}
    began = time.perf_counter()
    for order in (2, 1):
        told[order] = [forecast_descent(ReducedState(*d[:4]), *d[4:], horizon=STEPS, order=order) for d in draws]
        if order == 2:
            seconds = time.perf_counter() - began
    flow = [by_flow(d) for d in draws]
    run = simulate_gd(ReducedState(c, b, p, u), beta, alpha, lr, STEPS, stride=STEPS)
    onset, spike, peak = (run[f"{name}_step"].values for name in ("onset", "spike", "peak"))
    errors: dict[str, np.ndarray] = {}
    for label, chosen in (("", told[2]), (", order 1", told[1])):
        errors[f"onset{label}"] = relative([f.onset_step for f in chosen], onset)
        errors[f"spike{label}"] = relative([f.spike_step for f in chosen], spike)
        errors[f"peak step{label}"] = relative([f.peak_step for f in chosen], peak)
        height = np.abs(np.expm1(np.array([f.peak_log_u for f in chosen]) - run.peak_log_abs_u.values))
        errors[f"peak |u|{label}"] = np.where(np.isnan(height), np.inf, height)
    errors["onset, flow alone"] = relative([o for o, _ in flow], onset)
    errors["spike, flow alone"] = relative([s for _, s in flow], spike)
    worst = int(np.argmax(errors["spike"]))
    print(f"worst spike: {dict(zip(['c', 'b', 'p', 'u', 'beta', 'alpha', 'lr'], draws[worst].round(4), strict=True))}")
    print(f"  forecast {told[2][worst]}, simulated {onset[worst]}, {spike[worst]}, {peak[worst]}")
    shares = {
        "share of draws without a simulated spike": float(np.mean(spike < 0)),
        "share of draws without a forecast spike": float(np.mean([f.spike_step is None for f in told[2]])),
        "share of draws forecast in closed form, flag set": float(np.mean([f.closed_form for f in told[2]])),
        "seconds per forecast": seconds / DRAWS,
    }
    return errors, shares


def main() -> None:
    """Print and write the rows."""
    results = {name: case(b_perp) for name, b_perp in CASES.items()}
    both = [errors for errors, _ in results.values()]
    together = {name: np.concatenate([errors[name] for errors in both]) for name in both[0]}
    shares = {name: float(np.mean([s[name] for _, s in results.values()])) for name in next(iter(results.values()))[1]}
    results["together"] = together, shares
    rows = []
    for name, (errors, shares) in results.items():
        values = dict(shares)
        for quantity, found in errors.items():
            values[f"{quantity}: share exact"] = float(np.mean(found == 0))
            for statistic, q in STATISTICS:
                # no interpolation: an event that was not forecast is infinitely wrong
                values[f"{quantity}: {statistic} relative error"] = float(np.sort(found)[int(q * (len(found) - 1))])
        for metric, value in values.items():
            print(f"{name:<20}{metric:<56}{value:.4g}")
            unit = "s" if metric.startswith("seconds") else "1"
            rows.append(row("toy_forecast", name, metric, value if np.isfinite(value) else None, unit))
    write("toy_forecast", rows)


if __name__ == "__main__":
    main()
