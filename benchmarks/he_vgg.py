"""VGG-11 with He's initial weights, as a model of one's own: ``--model he_vgg:he_vgg11 --model-options width=0.125``.

PyTorch's default shrinks the signal of a net without normalisation in each of its eight layers, by sqrt(6) with ReLU;
gradient descent then stays on a plateau for hundreds of steps.
"""

from typing import Any

from torch import nn

from nets.architectures import vgg11
from nets.architectures.build import Task

__all__ = ["he_vgg11"]


def he_vgg11(task: Task, **options: Any) -> nn.Module:
    r"""``vgg11`` for ``task`` with biases 0 and normal weights of its convolutions, of variance $g^2$ / fan-in.

    $g^2$ is 2 with ReLU (He et al. 2015) and PyTorch's 25/9 with tanh.
    """
    assert task.image_shape is not None
    net = vgg11(task.image_shape, task.n_outputs, **options)
    phi = options.get("activation", "relu")
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity=phi)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return net
