"""An architecture by name, for the data it is to be trained on; or a user's own by import path."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nets.importing import call_user, import_function, is_import_path
from nets.options import MODELS

from .common import choice, seeded
from .gpt import gpt
from .linear import two_layer_linear
from .mlp import mlp
from .norms import with_exact_norms
from .resnet import resnet18
from .vgg import vgg11
from .vit import vit

__all__ = ["MODELS", "Task", "build_model"]


@dataclass(frozen=True)
class Task:
    """What a network is asked to map, as far as its shape is concerned.

    Args:
        input_shape: Shape of one example: (d,) features, or (T,) tokens.
        n_outputs: Numbers per example, or per position: classes, target dimensions or tokens.
        image_shape: Layout (h, w[, c]) of the features of one example; None where they are no image.
        vocabulary: Number of different tokens where the inputs are tokens, else None.
        per_position: Whether outputs are asked at every position, (n, T, n_outputs).
    """

    input_shape: tuple[int, ...]
    n_outputs: int
    image_shape: tuple[int, ...] | None = None
    vocabulary: int | None = None
    per_position: bool = False


def build_model(
    name: str, task: Task, *, seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any
) -> nn.Module:
    """The network ``name`` for ``task``, with weights that depend on ``seed`` alone.

    Args:
        name: One of ``MODELS``, or ``package.module:factory``: called as ``factory(task, **options)`` with the random
            generator seeded; it returns a module of float32 parameters, deterministic and without state besides
            them. LayerNorm and BatchNorm in it are replaced as `with_exact_norms` does.
        task: Shapes of the data.
        seed: Seed of the initial weights.
        dtype: Type of the parameters.
        **options: Keyword arguments of the factory of that name.
    Raises:
        ValueError: If the name is unknown, an option is out of range, or the network does not fit the data.
    """
    common: dict[str, Any] = {"seed": seed, "dtype": dtype, **options}
    if is_import_path(name):
        return _user_model(name, task, seed, dtype, options)
    choice("model", name, (*MODELS, "package.module:factory"))
    if name == "gpt":
        if task.vocabulary is None:
            raise ValueError("model gpt needs tokens as inputs, the data have none; choose another model or data text")
        common.update(last_only=not task.per_position, d_out=task.n_outputs)
        return gpt(task.vocabulary, task.input_shape[0], **common)
    if task.vocabulary is not None:
        raise ValueError(f"model {name} needs numbers as inputs, the data are tokens; choose model gpt")
    if name in ("vgg11", "resnet18", "vit"):
        if task.image_shape is None:
            raise ValueError(f"model {name} needs images as inputs, the data have none; choose model mlp")
        factory = {"vgg11": vgg11, "resnet18": resnet18, "vit": vit}[name]
        return factory(task.image_shape, task.n_outputs, **common)
    d_in = math.prod(task.input_shape)
    if name == "linear2":
        return two_layer_linear(d_in, options.pop("width", 1), task.n_outputs, seed=seed, dtype=dtype, **options)
    return mlp(d_in, options.pop("widths", (64, 64)), task.n_outputs, seed=seed, dtype=dtype, **options)


def _user_model(path: str, task: Task, seed: int, dtype: torch.dtype, options: dict[str, Any]) -> nn.Module:
    import_function("model", path)  # outside the seeded part: importing may draw numbers only once
    with seeded(seed):
        module = call_user("model", path, task, **options)
    if not isinstance(module, nn.Module):
        raise ValueError(f"model {path} must return a torch.nn.Module, got {type(module).__name__}; return one")
    if next(module.parameters(), None) is None:
        raise ValueError(f"model {path} must have parameters, got none; return a module that can be trained")
    for inner, part in module.named_modules():
        if getattr(part, "track_running_stats", False):
            raise ValueError(
                f"model {path} must keep its whole state in parameters, got running statistics in {inner or 'itself'}; "
                "pass track_running_stats=False"
            )
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
            raise ValueError(f"model {path} must be deterministic, got dropout in {inner or 'itself'}; leave it out")
    return with_exact_norms(module).to(dtype)
