"""Architectures and losses against formulas written out."""

import numpy as np
import pytest
import torch

from nets.architectures import mlp
from nets.losses import per_example_loss


def test_seed_decides_the_weights_and_the_global_state_is_untouched():
    before = torch.random.get_rng_state()
    a, b, other = (mlp(5, (4, 3), 2, seed=s) for s in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    flat = [torch.nn.utils.parameters_to_vector(m.parameters()).detach() for m in (a, b, other)]
    assert torch.equal(flat[0], flat[1])
    assert not torch.equal(flat[0], flat[2])
    assert flat[0].numel() == 5 * 4 + 4 + 4 * 3 + 3 + 3 * 2 + 2


def test_float64_starts_from_the_same_numbers():
    a, b = (mlp(5, (4,), 2, dtype=d) for d in (torch.float32, torch.float64))
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p.double(), q)


PHI = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0), "linear": lambda z: z}


@pytest.mark.parametrize(("activation", "phi"), PHI.items())
def test_forward_is_the_formula(activation, phi):
    net = mlp(5, (4,), 2, activation=activation, dtype=torch.float64)
    w1, b1, w2, b2 = (p.detach().numpy() for p in net.parameters())
    x = np.random.default_rng(0).normal(size=(7, 5))
    out = net(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(out, phi(x @ w1.T + b1) @ w2.T + b2, rtol=1e-12)


def test_a_network_without_biases_started_orthogonally():
    net = mlp(6, (4, 4), 3, activation="linear", bias=False, init="orthogonal", dtype=torch.float64)
    weights = [p.detach().numpy() for p in net.parameters()]
    assert [w.shape for w in weights] == [(4, 6), (4, 4), (3, 4)]
    for w in weights:
        np.testing.assert_allclose(w @ w.T, np.eye(len(w)), atol=1e-6)  # drawn in float32
    x = np.random.default_rng(0).normal(size=(7, 6))
    out = net(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(out, x @ (weights[2] @ weights[1] @ weights[0]).T, rtol=1e-12)
    wide = [p for p in mlp(3, (5,), 2, init="orthogonal").parameters() if p.ndim == 2]
    torch.testing.assert_close(wide[0].T @ wide[0], torch.eye(3))
    assert all((p == 0).all() for p in mlp(3, (5,), 2, init="orthogonal").parameters() if p.ndim == 1)


def test_losses_are_the_formulas():
    rng = np.random.default_rng(1)
    f, y = rng.normal(size=(6, 3)), rng.integers(0, 3, 6)
    outputs, targets = torch.from_numpy(f), torch.from_numpy(y)
    onehot = np.eye(3)[y]
    np.testing.assert_allclose(per_example_loss("squared")(outputs, targets), 0.5 * ((f - onehot) ** 2).sum(1))
    log_z = np.log(np.exp(f).sum(1))
    np.testing.assert_allclose(per_example_loss("cross_entropy")(outputs, targets), log_z - f[np.arange(6), y])


def test_unknown_names():
    with pytest.raises(ValueError, match="activation must be one of tanh, relu, linear, got 'gelu'"):
        mlp(2, (2,), 2, activation="gelu")
    with pytest.raises(ValueError, match="loss must be one of squared, cross_entropy, got 'hinge'"):
        per_example_loss("hinge")
