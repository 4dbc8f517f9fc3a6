"""Examples that a run does not train on: those that follow its own in the data set."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from nets.config import TrainConfig

from .dataset import DataError, Dataset
from .load import load_data

__all__ = ["held_out"]


def held_out(config: TrainConfig, sizes: Iterable[int], clean: bool = False) -> Dataset | None:
    """The examples that follow those of a configuration, before its intervention.

    Args:
        config: Configuration of the run.
        sizes: Numbers of examples, in the order in which they are tried.
        clean: Without the label noise of ``config``.
    Returns:
        The first number that there is; None where there is none, or where more examples change the first ones (whitened
        data). ``truth`` is left out.
    """
    plain = replace(config, intervention="none", intervention_options=())
    own = load_data(plain)
    n = len(own.inputs)
    if clean:
        options = tuple(o for o in plain.data_options if not o.startswith("label_noise="))
        plain = replace(plain, data_options=options)
    for more in sizes:
        try:
            longer = load_data(replace(plain, n_examples=n + more))
        except DataError:
            continue
        if np.array_equal(longer.inputs[:n], own.inputs) and (clean or np.array_equal(longer.targets[:n], own.targets)):
            return replace(longer, inputs=longer.inputs[n:], targets=longer.targets[n:], truth={})
    return None
