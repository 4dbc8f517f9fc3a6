"""Kill a run again and again with SIGKILL and resume it: `python kill_harness.py FOLDER STEPS KILLS SEED RUN`.

A process of its own, which imports everything once and computes nothing itself (no threads yet), so that
each victim is a cheap fork. Kinds of kill, in turn:
  start   a random time after the fork: while opening, loading or stepping;
  step    a random time after the victim's first recorded step;
  rename  by the victim itself, just before or just after the k-th file it puts in place: inside a commit.
Prints one JSON line about what happened; the run is advanced to its end in a last fork.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import sklearn.datasets
import torch

from nets.config import TrainConfig
from nets.run import Run, create_run

torch.set_num_threads(1)
KINDS = ("start", "step", "rename")
RUNS = {
    "gd": {"widths": (8,), "lr": 0.1},
    "adam": {"widths": (8,), "lr": 0.003, "optimizer": "adam", "batch_size": 16, "model_options": ("norm=batch",)},
    "split_sgd": {
        "lr": 0.02,
        "optimizer": "split_sgd",
        "optimizer_options": ("threshold=0.02",),
        "batch_size": 16,
        "model": "vit",
        "model_options": ("width=8", "depth=1", "heads=2"),
    },
    "momentum": {
        "lr": 0.02,
        "optimizer": "heavy_ball",
        "model": "vit",
        "model_options": ("width=8", "depth=1", "heads=2"),
    },
}


def fork(task) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        task()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def die_at_rename(k: int, after: bool) -> None:
    """Make this process kill itself at the k-th os.replace from now."""
    real, count = os.replace, 0

    def replace(*args, **kwargs):
        nonlocal count
        count += 1
        if count == k and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args, **kwargs)
        if count == k:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace


def victim(directory: Path, pipe: int, rename: tuple[int, bool] | None) -> None:
    if rename:
        die_at_rename(*rename)
    told = False

    def tell(_):
        nonlocal told
        if not told:
            os.write(pipe, b"x")
            told = True

    Run.open(directory).advance(on_step=tell)


def kill_once(directory: Path, kind: str, rng: random.Random) -> bool:
    """One victim; whether the kill came before the victim's end."""
    read, write = os.pipe()
    rename = (rng.randrange(1, 40), rng.random() < 0.5) if kind == "rename" else None
    pid = fork(lambda: victim(directory, write, rename))
    os.close(write)
    if kind != "rename":
        if kind == "step":
            os.read(read, 1)
        time.sleep(rng.uniform(0, 0.5 if kind == "start" else 0.3))
        os.kill(pid, signal.SIGKILL)
    os.close(read)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a victim failed by itself; its traceback is above")
    return os.WIFSIGNALED(status)


def finish(directory: Path) -> None:
    _, status = os.waitpid(fork(lambda: Run.open(directory).advance()), 0)
    if status:
        raise SystemExit("the last resume failed; its traceback is above")


def main() -> None:
    folder, steps, kills, seed = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    sklearn.datasets.load_digits()
    options = {"n_examples": 40, "steps": steps, "checkpoint_every": 7, "threads": 1, "dtype": "float32"}
    config = TrainConfig(**options, **RUNS[sys.argv[5]])
    for name in ("whole", "killed"):
        os.waitpid(fork(lambda name=name: create_run(folder / name, config)), 0)
    finish(folder / "whole")
    rng = random.Random(seed)
    done = dict.fromkeys(KINDS, 0)
    attempts = 0
    while sum(done.values()) < kills and attempts < 2 * kills:
        kind = KINDS[attempts % 3]
        attempts += 1
        done[kind] += kill_once(folder / "killed", kind, rng)
    rows = Run.open(folder / "killed").rows
    finish(folder / "killed")
    print(json.dumps({"kills": sum(done.values()), **done, "attempts": attempts, "rows": rows}))


if __name__ == "__main__":
    main()
