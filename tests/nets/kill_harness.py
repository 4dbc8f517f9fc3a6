"""Kill a run again and again with SIGKILL and resume it: `python kill_harness.py FOLDER STEPS KILLS SEED RUN`.

A process of its own, which imports everything once and computes nothing itself (no threads yet), so that
each victim is a cheap fork. Kinds of kill, in turn:
  start   a random time after the fork: while opening, loading or stepping;
  step    a random time after the victim's first recorded step;
  rename  by the victim itself, just before or just after the k-th file it puts in place: inside a commit.
Prints one JSON line about what happened, with the names of the files that differ from those of a run left alone; the
run is advanced to its end in a last fork.
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
from small_runs import contents

from nets.config import TrainConfig
from nets.options import OPTIMIZERS
from nets.run import Run, create_run

torch.set_num_threads(1)
KINDS = ("start", "step", "rename")
NETWORKS = {
    "mlp": {"widths": (8,), "model_options": ("norm=batch",)},
    "vit": {"model": "vit", "model_options": ("width=8", "depth=1", "heads=2")},
}
OPTIONS: dict[str, dict] = {
    "gd": {"lr": 0.1},
    "sgd": {"lr": 0.05, "optimizer_options": ("momentum=0.5", "dampening=0.2"), "batch_size": 16},
    "heavy_ball": {"lr": 0.02},
    "nesterov": {"lr": 0.02, "batch_size": 16},
    "adam": {"lr": 0.003, "batch_size": 16},
    "adamw": {"lr": 0.003, "optimizer_options": ("clip_norm=1",)},
    "rmsprop": {"lr": 0.002, "optimizer_options": ("momentum=0.5",), "batch_size": 16},
    "split_sgd": {"lr": 0.02, "optimizer_options": ("threshold=0.02",), "batch_size": 16},
    "sam": {"lr": 0.05, "optimizer_options": ("momentum=0.5", "normalised=true"), "batch_size": 16},
}
#: every optimizer on both networks
RUNS = {f"{o}-{n}": {"optimizer": o, **OPTIONS[o], **NETWORKS[n]} for o in OPTIMIZERS for n in NETWORKS}


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
    begin = time.perf_counter()
    finish(folder / "whole")
    seconds = round(time.perf_counter() - begin, 3)
    rng = random.Random(seed)
    done = dict.fromkeys(KINDS, 0)
    attempts = 0
    while sum(done.values()) < kills and attempts < 2 * kills:
        kind = KINDS[attempts % 3]
        attempts += 1
        done[kind] += kill_once(folder / "killed", kind, rng)
    rows = Run.open(folder / "killed").rows
    finish(folder / "killed")
    whole, killed = contents(folder / "whole"), contents(folder / "killed")
    differ = sorted(name for name in {*whole, *killed} if whole.get(name) != killed.get(name))
    about = {"kills": sum(done.values()), **done, "attempts": attempts, "rows": rows, "seconds": seconds}
    print(json.dumps(about | {"files": len(whole), "differ": differ}))


if __name__ == "__main__":
    main()
