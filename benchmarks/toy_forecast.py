"""The two-layer model's forecast from its start, against simulation, over random starts that reach the edge.

A draw whose spike is simulated but not forecast counts as an infinite error; nothing else is left out.
"""

import datetime
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np

from toymodels import ReducedState, forecast_descent, limit_sharpness, simulate_gd

DRAWS, STEPS = 200, 60_000
RESULT = Path(__file__).parent / "results" / "toy_forecast.json"


def errors(with_b_perp: bool) -> tuple[np.ndarray, float]:
    """Relative errors of onset and spike, shape (draws, 2), and the share of draws whose layer ended."""
    rng = np.random.default_rng(2026)
    found, ended = [], 0
    while len(found) < DRAWS:
        alpha, beta = np.exp(rng.uniform(np.log([30, 0.5]), np.log([1000, 5])))
        c0, b0, u0 = rng.uniform(0.3, 1.5), rng.uniform(-0.2, 1.0), rng.choice([0.01, 0.1])
        lr = 2 / float(limit_sharpness(c0, b0, beta, alpha)) * rng.uniform(1.1, 1.8)
        state = ReducedState(c0, b0, rng.uniform(0.1, 0.8) if with_b_perp else 0.0, u0)
        if lr * alpha * c0**2 > 1.5:
            continue
        run = simulate_gd(state, beta, alpha, lr, STEPS, stride=STEPS).isel(run=0)
        if int(run.spike_step) < 0:
            continue  # no spike to forecast
        forecast = forecast_descent(state, beta, alpha, lr)
        ended += forecast.layer_ended
        pairs = ((forecast.onset_step, int(run.onset_step)), (forecast.spike_step, int(run.spike_step)))
        found.append([np.inf if f is None else abs(f - seen) / seen for f, seen in pairs])
    return np.array(found), ended / DRAWS


def main() -> None:
    """Print and write the rows."""
    rows = []
    for case, with_b_perp in (("b_perp = 0", False), ("b_perp in 0.1..0.8", True)):
        found, ended = errors(with_b_perp)
        values = {"share of draws whose layer ends before the edge": ended}
        for i, name in enumerate(("onset", "spike")):
            values[f"{name}: share not forecast"] = float(np.mean(np.isinf(found[:, i])))
            for statistic, q in (("median", 0.5), ("95th percentile", 0.95), ("worst", 1.0)):
                # no interpolation: a draw that was not forecast is infinitely wrong
                values[f"{name}: {statistic} relative error"] = float(np.sort(found[:, i])[int(q * (DRAWS - 1))])
        for metric, value in values.items():
            print(f"{case:<20}{metric:<52}{value:.4g}")
            rows.append(
                {
                    "bench": "toy_forecast",
                    "case": case,
                    "metric": metric,
                    "value": value if np.isfinite(value) else None,
                    "unit": "1",
                    "baseline": "",
                    "baseline_value": None,
                    "ratio": None,
                    "device": f"cpu, {platform.machine()}, {os.cpu_count()} cores",
                    "versions": {p: version(p) for p in ("numpy", "numba", "scipy")},
                    "command": "python benchmarks/toy_forecast.py",
                    "date": datetime.date.today().isoformat(),
                }
            )
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
