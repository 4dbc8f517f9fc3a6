"""Which rows a step takes: without replacement within an epoch, reshuffled every epoch."""

import torch
from torch import Tensor

__all__ = ["batch_rows"]


def batch_rows(n: int, batch_size: int, step: int, rng_state: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of a step and the state of the generator for the next one.

    An epoch has ⌈n / batch_size⌉ steps, the last of which takes what is left. Its order is drawn from the state that
    the generator has when the epoch starts; that state is kept until the epoch's last step, so a run that is resumed
    within an epoch draws the same order again.

    Args:
        n: Number of rows.
        batch_size: Rows per step.
        step: Step number, from 0.
        rng_state: State of the generator at the start of the epoch, uint8.
    Returns:
        Row indices, and ``rng_state``, or after the last step of an epoch the next epoch's.
    """
    generator = torch.Generator()
    generator.set_state(rng_state)
    order = torch.randperm(n, generator=generator)
    per_epoch = -(-n // batch_size)
    position = step % per_epoch
    rows = order[position * batch_size : (position + 1) * batch_size]
    return rows, generator.get_state() if position == per_epoch - 1 else rng_state
