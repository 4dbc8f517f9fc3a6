"""Progress of long work, on the terminal."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from nets.run import Run, RunStatus

__all__ = ["advance_with_progress", "console", "counted", "stdout"]

console = Console(stderr=True)
stdout = Console()


def advance_with_progress(run: "Run", until: Any = None, label: str = "train") -> "RunStatus":
    """``run.advance(until)`` with a bar that shows step, loss and sharpness."""
    critical = run.config.critical_sharpness
    of = "" if critical is None else f" of {critical:.3g}"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=run.config.steps, completed=run.rows, state="")
        sharpness = ""

        def show(state: Any) -> None:
            nonlocal sharpness
            if state.products:  # else it was not measured at this step: keep showing the last one
                sharpness = f"  sharpness {state.sharpness:.3g}{of}"
            text = f"loss {state.loss:.4g}{sharpness}"
            bar.update(task, completed=state.step + 1, state=text)

        return run.advance(until, on_step=show)


@contextlib.contextmanager
def counted(label: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar of ``total`` things; the body calls what it is given after each. No bar where ``total`` is 0."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not total) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)
