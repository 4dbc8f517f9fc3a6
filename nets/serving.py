"""What every process but the first does: hold its rows, compute its part of each sum, and end when process 0 does."""

import contextlib
import signal
import time
from dataclasses import replace

import torch.distributed as dist

from .config import TrainConfig
from .data import load_data
from .descent import Problem
from .device import numerics
from .ranks import SET_UP, STOP, RankError, Ranks
from .shared_loss import SharedLoss

__all__ = ["serve"]

GRACE = 1.0  # seconds that process 0 has to report first why the run ended


def serve() -> int:
    """Follow process 0 until it stops.

    Interrupts are left to process 0: this process ends when its connection does.

    Returns:
        The exit code: 0 after a stop, 1 where process 0 has said already why the run ended.
    Raises:
        RankError: If this process failed, or is the first to say that another one did.
    """
    try:
        ranks = Ranks()
    except ValueError:  # process 0 has the same environment and reports it; torchrun then ends this one
        time.sleep(30 * GRACE)
        return 2
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)
    lost = ""
    try:
        _follow(ranks)
    except RankError as error:
        lost = str(error)  # not the error itself, whose traceback would hold the connections open
    except Exception as error:
        raise RankError(f"process {ranks.rank} of {ranks.size}: {type(error).__name__}: {error}") from error
    dist.destroy_process_group()  # the others notice at once, process 0 among them
    if lost:
        time.sleep(GRACE)
        if ranks.first_to_report():
            raise RankError(lost)
    return 1 if lost else 0


def _follow(ranks: Ranks) -> None:
    shared: SharedLoss | None = None
    with contextlib.ExitStack() as settings:
        while True:
            command, number = ranks.receive()
            if command == STOP:
                return
            if command == SET_UP:
                shared = None  # its data are given up before others are loaded
                settings.close()
                shared = _set_up(ranks, settings)
            elif shared is not None:
                shared.follow(command, number)


def _set_up(ranks: Ranks, settings: contextlib.ExitStack) -> SharedLoss | None:
    """Load the problem that process 0 names; None, and the reason sent to it, where that cannot be done."""
    about = ranks.spread_object(None)
    shared, refusal = None, ""
    try:
        config = TrainConfig.from_dict(about["config"])
        settings.enter_context(numerics(config, about["threads"]))
        dataset = load_data(config)
        if dataset.fingerprint != about["data"]:
            raise ValueError("data must be those of process 0, they differ; give all processes the same files")
        n = len(dataset.inputs)
        rows = ranks.rows(n)
        part = replace(dataset, inputs=dataset.inputs[rows].copy(), targets=dataset.targets[rows].copy())
        shared = SharedLoss(ranks, Problem(config, part, n_rows=n).local)
    except Exception as error:
        refusal = f"process {ranks.rank} of {ranks.size}: {error}"
    ranks.gather_text(refusal)
    return shared
