"""Networks whose initial weights depend on the given seed alone.

Every factory draws its weights in float32 and casts them, so that float32 and float64 start from the same numbers,
and leaves the global random state untouched. All networks have exact derivatives of every order, backward and
forward. BatchNorm always uses the statistics of the batch it is given (no running averages), so that the parameters
are the whole state of a network.
"""

from .build import MODELS, Task, build_model
from .gpt import GPT, gpt
from .linear import two_layer_linear
from .mlp import mlp
from .resnet import resnet18
from .vgg import vgg11
from .vit import ViT, vit

__all__ = ["GPT", "MODELS", "Task", "ViT", "build_model", "gpt", "mlp", "resnet18", "two_layer_linear", "vgg11", "vit"]
