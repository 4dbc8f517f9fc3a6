"""Signals found from the k largest moves of every step, against those from the losses of all examples.

One run on 1,000 CIFAR-10 images at the edge of stability (without ``OPPOSING_DATA``: on 1,000 planted images), recorded
in full; its k largest moves are taken from that record, as ``--record-losses top_k`` does while it trains.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from rows import row, write

from analysis.detection import detect_in_losses
from analysis.moves import detect_in_moves
from analysis.timeline import find_signals
from nets.config import TrainConfig
from nets.recorded_losses import known_losses, loss_row
from nets.run import Run, create_run

IMAGES = {"data": "cifar10"} if os.environ.get("OPPOSING_DATA") else {"data": "planted"}
NETWORK = {"widths": (200, 200), "activation": "relu", "loss": "cross_entropy", "lr": 0.05, "max_products": 8}


def main() -> None:
    """Print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=330)
    parser.add_argument("--k", type=int, nargs="+", default=(20, 50, 100, 250, 500))
    args = parser.parse_args()
    config = TrainConfig(**IMAGES, **NETWORK, steps=args.steps, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        create_run(Path(folder) / "run", config)
        run = Run.open(Path(folder) / "run")
        run.advance()
        history = run.history()
    losses = history["example_loss"].values
    rows: list[dict] = []

    def add(case: str, metric: str, value: float, baseline: float | None = None) -> None:
        print(f"{case:<22}{metric:<52}{value:.4g}" + ("" if baseline is None else f"   (all losses: {baseline:.4g})"))
        about = {"baseline": "" if baseline is None else "all losses", "baseline_value": baseline}
        rows.append(row("moves", f"{config.data}, {case}", metric, value, "1", packages=("torch", "numpy"), **about))

    full = find_signals(losses, outliers=False)
    windows = [(s, s + full.window - 1) for s in range(full.first_step, args.steps - full.window + 1, full.hop)]
    for k in args.k:
        kept = config.to_dict() | {"record_losses": "top_k", "record_k": k}
        moves = known_losses(TrainConfig.from_dict(kept), recorded(history, TrainConfig.from_dict(kept)))
        found = find_signals(moves, outliers=False)
        case = f"k = {k}"
        add(case, "examples followed through a window, median", found.examples, full.examples)
        add(case, "signals", len(found.signals), len(full.signals))
        for name, signal in zip("ABC", sorted(full.signals, key=lambda s: -s.windows), strict=False):
            other = max(found.signals, key=lambda s: abs(s.pair.weights @ signal.pair.weights), default=None)
            if other is None:
                add(case, f"signal {name}: members", 0, len(signal.pair.members))
                continue
            add(case, f"signal {name}: first step", other.begin, signal.begin)
            add(case, f"signal {name}: last step", other.end, signal.end)
            add(case, f"signal {name}: members at its peak", len(other.pair.members), len(signal.pair.members))
        right = wrong = all_members = alone = missed = 0
        for first, last in windows:
            one = detect_in_losses(losses[first : last + 1], first).significant(full.level, outliers=False)
            two = detect_in_moves(moves, first, last)[0].significant(full.level, outliers=False)
            members, others = (set(found[0].members) if found else set() for found in (one, two))
            all_members += len(members)
            right += len(members & others)
            wrong += len(others - members)
            alone += bool(two) and not one
            missed += bool(one) and not two
        add(case, "members of the strongest pair, all windows", right, all_members)
        add(case, "members that it has not", wrong)
        add(case, "windows with a pair in the moves alone", alone, len(windows))
        add(case, "windows with a pair in all losses alone", missed, len(windows))
    write("moves", rows)


def recorded(history, config: TrainConfig):
    """The record of the same run with other losses kept."""
    losses = history["example_loss"].values
    before = [torch.empty(0), *map(torch.from_numpy, losses[:-1].copy())]
    kept = [loss_row(config, now, last) for now, last in zip(losses, before, strict=True)]
    dims = {"top_example": "rank", "top_loss": "rank", "top_loss_before": "rank"}
    arrays = {n: (("step", dims.get(n, "quantile")), np.array([r[n] for r in kept])) for n in kept[0]}
    return history.drop_vars("example_loss").assign(arrays)


if __name__ == "__main__":
    main()
