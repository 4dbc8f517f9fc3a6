"""Time of a full-batch step with every example's loss recorded, against two other loops on the same work.

Ours is ``Run.advance`` itself, record and checkpoint on disk included, the sharpness switched off, with exact, fused
and compiled kernels, each held to the bars. The others take their steps inside its callback, one after the other, so
that all see the same machine; medians. "plain" is the fastest of four: PyTorch's own or our layers, compiled or not,
channels-last. "chunked" works as the edge-of-stability code of locuslab does: a loader, a forward pass of its own for
the losses, gradients accumulated over four chunks.

    python benchmarks/training.py --threads 2          # on a quiet machine
"""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rows import row, write
from training_peers import chunked_loop, native, plain_loop

from nets.config import TrainConfig
from nets.data import load_data
from nets.descent import Problem
from nets.run import Run, create_run

CLOCK = time.perf_counter
CHUNKS = 4
SAME = 20  # steps whose losses must agree
KERNELS = ("exact", "fused", "compiled")
COMMIT_EVERY = TrainConfig.checkpoint_every
IMAGES = (
    {"data": "cifar10"}
    if os.environ.get("OPPOSING_DATA")
    else {"data": "planted", "data_options": ("size=32", "channels=3")}
)
CASES: dict[str, dict] = {
    "mlp": {**IMAGES, "n_examples": 2000, "widths": (200, 200), "activation": "relu", "lr": 0.02},
    "vgg11": {**IMAGES, "n_examples": 128, "model": "vgg11", "model_options": ("width=0.5",), "lr": 0.02},
    "resnet18": {
        **IMAGES,
        "n_examples": 64,
        "model": "resnet18",
        "model_options": ("norm=group", "width=0.5"),
        "lr": 0.001,
    },
    "gpt": {
        "data": "text",
        "data_options": ("context=64",),
        "n_examples": 64,
        "model": "gpt",
        "model_options": ("width=128", "heads=4"),
        "lr": 0.02,
    },
}


@dataclass
class Timer:
    """Seconds of every call, and the last result."""

    step: object
    times: list[float]

    def __call__(self) -> np.ndarray:
        begin = CLOCK()
        result = self.step()  # type: ignore[operator]
        self.times.append(CLOCK() - begin)
        return result


def measure(config: TrainConfig, folder: Path) -> tuple[dict[str, list[float]], dict[str, list[np.ndarray]]]:
    """Seconds per step of every loop, and the losses they recorded."""
    problem = Problem(config, load_data(config))
    n = len(problem.inputs)
    about = (problem.loss, problem.inputs, problem.targets, config.lr)
    start = problem.module
    loops = {
        "plain, own layers": plain_loop(problem.new_module(), *about, compiled=False),
        "plain, own layers, compiled": plain_loop(problem.new_module(), *about, compiled=True),
        "plain, native layers": plain_loop(native(start), *about, compiled=False),
        "plain, native layers, compiled": plain_loop(native(start), *about, compiled=True),
        "chunked": chunked_loop(native(start), *about, chunk=-(-n // CHUNKS)),
    }
    timers = {name: Timer(loop, []) for name, loop in loops.items()}
    losses: dict[str, list[np.ndarray]] = {name: [] for name in loops}
    times: list[float] = []
    create_run(folder / "run", config)
    run = Run.open(folder / "run")
    begin = CLOCK()

    def others(_: object) -> None:
        nonlocal begin
        times.append(CLOCK() - begin)
        for name in np.roll(list(timers), len(times)):  # each in turn runs right before ours
            losses[name].append(timers[name]().copy())
        begin = CLOCK()

    run.advance(on_step=others)
    record = run.history()["example_loss"].values
    return {"ours": times, **{n: t.times for n, t in timers.items()}}, {"ours": list(record), **losses}


def typical(times: list[float]) -> float:
    """Median of the steps without the first two (compilation); ours with its share of a commit."""
    return float(np.median(times[2:]))


def with_commits(times: list[float]) -> float:
    """Median of the steps between commits, plus the median commit spread over the steps of a block."""
    later = np.array(times[2:])
    commits = np.arange(2, len(times)) % COMMIT_EVERY == 0
    quiet = float(np.median(later[~commits]))
    return quiet + (float(np.median(later[commits])) - quiet) / COMMIT_EVERY


def main() -> None:
    """Print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=102, help="two blocks of the record at least")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--ours", nargs="+", choices=KERNELS, default=KERNELS)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: where others use the machine")
    args = parser.parse_args()
    global CLOCK
    CLOCK = time.perf_counter if args.clock == "wall" else time.process_time
    for name in args.cases:
        rows: list[dict] = []
        for ours in args.ours:
            options = {"loss": "cross_entropy", "steps": args.steps, "eig_every": 0, "threads": args.threads}
            config = TrainConfig(**options, **CASES[name], kernels=ours)
            with tempfile.TemporaryDirectory() as folder:
                times, losses = measure(config, Path(folder))
            for other, values in losses.items():  # the same work: the same losses
                for a, b in zip(values[:SAME], losses["ours"], strict=False):
                    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3, err_msg=f"{name}: {other}")
            rows += report(f"{name}, {ours}, {args.threads} threads, {args.clock} time", times)
        write("training", rows, part=f"{name}, ")


def report(case: str, times: dict[str, list[float]]) -> list[dict]:
    """Rows of one network."""
    seconds = {name: with_commits(t) if name == "ours" else typical(t) for name, t in times.items()}
    best = min((n for n in seconds if n.startswith("plain")), key=lambda n: seconds[n])
    rows = []
    for name, value in seconds.items():
        print(f"{case:<42}{name:<34}{1e3 * value:9.2f} ms{seconds['ours'] / value:8.3f}", flush=True)
        rows.append(row("training", case, f"step, {name}", value, "s", packages=("torch", "numpy")))
    for metric, name, ratio, sign, bar in (
        ("ours / fastest plain", best, seconds["ours"] / seconds[best], "<=", 1.05),
        ("chunked / ours", "chunked", seconds["chunked"] / seconds["ours"], ">=", 1.5),
    ):
        holds = ratio <= bar if sign == "<=" else ratio >= bar
        print(f"{case:<42}{metric:<34}{ratio:9.3f}  bar {sign} {bar}: {'holds' if holds else 'missed'}", flush=True)
        about = {"baseline": name, "baseline_value": seconds[name], "ratio": ratio, "packages": ("torch", "numpy")}
        rows.append(row("training", case, f"{metric} (bar {sign} {bar})", seconds["ours"], "s", **about))
    return rows


if __name__ == "__main__":
    main()
