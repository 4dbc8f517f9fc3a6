"""Networks and data of a user's that go wrong in one process, by import path."""

import os
import signal

import numpy as np
from torch import nn

from nets.data import Dataset


class Failing(nn.Module):
    """A linear net that ends process FAIL_RANK at its FAIL_AT-th forward pass: by SIGKILL, or by an error."""

    def __init__(self, d_in, d_out):
        super().__init__()
        self.map, self.calls = nn.Linear(d_in, d_out), 0

    def forward(self, x):
        self.calls += 1
        if os.environ.get("FAIL_RANK") == os.environ.get("RANK", "0") and self.calls == int(os.environ["FAIL_AT"]):
            if os.environ.get("FAIL_HOW") == "error":
                raise MemoryError("no memory left\nfor this batch")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.map(x)


def failing(task):
    return Failing(task.input_shape[0], task.n_outputs)


def unlike(n):
    """Data that differ from process to process."""
    inputs = np.random.default_rng(int(os.environ.get("RANK", "0"))).standard_normal((n, 4)).astype(np.float32)
    return Dataset(inputs, np.arange(n) % 2, 2, None, "unlike", ("a", "b"))
