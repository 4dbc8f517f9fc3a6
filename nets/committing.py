"""Writing what a run has reached beside the next steps."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from .descent import State
from .record import Block

__all__ = ["Committer"]


class Committer:
    """Hands blocks and states to one thread, which writes them in order, while the run goes on; a context manager.

    At most one is under way: the next waits for it. An error in writing is raised by the next call or at the end of
    the context, in the thread of the run. Where the body raises, what was handed over is still written.

    Args:
        write: Writes a block of rows and then the state after it.
    """

    def __init__(self, write: Callable[[Block, State], None]) -> None:
        self._write = write
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._pending: Future[None] | None = None

    def __call__(self, block: Block, state: State) -> None:
        """Hand over; ``block`` must not be filled any more, ``state`` may be advanced: its tensors never change."""
        self._wait()
        self._pending = self._thread.submit(self._write, block, dataclasses.replace(state))

    def __enter__(self) -> "Committer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if kind is None:
            self._wait()

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
