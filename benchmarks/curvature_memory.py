"""Peak memory of a step that tracks the sharpness, against a plain training step with the same chunk size.

Every way runs in a process of its own; what counts is how far the peak of the resident memory rises above what the
process holds once data and network are loaded. ``--scale 1`` is the full size.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from curvature_cases import CASES
from rows import row, write

from analysis.curvature import CurvatureTracker, LossCurvature

EXAMPLES = {"A": (5000, 500), "B": (1000, 100), "C": (512, 64)}  # examples, chunk
WAYS = {
    "plain step": None,
    "tracked, graphs rebuilt": {"keep": False},
    "tracked, graphs kept": {"keep": True},
    "tracked, graphs rebuilt, 20 vectors": {"keep": False, "capacity": 20},
}
STEPS = 4


def peak(*, reset: bool = False) -> float:
    """Peak resident memory of this process since the last reset, in MB (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def one(case_name: str, way: str, scale: float) -> None:
    """Run one way and print the rise of the peak, in MB."""
    torch.set_num_threads(1)
    n, chunk = (max(10, int(m * scale)) for m in EXAMPLES[case_name])
    case, options = CASES[case_name](n), WAYS[way]
    curvature = LossCurvature(
        case.module, case.loss, case.inputs, case.targets, chunk_size=chunk, keep=(options or {}).get("keep", False)
    )
    tracker = CurvatureTracker(1, tol=1e-3, capacity=(options or {}).get("capacity"))
    sample = curvature.sample(max(1, n // 10))
    theta, before = curvature.point(), peak(reset=True)
    for _ in range(STEPS):
        if options is None:
            for x, y in curvature.chunks:
                (case.loss(case.module(x), y).sum() / n).backward()
            with torch.no_grad():
                for p in curvature.params:
                    p.sub_(1e-3 * p.grad)
                    p.grad = None
        else:
            _, gradient, matvec = curvature.linearise(theta)
            tracker.measure(matvec, torch.zeros_like(theta), sample.linearise(theta)[2])
            theta = theta - 1e-3 * gradient
    print(json.dumps({"rise": peak() - before, "before": before, "vector": 4e-6 * curvature.size}))


def main() -> None:
    """Print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--cases", default="ABC")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "WAY"))
    args = parser.parse_args()
    if args.one:
        one(*args.one, args.scale)
        return
    for name in args.cases:
        rows, found = [], {}
        for way in WAYS:
            command = [sys.executable, __file__, "--scale", str(args.scale), "--one", name, way]
            found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        plain = found["plain step"]
        n, chunk = (max(10, int(m * args.scale)) for m in EXAMPLES[name])
        for way, numbers in found.items():
            case = f"{name}, {n} examples in chunks of {chunk}; {way}"
            whole = (numbers["before"] + numbers["rise"]) / (plain["before"] + plain["rise"])
            print(f"{case:<72}{numbers['rise']:>9.0f} MB, {whole:.2f} of the plain process")
            about: dict = {"packages": ("torch",), "baseline": "plain step"}
            rows.append(
                row(
                    "curvature_memory",
                    case,
                    "rise of the peak",
                    numbers["rise"],
                    "MB",
                    baseline_value=plain["rise"],
                    **about,
                )
            )
            rows.append(row("curvature_memory", case, "peak of the process over the plain one", whole, "1", **about))
        write("curvature_memory", rows, part=f"{name}, ")


if __name__ == "__main__":
    main()
