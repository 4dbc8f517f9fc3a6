"""Runs killed with SIGKILL at random moments and resumed, every optimizer on two networks: which files differ after.

Each run is advanced to its end once undisturbed and once through all kills (``tests/nets/kill_harness.py``: a third
of the kills while it opens and loads, a third while it steps, a third inside a commit); all result files are then
compared byte by byte. The default is 108 kills.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rows import row, write

from nets.options import OPTIMIZERS

HARNESS = Path(__file__).parents[1] / "tests" / "nets" / "kill_harness.py"
NETWORKS = ("mlp", "vit")
PACKAGES = ("torch", "numpy", "zarr", "safetensors")


def killed(run: str, steps: int, kills: int, seed: int) -> dict:
    """The harness's report on one run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        out = subprocess.run(
            [sys.executable, str(HARNESS), folder, str(steps), str(kills), str(seed), run],
            capture_output=True,
            text=True,
            env=environment,
        )
    if out.returncode:
        raise SystemExit(f"{run} failed:\n{out.stderr}")
    return json.loads(out.stdout.splitlines()[-1])


def main() -> None:
    """Print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=6, help="per run")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows: list[dict] = []
    total = {"kills": 0, "runs": 0, "runs identical": 0}
    for optimizer in OPTIMIZERS:
        for network in NETWORKS:
            report = killed(f"{optimizer}-{network}", args.steps, args.kills, args.seed + total["runs"])
            case = f"{optimizer}, {network}, {args.steps} steps"
            kinds = ", ".join(f"{report[k]} {k}" for k in ("start", "step", "rename"))
            print(f"{case:<34}{report['kills']} kills ({kinds}), files that differ: {report['differ']}", flush=True)
            about = {"packages": PACKAGES}
            rows.append(row("kills", case, f"kills ({kinds})", report["kills"], "1", **about))
            rows.append(row("kills", case, "files compared", report["files"], "1", **about))
            rows.append(row("kills", case, "files that differ", len(report["differ"]), "1", **about))
            total["kills"] += report["kills"]
            total["runs"] += 1
            total["runs identical"] += not report["differ"]
    for metric, value in total.items():
        print(f"{metric:<34}{value}")
        rows.append(row("kills", "all", metric, value, "1", packages=PACKAGES))
    write("kills", rows)


if __name__ == "__main__":
    main()
