"""What the theory of the two-layer model states as measured, not proved, measured anew.

Starts outside the invariant ellipsoid (do they all diverge?), the closed form of the spike's peak (how far off is it?),
and several opposing signals (does the order in which they come back ever differ from the order of onsets?).
"""

import numpy as np
from rows import row, write

from toymodels import ReducedState, limit_sharpness, simulate, simulate_gd
from toymodels.depth import signal_order
from toymodels.edge import peak_log_u
from toymodels.gd_dynamics import boundary_level
from toymodels.symbolic import two_layer

STARTS, FLOWS, RUNS = 200_000, 6_000, 400


def outside_the_ellipsoid() -> dict[str, float]:
    """Starts with u = 0 and 4 < Q < 16 that gradient descent has not lost after 5,000 steps."""
    rng = np.random.default_rng(1)
    kept = total = 0
    for g in (0.05, 0.3, 0.8, 1.2, 1.6, 1.95):  # lr * beta; lengths scale with 1/sqrt(lr)
        c, b, p = rng.uniform(-4, 4, (3, STARTS)) / np.sqrt(g)
        level = boundary_level(c, b, np.abs(p), g, 1.0)
        chosen = (level > 4) & (level < 16)
        start = ReducedState(c[chosen], b[chosen], np.abs(p[chosen]), 0.0)
        run = simulate(two_layer(), "gd", g, 5000, start=start, parameters={"beta": 1.0, "alpha": 2.0}, stride=None)
        kept += int((run.status != 2).sum())
        total += int(chosen.sum())
    return {"starts outside": total, "of them not diverged": kept}


def peak_formula() -> dict[str, float]:
    """|u| at the peak by the formula with constant drift, over the simulated one: from onset, and from spike begin."""
    rng = np.random.default_rng(2)
    ratios: dict[str, list[float]] = {"onset": [], "spike": []}
    for _ in range(RUNS):
        alpha, c0, b0 = np.exp(rng.uniform(np.log(30), np.log(1000))), rng.uniform(0.3, 1.0), rng.uniform(0.0, 0.5)
        lr = 2 / float(limit_sharpness(c0, b0, 1.0, alpha)) * rng.uniform(1.1, 1.8)
        if lr * alpha * c0**2 > 1.5:
            continue
        run = simulate_gd(ReducedState(c0, b0, 0.0, 1e-3), 1.0, alpha, lr, 30_000).isel(run=0)
        if int(run.peak_step) < 0:
            continue
        for name in ratios:
            at = run.isel(step=int(run[f"{name}_step"]))
            drift = float(at.b_par * (1 - at.c * at.b_par) / at.c)
            told = float(peak_log_u(float(at.log_abs_u), float(at.stability), drift, alpha, lr))
            ratios[name].append(float(np.exp(told - float(run.peak_log_abs_u))))
    found = {}
    for name, values in ratios.items():
        for label, q in (("5th percentile", 0.05), ("median", 0.5), ("95th percentile", 0.95)):
            found[f"peak |u|, formula from {name} over simulated, {label}"] = float(np.quantile(values, q))
    return {"runs with a peak": len(ratios["onset"]), **found}


def orders() -> dict[str, float]:
    """Flows in which the order of exits differs from that of onsets, all signals having shrunk from one magnitude."""
    rng = np.random.default_rng(3)
    differ = compared = 0
    for _ in range(FLOWS):
        alphas = np.exp(rng.uniform(np.log(20), np.log(500), 3))
        c0, b0, beta = rng.uniform(0.2, 1.0), rng.uniform(0.0, 1.0), rng.uniform(0.5, 3)
        lr = 2 / float(limit_sharpness(c0, b0, beta, alphas.min())) * rng.uniform(1.05, 2)
        if lr * alphas.max() * c0**2 > 1.9:
            continue
        order = signal_order(c0, b0, beta, alphas, lr)
        both = [k for k in order.onset_order if k in order.exit_order]
        compared += len(both) > 1
        differ += both != [k for k in order.exit_order if k in both]
    return {"flows with two signals or more that come back": compared, "of them with another order": differ}


def main() -> None:
    """Print and write the rows."""
    rows = []
    cases = {"ellipsoid": outside_the_ellipsoid, "peak of the spike": peak_formula, "several signals": orders}
    for case, measure in cases.items():
        for metric, value in measure().items():
            print(f"{case:<20}{metric:<66}{value:.4g}")
            rows.append(row("toy_limits", case, metric, value, "1"))
    write("toy_limits", rows)


if __name__ == "__main__":
    main()
