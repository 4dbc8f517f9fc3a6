"""The network before the reduction: equal to the reduced model to rounding, and to autograd, batch by batch."""

import numpy as np
import pytest
import torch

from toymodels import ReducedState, TwoLayerLinear, simulate_gd
from toymodels.network import draw_sample, simulate_network

MODEL = TwoLayerLinear(d1=12, d2=7, beta=1.3, alpha=40.0, p=0.2, gamma=0.05)


def test_reduced_equals_unreduced_to_rounding():
    """On a whitened sample the four numbers of the reduction are the network's, through onset and beyond."""
    sample = draw_sample(MODEL, 200, 0, whitened=True)
    assert np.abs(sample.x.T @ sample.x / 200 - np.eye(12)).max() < 1e-13
    assert np.mean(sample.projection**2) == pytest.approx(40.0)
    lr = np.array([0.01, 0.05])
    b = 0.5 * sample.beta / 1.3 + 0.05 * np.eye(12)[0]
    full = simulate_network(sample, lr, 150, c=0.95, b=b, u=0.01)
    start = full.isel(run=0, step=0)
    state = ReducedState(float(start.c), float(start.b_par), float(start.b_perp), float(start.u))
    reduced = simulate_gd(state, 1.3, 40.0, lr, 150)
    assert int(reduced.peak_step[1]) > int(reduced.onset_step[1]) > 0
    for name in ("c", "b_par", "b_perp"):
        np.testing.assert_allclose(full[name].values, reduced[name].values, rtol=1e-9, atol=1e-12)
    # the network's u carries rounding of order 1e-16 at every step, which grows as u itself grows past onset
    u = np.abs(reduced.u.values)
    growth = u / np.minimum.accumulate(u, axis=1)
    assert (np.abs(full.u.values - reduced.u.values) <= 1e-14 * growth).all()
    assert growth.max() > 1e3
    offset = MODEL.p * (MODEL.gamma * np.sqrt(7) * np.sqrt(40 / 0.2)) ** 2 / 2
    np.testing.assert_allclose(full.loss.values, reduced.loss.values + offset, rtol=1e-9)
    plus, minus = MODEL.group_losses(ReducedState(full.c.values, full.b_par.values, full.b_perp.values, full.u.values))
    # the groups' own x differ from the population's: their difference carries no x at first order in the mean
    assert np.corrcoef((plus - minus).ravel(), (full.loss_plus - full.loss_minus).values.ravel())[0, 1] > 0.99


def test_whole_vector_of_the_opposing_layer_moves_only_along_ones():
    """The part of b_o across 1 receives no gradient, by autograd on the vector form."""
    sample = draw_sample(MODEL, 100, 3, whitened=True)
    x_o = np.outer(sample.projection / np.sqrt(7), np.ones(7))
    rng = np.random.default_rng(0)
    b, b_o, c = (torch.tensor(rng.normal(size=s), dtype=torch.float64, requires_grad=True) for s in ((12,), (7,), ()))
    f = c * (torch.from_numpy(sample.x) @ b + torch.from_numpy(x_o) @ b_o)
    loss = ((f - torch.from_numpy(sample.target)) ** 2).mean() / 2
    g = torch.autograd.grad(loss, b_o)[0].numpy()
    assert np.abs(g - g.mean()).max() < 1e-12 * max(1.0, np.abs(g).max())


@pytest.mark.parametrize("replacement", [False, True])
def test_minibatches_against_autograd(replacement):
    sample = draw_sample(MODEL, 50, 5)
    run = simulate_network(sample, 0.01, 40, batch_size=8, seed=2, replacement=replacement).isel(run=0)
    rng = np.random.default_rng(2)
    rng.normal(size=12)  # the direction of b
    rows = (
        rng.integers(0, 50, size=(40, 8))
        if replacement
        else np.concatenate([rng.permutation(50)[:48].reshape(6, 8) for _ in range(7)])[:40]
    )
    along = sample.beta / 1.3
    first = np.random.default_rng(2).normal(size=12)
    across = first - along * (along @ first)
    reference = MODEL.reference_state()
    b = torch.tensor(reference.b_par * along + reference.b_perp * across / np.linalg.norm(across), requires_grad=True)
    c, u = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.0, reference.u))
    x, p, y = (torch.from_numpy(v) for v in (sample.x, sample.projection, sample.target))
    for row in rows:
        loss = ((c * (x[row] @ b + p[row] * u) - y[row]) ** 2).mean() / 2
        for w, g in zip((b, c, u), torch.autograd.grad(loss, (b, c, u)), strict=True):
            w.data -= 0.01 * g
    assert float(run.c[-1]) == pytest.approx(c.item(), rel=1e-11)
    assert float(run.u[-1]) == pytest.approx(u.item(), rel=1e-9)
    assert float(run.b_par[-1]) == pytest.approx(float(b.detach().numpy() @ along), rel=1e-10)


def test_sgd_jitters_along_the_opposing_direction_below_the_edge():
    """Full batch: u dies. Minibatches: u keeps moving, although s stays below 2 (and the null, gamma = 0, far less)."""
    found = {}
    for gamma in (0.0, 0.05):
        model = TwoLayerLinear(d1=12, d2=7, beta=1.0, alpha=40.0, p=0.2, gamma=gamma)
        sample = draw_sample(model, 400, 7, whitened=True)
        for size in (None, 40):
            run = simulate_network(sample, 0.01, 4000, batch_size=size, seed=1).isel(run=0)
            assert float((0.01 * 40 * run.c**2).max()) < 1.5
            found[gamma, size] = float(run.u[2000:].std())
    assert found[0.05, None] < 1e-12
    assert found[0.05, 40] > 1e-4
    assert found[0.05, 40] > 5 * found[0.0, 40]


def test_divergence_is_a_status_and_bad_input_is_named():
    sample = draw_sample(MODEL, 50, 0)
    run = simulate_network(sample, [0.001, 5.0], 100)
    assert run.status.values.tolist() == [0, 2]
    assert int(run.last_step[1]) < 100
    for call, message in (
        (lambda: draw_sample(MODEL, 0, 0), "n_examples must be an integer"),
        (lambda: draw_sample(MODEL, 10, 0, whitened=True), "n_examples must be at least d1"),
        (lambda: draw_sample(MODEL, 20, 0, delta=1.5), "delta must lie in"),
        (lambda: draw_sample(MODEL, 20, 0, direction=[1.0]), "direction must be a vector"),
        (lambda: simulate_network(sample, -1, 5), "lr must be positive"),
        (lambda: simulate_network(sample, 0.1, 0), "steps must be"),
        (lambda: simulate_network(sample, 0.1, 5, batch_size=51), "batch_size must be at most"),
        (lambda: simulate_network(sample, 0.1, 5, b=[1.0]), "b must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
