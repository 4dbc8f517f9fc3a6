"""A training run on disk: created once, advanced in pieces, equal to the bit to an uninterrupted run.

Directory: config.json, provenance.json, record.zarr, checkpoint.safetensors (the commit point),
status.json (for display), snapshots/ (states in the checkpoint's format), forecasts/registry.json, lock.

A block of the record is written first and the checkpoint after it; whatever a killed process wrote
beyond its last checkpoint is computed again. The bits also depend on the machine and on the versions of
the libraries, and on the number of processes, which provenance.json notes; they are promised on one machine
with one installation and as many processes. Process 0 of several does what is written here, see ``nets.ranks``.
"""

import contextlib
import copy
import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xarray as xr
from torch import Tensor, nn

import nets.checkpoint as ckpt

from .committing import Committer
from .config import ConfigError, TrainConfig
from .data import DataError, Dataset, load_data
from .descent import Problem, State, StepState, row_of
from .device import find_device, numerics
from .files import RunError, exclusive_lock, read_json, write_json, written_to
from .forecasts import add_forecast
from .observers import Watch
from .provenance import provenance
from .ranks import active
from .record import Block, check_fixed, create_record, first_row, load_block, recorded_rows, write_block
from .record_check import whole_record
from .recorded_losses import loss_row, losses_kept

__all__ = ["Run", "RunError", "RunStatus", "StepState", "build_run", "create_run", "require_new"]

Until = int | Callable[[StepState], bool] | None


@dataclass(frozen=True)
class RunStatus:
    """How a run stands.

    Args:
        status: "running", "stopped" (can go on), "finished" (all steps recorded and applied) or "diverged".
        step: Step n of the current parameters θ_n.
        reason: Why it stands there, in words.
    """

    status: str
    step: int
    reason: str


def create_run(directory: Path | str, config: TrainConfig) -> None:
    """Make a run directory with the initial state; nothing is computed and nothing overwritten.

    Raises:
        RunError: If the directory exists and is not empty.
        DataError: If the data cannot be read.
        ConfigError: If the network does not fit the data, or this machine lacks the device.
    """
    require_new(directory)
    ranks = active()
    problem = Problem(config, load_data(config), ranks)
    threads = config.threads or max(1, (os.cpu_count() or 1) // (ranks.on_this_machine if ranks else 1))
    build_run(directory, problem, problem.initial_state(), threads)


def require_new(directory: Path | str) -> None:
    """Refuse a directory that holds something.

    Raises:
        RunError: If it exists and is not empty.
    """
    directory = Path(directory).absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RunError(f"{directory} must be new or empty, it is not; choose another directory or resume it")


def build_run(
    directory: Path | str,
    problem: Problem,
    state: State,
    threads: int,
    about: dict[str, Any] | None = None,
    fill: Callable[[Path], None] | None = None,
) -> None:
    """Make a run directory that stands at ``state``.

    Args:
        directory: A new or empty one.
        problem: Configuration, data and network.
        state: The first state.
        threads: CPU threads of the run.
        about: Entries added to provenance.json.
        fill: Called with the half-built directory, to write rows that the state vouches for.
    """
    directory, config, dataset = Path(directory).absolute(), problem.config, problem.dataset
    watch = Watch(problem)
    with contextlib.ExitStack() as stack:
        stack.enter_context(written_to(directory))
        directory.parent.mkdir(parents=True, exist_ok=True)
        # built beside its place and moved there whole: a run directory is complete or not there
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent))
        build = Path(temporary) / "run"
        build.mkdir()
        write_json(build / "config.json", config.to_dict())
        write_json(build / "provenance.json", {**provenance(threads, problem.device), **(about or {})})
        create_record(build / "record.zarr", config, dataset, watch.columns)
        (build / "snapshots").mkdir()
        if fill is not None:
            fill(build)
        ckpt.save_checkpoint(build / "checkpoint.safetensors", state, config.config_hash, threads, dataset.fingerprint)
        write_json(build / "status.json", asdict(RunStatus("stopped", state.step, "created")))
        os.replace(build, directory)


class Run:
    """A run directory opened for reading and advancing; open with `Run.open`."""

    def __init__(self, directory: Path, config: TrainConfig) -> None:
        self.directory = directory
        self.config = config
        self._refresh()

    @classmethod
    def open(cls, directory: Path | str) -> "Run":
        """Open an existing run.

        Raises:
            RunError: If it is no run, is damaged, or config.json differs from the one it was made with.
        """
        directory = Path(directory)
        if not (directory / "config.json").is_file():
            raise RunError(f"{directory} must be a run directory, it has no config.json; create a run there")
        try:
            config = TrainConfig.from_dict(read_json(directory / "config.json"))
        except (ConfigError, TypeError) as error:
            raise RunError(f"{directory / 'config.json'} must be a valid configuration: {error}") from error
        return cls(directory, config)

    # --- reading -------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Step n of the current parameters θ_n."""
        return self._state.step

    @property
    def rows(self) -> int:
        """Number of recorded steps."""
        return self._state.rows

    @property
    def threads(self) -> int:
        """CPU threads fixed when the run was created."""
        return self._threads

    @property
    def status(self) -> RunStatus:
        """How the run stands according to its checkpoint."""
        n = self._state.step
        if self._state.diverged:
            return RunStatus("diverged", n, f"first non-finite loss, gradient or sharpness at step {n}")
        if self._state.step >= self.config.steps:
            return RunStatus("finished", n, f"all {self.config.steps} steps are recorded")
        return RunStatus("stopped", n, f"{self._state.rows} of {self.config.steps} steps are recorded")

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data of the run, checked to be those it was created with.

        Raises:
            DataError: If the data cannot be read or differ.
        """
        dataset = load_data(self.config)
        if dataset.fingerprint != self._data_hash:
            raise DataError(
                f"data must be those the run was created with ({self._data_hash[:12]}), "
                f"got {dataset.fingerprint[:12]}; restore the data or correct data_path in config.json"
            )
        return dataset

    @functools.cached_property
    def problem(self) -> Problem:
        """The data, the network and the loss, as the run computes them."""
        return Problem(self.config, self.dataset, active())

    @functools.cached_property
    def _watch(self) -> Watch:
        """The observers, whose fixed values are those that the record was made with."""
        watch = Watch(self.problem)
        check_fixed(self.directory / "record.zarr", watch.columns)
        return watch

    def parameters(self) -> nn.Module:
        """A new module that holds the current parameters θ_n."""
        return self.problem.module_at(self._state.parameters)

    def eigenvector(self) -> Tensor:
        """Top Hessian eigenvector last computed, unit norm, shape (P,), in the order of the parameters.

        It belongs to step n where the run stopped by a predicate or diverged, else to step n − 1; with ``eig_every``,
        to the last step up to there whose sharpness was measured.
        """
        return self._state.eigenvector.to(find_device(self.config.device), copy=True)

    def history(self, arrays: Sequence[str] = ()) -> xr.Dataset:
        """The recorded rows (all arrays, or those of ``arrays`` that there are) with dimensions step and example.

        Raises:
            RunError: If the record is damaged.
        """
        path = self.directory / "record.zarr"
        with (
            whole_record(path, self.config, self.rows - self._state.diverged),
            xr.open_zarr(path, consolidated=False) as opened,
        ):
            chosen = opened[[name for name in arrays if name in opened]] if arrays else opened
            return chosen.isel(step=slice(0, self.rows), missing_dims="ignore").load()

    def state_hash(self) -> str:
        """SHA-256 of current parameters, step and configuration."""
        return ckpt.state_hash(self._state, self.config.config_hash)

    @property
    def first_step(self) -> int:
        """First recorded step: 0, or where a fork with other options began."""
        return first_row(self.directory / "record.zarr")

    def snapshot(self) -> Path:
        """Save the current state as snapshots/step_000123.safetensors; returns the path."""
        path = self.snapshot_path(self.step)
        if not path.exists():
            with written_to(self.directory):
                path.parent.mkdir(exist_ok=True)
                self._save(path, self._state)
        return path

    def snapshot_path(self, step: int) -> Path:
        """Where the state of a step lies, if it was kept."""
        return self.directory / "snapshots" / f"step_{step:06d}.safetensors"

    def snapshot_module(self, step: int) -> nn.Module:
        """A new module that holds the parameters of a snapshot.

        Raises:
            RunError: If there is no snapshot of that step.
        """
        return self.problem.module_at(ckpt.load_weights(self.snapshot_path(step)))

    def state(self, step: int | None = None) -> State:
        """A copy of the current state, or that kept by a snapshot of ``step``.

        Raises:
            RunError: If there is none, it is of weights only, or of another configuration.
        """
        if step is None:
            return copy.deepcopy(self._state)
        path = self.snapshot_path(step)
        state, about = ckpt.load_checkpoint(path)
        if about["config_hash"] != self.config.config_hash:
            raise RunError(f"{path} must be of this run, it is of another configuration; restore it")
        return state

    def register_forecast(self, path: Path | str) -> dict:
        """Note a forecast file's hash while the run still stands at the step it was made at.

        Raises:
            ForecastError: If the run went beyond that step, or the forecast was made from another state.
        """
        with exclusive_lock(self.directory / "lock"):
            self._refresh()
            rows = max(self.rows, recorded_rows(self.directory / "record.zarr"))
            return add_forecast(self.directory, path, step=self.step, rows=rows, state_hash=self.state_hash())

    # --- advancing -----------------------------------------------------------------------------------

    def advance(
        self,
        until: Until = None,
        on_step: Callable[[StepState], object] | None = None,
        max_steps: int | None = None,
    ) -> RunStatus:
        """Train on, recording every step, until the end, a stop or divergence.

        Args:
            until: Step number: stop before executing that step, all earlier ones recorded. Predicate on
                the values just logged: stop after logging and before the update, so that the parameters
                are still those the values belong to; the next call applies the update. None: all steps.
            on_step: Called with the values of every logged step; the record on disk may lag behind it.
            max_steps: Most steps to log in this call.
        Returns:
            The status; also in status.json.
        Raises:
            RunError: If another process is advancing the run, or it is damaged.
            Exception: Whatever a callback raises; the run then stands at its last checkpoint.
            ValueError: If ``until`` or ``max_steps`` is negative.
        """
        for name, value in (("until", until), ("max_steps", max_steps)):
            if isinstance(value, int) and value < 0:
                raise ValueError(f"{name} must not be negative, got {value}; pass {name} >= 0")
        with exclusive_lock(self.directory / "lock"):
            self._refresh()
            try:
                if self.status.status == "stopped":
                    with numerics(self.config, self._threads):
                        self._loop(until, on_step, max_steps)
            except BaseException:
                self._refresh()  # back to the last checkpoint; the steps since are computed again
                with contextlib.suppress(RunError):  # a full disk has been reported already
                    self._show(self.status)
                raise
            self._show(self.status)
        return self.status

    def _show(self, status: RunStatus) -> None:
        with written_to(self.directory):
            write_json(self.directory / "status.json", asdict(status))

    def _loop(self, until: Until, on_step: Callable[[StepState], object] | None, max_steps: int | None) -> None:
        problem, state, watch, steps = self.problem, self._state, self._watch, self.config.steps
        last = min(until, steps) if isinstance(until, int) else steps
        if max_steps is not None:
            last = min(last, state.rows + max_steps)
        if last <= state.step:
            return
        self._show(RunStatus("running", state.step, "advancing"))
        with written_to(self.directory):
            self._note_processes()
            block = load_block(self.directory / "record.zarr", self.config, state.rows, watch.columns)
        state.to(problem.device)
        if state.logged:
            problem.update(state)
        with Committer(self._commit) as commit:
            self._steps(block, last, until, on_step, commit)

    def _steps(
        self,
        block: Block,
        last: int,
        until: Until,
        on_step: Callable[[StepState], object] | None,
        commit: Callable[[Block, State], None],
    ) -> None:
        problem, state, watch, every = self.problem, self._state, self._watch, self.config.snapshot_every
        while state.step < last:
            if every and state.step % every == 0:
                self.snapshot()
            logged, example_loss = problem.measure(state)
            block.put(state.step, row_of(logged) | loss_row(self.config, example_loss, state.losses))
            state.losses = losses_kept(self.config, example_loss)
            if watch.due(state):
                block.put(state.step, watch.observe(problem.module, state))
            if on_step is not None:
                on_step(logged)
            if state.diverged or (callable(until) and until(logged)):
                break
            problem.update(state)
            if state.step == block.stop and state.step < last:
                commit(block, state)
                block = Block.empty(self.config, state.step, self.dataset.n_losses, watch.columns)
        commit(block, state)

    def _note_processes(self) -> None:
        """Note in provenance.json from which step on how many processes compute, where it is more than one or was."""
        path, ranks = self.directory / "provenance.json", active()
        about = read_json(path) if path.exists() else {}
        spans, size = about.get("processes", []), 1 if ranks is None else ranks.size
        if size != (spans[-1]["processes"] if spans else 1):
            spans = [span for span in spans if span["from_step"] < self.rows]
            write_json(path, {**about, "processes": [*spans, {"from_step": self.rows, "processes": size}]})

    def _commit(self, block: Block, state: State) -> None:
        with written_to(self.directory):
            if block.start < state.rows:
                write_block(self.directory / "record.zarr", block)
            self._save(self.directory / "checkpoint.safetensors", state)

    def _save(self, path: Path, state: State) -> None:
        ckpt.save_checkpoint(path, state, self.config.config_hash, self._threads, self._data_hash)

    def _refresh(self) -> None:
        self._state: State
        path = self.directory / "checkpoint.safetensors"
        self._state, about = ckpt.load_checkpoint(path)
        self._threads, self._data_hash = int(about["threads"]), str(about["data_hash"])
        given, kept = self.config.config_hash, about["config_hash"]
        if given != kept:
            raise RunError(
                f"config.json must be the one the run was created with ({kept[:12]}), got {given[:12]}; "
                "restore it or create a new run"
            )
