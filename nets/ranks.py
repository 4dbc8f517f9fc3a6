"""The processes that torchrun started: what they send each other, and how they end together.

Process 0 leads: it alone holds the state of the run, decides and writes. The others wait for its commands, so no
decision is taken twice and none can differ. Vectors go from process 0 to all, and sums of their shares come back;
gloo carries what lies in the CPU's memory, nccl what lies on GPUs.

The command line does this by itself. In a script: ``with lead(): run.advance()`` in process 0, `nets.serving.serve` in
the others.

A process that ends, or does not answer within the time limit, ends all of them: `RankError` in process 0, exit code 1
in the others, one line on stderr. The limit is 600 s or the environment variable ``OPPOSING_TIMEOUT``.
"""

import contextlib
import math
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

__all__ = ["RankError", "Ranks", "active", "lead"]

TIMEOUT = 600.0  # seconds; long enough for what process 0 does alone between two commands
KEPT = "what was recorded is kept: resume the run, with any number of processes"


class RankError(RuntimeError):
    """A process of the run ended or did not answer; what was recorded is kept."""


class Ranks:
    """The group of processes, joined when made; every process makes one.

    Attributes:
        rank: Number of this process; 0 leads.
        size: Number of processes.
        on_this_machine: Number of them on this machine.
        served: In process 0, what the others are set up for; None before.
    Raises:
        ValueError: If ``OPPOSING_TIMEOUT`` is no positive number.
        RankError: If the others cannot be reached.
    """

    def __init__(self) -> None:
        self.timeout, self._told_to_stop = _timeout(), False
        self.served: object = None
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.on_this_machine = int(os.environ["LOCAL_WORLD_SIZE"])
        self._store: Any = None
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        limit = timedelta(seconds=self.timeout)
        with self._guard():
            self._store = next(rendezvous("env://", timeout=limit))[0]
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                store=self._store,
                rank=self.rank,
                world_size=self.size,
                timeout=limit,
            )

    def rows(self, n: int) -> slice:
        """The rows of n that this process holds: contiguous, process 0 first, sizes differ by at most one."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def check_device(self, name: str) -> None:
        """Refuse a device that the processes cannot have one each of.

        Raises:
            ValueError: If it is one GPU of several, or there are fewer GPUs on this machine than processes.
        """
        if ":" in name:
            raise ValueError(
                f"device must be cpu or cuda with several processes, got {name}; each takes a GPU by itself"
            )
        if name == "cuda" and 0 < torch.cuda.device_count() < self.on_this_machine:
            raise ValueError(
                f"processes must be at most the GPUs of a machine, {torch.cuda.device_count()}, got "
                f"{self.on_this_machine}; start fewer"
            )

    def command(self, code: int, number: int = 0) -> None:
        """In process 0: send a command and a number that belongs to it.

        Raises:
            RankError: If a process has ended, or this one was told to stop (SIGTERM).
        """
        if self._told_to_stop:
            raise RankError(f"told to stop (SIGTERM), by torchrun where another process ended; {KEPT}")
        self.spread(torch.tensor([code, number]))

    def receive(self) -> tuple[int, int]:
        """In the others: the next command and its number."""
        sent = self.spread(torch.zeros(2, dtype=torch.int64))
        return int(sent[0]), int(sent[1])

    def spread(self, tensor: Tensor) -> Tensor:
        """``tensor`` of process 0 in all: the others pass one of the same shape, which is overwritten."""
        with self._guard():
            dist.broadcast(tensor, 0)
        return tensor

    def total(self, tensor: Tensor) -> Tensor:
        """Sum over all processes, in process 0; ``tensor`` is overwritten, elsewhere by anything."""
        with self._guard():
            dist.reduce(tensor, 0)
        return tensor

    def spread_object(self, value: Any) -> Any:
        """A plain value of process 0 in all."""
        values = [value]
        with self._guard():
            dist.broadcast_object_list(values, 0, device=torch.device("cpu"))
        return values[0]

    def gather_text(self, text: str) -> list[str]:
        """The texts of all processes, in all."""
        texts: list[Any] = [None] * self.size
        with self._guard():
            dist.all_gather_object(texts, text)
        return texts

    def note_stop(self, *_: object) -> None:
        """Handler of SIGTERM: stop at the next command, not in the middle of writing."""
        self._told_to_stop = True

    def first_to_report(self) -> bool:
        """Whether no other process has said yet why the run ended."""
        try:
            return self._store is None or self._store.add("opposing/reported", 1) == 1
        except RuntimeError:  # the store went with torchrun
            return True

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if self.rank == 0:
                self.first_to_report()  # at once: the others wait for it only a moment
            raise RankError(
                f"another process of this run ended or did not answer within {self.timeout:g} s; {KEPT}"
            ) from error


def _timeout() -> float:
    given = os.environ.get("OPPOSING_TIMEOUT", str(TIMEOUT))
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"OPPOSING_TIMEOUT must be a positive number of seconds, got {given!r}; pass e.g. 600")
    return seconds


STOP, SET_UP, EVALUATE, PRODUCT, GRADIENT = range(5)  # the commands of process 0
_active: Ranks | None = None


def active() -> Ranks | None:
    """The group this process leads; None where it works alone."""
    return _active


@contextlib.contextmanager
def lead() -> Iterator[Ranks]:
    """Join the group as process 0, for the runs that are advanced inside; the others `nets.serving.serve`.

    On leaving without an error the others are told to stop. After an error they notice by themselves, and SIGTERM,
    which torchrun sends then, no longer interrupts this process, so that it can say what happened.
    """
    global _active
    ranks = Ranks()
    before = signal.signal(signal.SIGTERM, ranks.note_stop)
    _active = ranks
    try:
        yield ranks
        ranks.command(STOP)
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:  # --help
            ranks.command(STOP)
        else:
            ranks.first_to_report()
        raise
    else:
        signal.signal(signal.SIGTERM, before)
        dist.destroy_process_group()
    finally:
        _active = None
