"""The main job over seeds that set no bar: every claim's score as one row.

python benchmarks/claims.py                     digits, seeds 5-9
python benchmarks/claims.py --cifar             CIFAR-10 where OPPOSING_DATA names the data, seeds 0-2
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rows import row, write

CIFAR = "--data cifar10 --widths 200 200 --activation relu --loss cross_entropy --lr 0.05 --steps 300 --eig-tol 0.02"
PACKAGES = ("torch", "numpy", "numba", "scipy", "sympy")


def main() -> None:
    """Run the jobs anew, then write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", action="store_true")
    parser.add_argument("--work", type=Path, help="new folder that keeps the runs; default: a temporary one")
    args = parser.parse_args()
    name, seeds, options = ("claims_cifar", (0, 1, 2), [*CIFAR.split(), "--threads", "2"])
    if not args.cifar:
        name, seeds, options = ("claims", (5, 6, 7, 8, 9), [])
    elif "OPPOSING_DATA" not in os.environ:
        raise SystemExit("--cifar needs OPPOSING_DATA, the folder that holds cifar10/; set it")
    if args.work is not None and args.work.exists():
        # a finished run there would be scored again, not made again by the code that stands here
        raise SystemExit(f"--work must be new, but {args.work} exists; name another folder")
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(name, seeds, options, args.work or Path(scratch))
    write(name, rows)


def measure(name: str, seeds: tuple[int, ...], options: list[str], work: Path) -> list[dict]:
    """Run the job of every seed; one row a claim."""
    rows = []
    for seed in seeds:
        out = work / f"{name}-{seed}"
        command = ["opposing", "reproduce", "--out", str(out), "--seed", str(seed), *options]
        subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=True)
        for claim in json.loads((out / "claims.json").read_text())["claims"]:
            value, base = claim["score"], claim["baseline_score"]
            bar = f"{'>=' if claim['better'] == 'higher' else '<='} {claim['bar']:g}"
            about: dict = {"baseline": claim["baseline"], "baseline_value": base, "packages": PACKAGES}
            made = row(name, f"seed {seed}", f"{claim['claim']} ({bar})", value, "1", **about)
            rows.append(made | {"verdict": claim["verdict"]})
    return rows


if __name__ == "__main__":
    main()
