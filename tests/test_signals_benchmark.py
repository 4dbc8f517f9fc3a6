"""The parts of benchmarks/signals.py that decide its numbers: initial weights, features, null contexts."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from analysis.detection import detect_in_projections
from nets.architectures import build_model
from nets.architectures.build import Task
from nets.data import Dataset


@pytest.fixture
def signals(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("signals")


@pytest.mark.parametrize(("activation", "square"), [("relu", 2.0), ("tanh", 25 / 9)])
def test_weights_have_the_stated_variance(signals, activation, square):
    task = Task((8 * 8 * 3,), 10, (8, 8, 3))
    net = build_model("he_vgg:he_vgg11", task, seed=3, width=0.5, activation=activation)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 8
    for layer in layers:
        assert layer.bias is not None
        assert not layer.bias.any()
        fan_in = layer.weight[0].numel()
        # a variance of m normal numbers has the relative standard deviation sqrt(2/m)
        seen = float(layer.weight.detach().double().square().mean())
        assert seen == pytest.approx(square / fan_in, rel=5 * np.sqrt(2 / layer.weight.numel()))
    again = build_model("he_vgg:he_vgg11", task, seed=3, width=0.5, activation=activation)
    assert torch.equal(next(iter(again.parameters())), next(iter(net.parameters())))


def test_contexts_of_a_pair_and_of_chance(signals, capsys):
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 10, (40, 6))
    tokens[:20, 2:4] = (1, 2)  # twenty places that share the context 1, 2
    data = Dataset(tokens, np.zeros_like(tokens), 10, None, "text", tuple("abcdefghij"), kind="tokens", vocabulary=10)
    weights = rng.standard_normal(tokens.size) * 0.01
    weights[np.arange(20) * 6 + 3] = np.where(np.arange(20) % 2 == 0, 5.0, -5.0)
    pair = detect_in_projections(weights).pairs[0]
    assert sorted(signals.leaders(pair)) == [6 * i + 3 for i in range(20)]
    probes = signals.text_probes(data, pair, rng)
    assert probes["shared context"].tolist() == [[1, 2]]
    assert probes["random contexts"].shape == (signals.DRAWS, 2)
    assert not (probes["random contexts"] == [1, 2]).all(axis=1).any()
    assert "'bc'" in capsys.readouterr().out


def test_shuffled_steps_do_not_alternate_more_often_than_chance(signals):
    steps = np.arange(49)
    p = (0.5 + 0.1 * np.where(steps % 2 == 0, 1.0, -1.0))[:, None] * np.array([[1.0, -1.0]])
    pair = detect_in_projections(np.array([1.0, -1.0, 0.5])).pairs[0]
    pair = type(pair)(**{**vars(pair), "series": np.full(10, 0.1)})
    shuffled = signals._shuffled(p, np.random.default_rng(0), 0, pair)
    assert shuffled.p_value.shape == (signals.DRAWS, 2)
    # nominal 0.05 plus four standard errors of 99 draws
    assert (shuffled.p_value[:, 0] <= 0.05).mean() < 0.05 + 4 * np.sqrt(0.05 * 0.95 / signals.DRAWS)
