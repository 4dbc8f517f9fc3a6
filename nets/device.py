"""Where a run computes and how its products are rounded; torch's own settings are put back after the run."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .config import ConfigError, TrainConfig

__all__ = ["Bfloat16", "find_device", "numerics"]

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"  # without it torch refuses matrix products in deterministic mode on CUDA


def find_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ConfigError: If this machine does not have it.
    """
    device = torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        found = f"{count} CUDA device{'s' * (count != 1)}" if count else "no CUDA device"
        raise ConfigError(f"device must be one that this machine has, got {name} with {found}; pass --device cpu")
    return device


@contextlib.contextmanager
def numerics(config: TrainConfig, threads: int) -> Iterator[None]:
    """Threads, tf32 and deterministic algorithms as a run wants them, and afterwards as they were.

    "tf32" is set through ``torch.set_float32_matmul_precision`` and, for convolutions, ``cudnn.allow_tf32``; any other
    precision switches both off, the second of which torch has on by default.
    """
    cudnn: Any = torch.backends.cudnn
    tf32 = config.precision == "tf32"
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), cudnn.allow_tf32
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    workspace = os.environ.get(CUBLAS)
    try:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        cudnn.allow_tf32 = tf32
        if config.deterministic:
            os.environ.setdefault(CUBLAS, ":4096:8")
            torch.use_deterministic_algorithms(True)
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])
        cudnn.allow_tf32 = before[2]
        if config.deterministic:  # not otherwise: the call imports torch's compiler, which takes a second
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
            if workspace is None:
                os.environ.pop(CUBLAS, None)


class Bfloat16(nn.Module):
    """A network whose forward pass runs under torch's autocast to bfloat16: weights and outputs keep their type.

    Derivatives of any order are those of the rounded pass, and are rounded alike. tests/nets/test_device.py asserts
    6 · 2^-8 = 2.3 % on 32-32 tanh networks, new and trained for 60 steps: the relative error against float32 of loss,
    sharpness and gradient norm, and the error of the gradient over the mean norm of the examples' gradients.

    Args:
        network: Any module of one input and one output.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs in the type of the weights, shape as the network's."""
        with torch.autocast(inputs.device.type, torch.bfloat16):
            outputs = self.network(inputs)
        return outputs.to(next(self.network.parameters()).dtype)
