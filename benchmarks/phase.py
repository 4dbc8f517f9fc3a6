"""The phase diagram of ten million runs of ten thousand steps: wall time and peak memory.

Runs that no longer move by one bit are left early (their remaining steps change nothing), so the time is less than
1e11 steps take at the speed of ``toy_speed.py``; the share of runs that end so is recorded.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

from rows import row, write

from toymodels.phase import OUTCOMES, compute_phase, outcome
from toymodels.phase_config import PhaseConfig


def main() -> None:
    """Compute, print and write the rows."""
    config = PhaseConfig(lrs=4000, alphas=2500, steps=10_000)
    with tempfile.TemporaryDirectory() as scratch:
        begin = time.perf_counter()
        data = compute_phase(Path(scratch) / "phase.zarr", config)
        seconds = time.perf_counter() - begin
        code = outcome(data, config)
    # before the outcomes are counted nothing held all points at once: ru_maxrss is in KiB, on macOS in bytes
    unit = 1 if sys.platform == "darwin" else 1024
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    values = {
        "wall time": (seconds, "s"),
        "peak memory, outcomes counted": (memory, "B"),
        "runs times steps per second, runs at rest left early": (code.size * config.steps / seconds, "1/s"),
        **{f"share of runs: {text}": (float((code == i).mean()), "1") for i, text in enumerate(OUTCOMES)},
    }
    rows = []
    for metric, (value, label) in values.items():
        print(f"{metric:<60}{value:.4g} {label}")
        case = f"{code.size:.0e} runs of {config.steps:.0e} steps"
        rows.append(row("phase", case, metric, value, label, packages=("numpy", "numba", "zarr")))
    write("phase", rows)


if __name__ == "__main__":
    main()
