"""Losses and their smoothing, for classes, numbers and tokens, against formulas in numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nets.losses import correct, per_example_loss


def log_softmax(f):
    return f - np.log(np.exp(f).sum(-1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_smoothed_targets(smoothing):
    rng = np.random.default_rng(1)
    f, y = rng.normal(size=(6, 3)), rng.integers(0, 3, 6)
    target = (1 - smoothing) * np.eye(3)[y] + smoothing / 3
    outputs, targets = torch.from_numpy(f), torch.from_numpy(y)
    ours = per_example_loss("squared", smoothing)(outputs, targets)
    np.testing.assert_allclose(ours, 0.5 * ((f - target) ** 2).sum(1), rtol=1e-12)
    ours = per_example_loss("cross_entropy", smoothing)(outputs, targets)
    np.testing.assert_allclose(ours, -(target * log_softmax(f)).sum(1), rtol=1e-12)


@pytest.mark.parametrize("name", ["squared", "cross_entropy"])
def test_every_token_is_an_example(name):
    rng = np.random.default_rng(2)
    f, y = rng.normal(size=(4, 5, 3)), rng.integers(0, 3, (4, 5))
    loss = per_example_loss(name)
    ours = loss(torch.from_numpy(f), torch.from_numpy(y)).reshape(4, 5)
    for i in range(4):
        for t in range(5):
            one = (
                -log_softmax(f[i, t])[y[i, t]]
                if name == "cross_entropy"
                else 0.5 * ((f[i, t] - np.eye(3)[y[i, t]]) ** 2).sum()
            )
            assert float(ours[i, t]) == pytest.approx(one, rel=1e-12)
    assert float(correct(torch.from_numpy(f), torch.from_numpy(y)).double().mean()) == (f.argmax(2) == y).mean()


def test_regression():
    rng = np.random.default_rng(3)
    f, y = rng.normal(size=(6, 2)), rng.normal(size=(6, 2))
    ours = per_example_loss("squared")(torch.from_numpy(f), torch.from_numpy(y))
    np.testing.assert_allclose(ours, 0.5 * ((f - y) ** 2).sum(1), rtol=1e-12)
    assert torch.isnan(correct(torch.from_numpy(f), torch.from_numpy(y))).all()
    for loss in (per_example_loss("cross_entropy"), per_example_loss("squared", 0.1)):
        with pytest.raises(ValueError, match="loss must be squared without smoothing for regression"):
            loss(torch.from_numpy(f), torch.from_numpy(y))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.floats(0, 0.9), st.integers(0, 10**6))
def test_cross_entropy_is_least_at_the_smoothed_target(k, smoothing, seed):
    rng = np.random.default_rng(seed)
    y = torch.tensor([int(rng.integers(k))])
    target = (1 - smoothing) * np.eye(k)[int(y)] + smoothing / k
    loss = per_example_loss("cross_entropy", smoothing)
    best = torch.from_numpy(np.log(np.maximum(target, 1e-30))[None])
    entropy = -(target * np.log(np.maximum(target, 1e-30))).sum()
    assert float(loss(best, y)) == pytest.approx(entropy, abs=1e-9)
    assert float(loss(torch.from_numpy(rng.normal(size=(1, k))), y)) >= entropy - 1e-9


def test_smoothing_out_of_range():
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 1\), got 1.0; pass e.g. 0.1"):
        per_example_loss("squared", 1.0)
