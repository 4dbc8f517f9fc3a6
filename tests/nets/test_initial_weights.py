"""Initial weights of the convolutional networks: their law, and what a signal becomes on its way through."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from nets.architectures import Task, build_model
from nets.architectures.common import SQUARED_GAIN
from nets.config import TrainConfig

IMAGES = Task((32 * 32 * 3,), 10, (32, 32, 3))
NETS = ("vgg11", "resnet18")


def convolutions(net):
    return [m for m in net.modules() if isinstance(m, nn.Conv2d)]


def sizes(net):
    """Root mean square of what every convolution gives for standard normal images, in their order."""
    seen = []
    for layer in convolutions(net):
        layer.register_forward_hook(lambda _, __, out: seen.append(float(out.square().mean().sqrt())))
    with torch.no_grad():
        net(torch.randn(8, 32 * 32 * 3, generator=torch.Generator().manual_seed(1)))
    return seen


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("activation", SQUARED_GAIN)
def test_he_weights_have_the_stated_variance(name, activation):
    z = np.linspace(-12, 12, 200_001)
    normal = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    gelu = z * np.array([(1 + math.erf(x / math.sqrt(2))) / 2 for x in z])
    squares = {"relu": 2.0, "tanh": 25 / 9, "gelu": 1 / np.trapezoid(gelu**2 * normal, z)}
    layers = convolutions(build_model(name, IMAGES, seed=3, width=0.5, init="he", norm="none", activation=activation))
    assert len(layers) == {"vgg11": 8, "resnet18": 20}[name]
    for layer in layers:
        assert layer.bias is not None
        assert not layer.bias.any()
        weights = layer.weight.detach().double().numpy().ravel() * math.sqrt(layer.weight[0].numel())
        # a variance of m normal numbers has the relative standard deviation sqrt(2/m), their kurtosis sqrt(24/m)
        assert np.mean(weights**2) == pytest.approx(squares[activation], rel=5 * math.sqrt(2 / weights.size))
        kurtosis = np.mean(weights**4) / np.mean(weights**2) ** 2
        assert kurtosis == pytest.approx(3, abs=5 * math.sqrt(24 / weights.size))


@pytest.mark.parametrize("name", NETS)
def test_the_rest_of_the_weights_is_as_without(name):
    plain, he, again, other = (
        build_model(name, IMAGES, seed=seed, width=1 / 16, norm="group", init=init)
        for seed, init in ((3, "torch"), (3, "he"), (3, "he"), (4, "he"))
    )
    drawn = {id(layer.weight) for layer in convolutions(he)} | {id(layer.bias) for layer in convolutions(he)}
    for p, q, r in zip(plain.parameters(), he.parameters(), again.parameters(), strict=True):
        assert torch.equal(q, r)
        assert torch.equal(p, q) == (id(q) not in drawn)
    assert not torch.equal(convolutions(he)[0].weight, convolutions(other)[0].weight)


def test_the_signal_keeps_its_size_where_pytorch_lets_it_shrink():
    he, torchs = (sizes(build_model("vgg11", IMAGES, seed=3, width=0.5, init=init)) for init in ("he", "torch"))
    assert all(1 / 3 < size / he[0] < 3 for size in he)
    # sqrt(6) a layer, seven layers after the first: 529; biases keep some of it up, a pooling's maximum too
    assert torchs[-1] / torchs[0] < 0.1


def test_blocks_without_norm_add_two_signals():
    seen = sizes(build_model("resnet18", IMAGES, seed=3, width=0.5, init="he", norm="none"))
    assert seen[-1] > 3 * seen[0]  # sqrt(2) a block: up to 16; the borders of small images take some


@pytest.mark.parametrize("name", NETS)
def test_a_run_with_the_default_keeps_its_hash(name):
    config = TrainConfig(data="cifar10", model=name)
    assert TrainConfig(data="cifar10", model=name, model_options=("init=torch",)).config_hash == config.config_hash
    assert TrainConfig(data="cifar10", model=name, model_options=("init=he",)).config_hash != config.config_hash


@pytest.mark.parametrize("name", NETS)
def test_an_unknown_law(name):
    with pytest.raises(ValueError, match="init must be one of torch, he, got 'xavier'; choose one of them"):
        build_model(name, IMAGES, init="xavier")
