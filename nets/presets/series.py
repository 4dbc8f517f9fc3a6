"""Carrying out one preset or several, one repetition after the other or in processes."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path

import torch

from .declaration import Preset, PresetError
from .experiment import Advance, Experiment, Repetition
from .verdicts import Verdict

__all__ = ["run_preset", "run_presets"]

#: number of the experiment and seed -> what is left of it, or why it failed
Found = tuple[int, int, Repetition | Exception]


def run_preset(
    preset: Preset,
    folder: Path | str,
    form: str = "full",
    seeds: Sequence[int] = (0, 1, 2),
    changes: Iterable[str] = (),
    advance: Advance | None = None,
    jobs: int = 1,
    finished: Callable[[], object] | None = None,
) -> list[Verdict]:
    """Run a preset and measure its claims.

    Args:
        preset, folder, form, seeds, changes: As in `Experiment`.
        advance: Advances a run, given the run, the step (None: its end) and a label, for showing progress; only where
            this process carries it out.
        jobs: Processes, each with a repetition of its own; 1: this process.
        finished: Called after every repetition.
    Returns:
        The verdicts of the claims about this form, also in results.json.
    Raises:
        PresetError: If something asked for is not right, or a measure does not fit its runs.
        RunError: If a run cannot be carried out.
    """
    experiment = Experiment(preset, Path(folder), form, tuple(seeds), tuple(changes))
    (result,) = run_presets([experiment], advance, jobs, finished)
    if isinstance(result, Exception):
        raise result
    return result


def run_presets(
    experiments: Sequence[Experiment],
    advance: Advance | None = None,
    jobs: int = 1,
    finished: Callable[[], object] | None = None,
) -> list[list[Verdict] | Exception]:
    """Carry out several; one that fails does not stop the others.

    Args:
        experiments: What to run.
        advance, jobs, finished: As in `run_preset`.
    Returns:
        For each its verdicts, or why there are none.
    """
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise PresetError(f"jobs must be a whole number >= 1, got {jobs!r}; pass e.g. 2")
    results: list[list[Verdict] | Exception] = [_begin(experiment) for experiment in experiments]
    begun = [i for i, result in enumerate(results) if not isinstance(result, Exception)]
    todo = [(i, seed) for i in begun for seed in experiments[i].seeds]
    done: list[dict[int, Repetition]] = [{} for _ in experiments]
    jobs = min(jobs, len(todo))
    found = _in_processes(experiments, todo, jobs) if jobs > 1 else _here(experiments, todo, advance)
    try:
        with contextlib.closing(found):
            for i, seed, repetition in found:
                if isinstance(repetition, Exception):
                    results[i] = repetition
                elif not isinstance(results[i], Exception):
                    done[i][seed] = repetition
                    results[i] = experiments[i].conclude(done[i])
                if finished is not None:
                    finished()
    finally:
        for i in begun:
            experiments[i].clear_if_empty()
    return results


def _begin(experiment: Experiment) -> list[Verdict] | Exception:
    try:
        return experiment.begin()
    except (ValueError, OSError) as error:
        return error


def _here(
    experiments: Sequence[Experiment], todo: Sequence[tuple[int, int]], advance: Advance | None
) -> Generator[Found, None, None]:
    """The repetitions one after the other; none of an experiment of which one failed."""
    failed: set[int] = set()
    for i, seed in todo:
        if i in failed:
            continue
        try:
            found: Repetition | Exception = experiments[i].repeat(seed, advance)
        except Exception as error:
            failed.add(i)
            found = error
        yield i, seed, found


def _in_processes(
    experiments: Sequence[Experiment], todo: Sequence[tuple[int, int]], jobs: int
) -> Generator[Found, None, None]:
    """The same in processes, in the order in which they finish; where the caller stops, the processes are ended."""
    others = set(active_children())
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker) as pool:
        tasks: dict[Future, tuple[int, int]] = {pool.submit(experiments[i].repeat, s): (i, s) for i, s in todo}
        try:
            for task in as_completed(tasks):
                if task.cancelled():
                    continue
                i, seed = tasks[task]
                error = task.exception()
                if isinstance(error, Exception):
                    for other, (j, _) in tasks.items():
                        if j == i:
                            other.cancel()
                    yield i, seed, error
                else:
                    yield i, seed, task.result()
        except BaseException:  # what they recorded is kept, as after a kill
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(active_children()) - others:
                process.terminate()
            raise


def _start_worker() -> None:
    """A worker leaves the keyboard to its parent, computes on one thread, and does not outlive the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
