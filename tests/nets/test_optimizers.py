"""Optimizers against the theory's simulator, against rules written out in numpy, and against torch's own."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import toymodels
from nets.architectures import two_layer_linear
from nets.data import gaussian
from nets.optimizers import SAM, SplitSGD, make_optimizer
from nets.options import OPTIMIZERS
from toymodels.model import ReducedState, TwoLayerLinear
from toymodels.optimizers import GD
from toymodels.optimizers import make_optimizer as make_rule

START = ReducedState(c=1.0, b_par=0.3, b_perp=0.4, u=0.2)
ALPHA = 5.0


def descend(optimizer, params, loss, steps):
    """The parameters after every step, (steps + 1, P)."""

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    path = [torch.cat([p.detach().flatten() for p in params])]
    for _ in range(steps):
        optimizer.step(closure)
        path.append(torch.cat([p.detach().flatten() for p in params]))
    return torch.stack(path)


def two_layer(name, lr, steps, **options):
    r"""Train $c\,(b^\top x + b_o x_o)$, d1 = 2, d2 = 1: its four weights are those of the reduced model."""
    data = gaussian(40, d1=2, d2=1, alpha=ALPHA, p=0.2, whitened=True)
    x, y = data.tensors(torch.float64)
    net = two_layer_linear(3, 1, 1, dtype=torch.float64)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[START.b_par, START.b_perp, START.u]], dtype=torch.float64))
        net[1].weight.fill_(START.c)
    params = list(net.parameters())
    optimizer = make_optimizer(name, params, lr, **options)
    path = descend(optimizer, params, lambda: (net(x) - y).square().mean() / 2, steps)
    return path.numpy()[:, [3, 0, 1, 2]], optimizer


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gd", {}),
        ("gd", {"weight_decay": 0.1}),
        ("heavy_ball", {"momentum": 0.8}),
        ("nesterov", {"momentum": 0.8}),
        ("adam", {"beta1": 0.8, "beta2": 0.9, "eps": 1e-3}),
        ("sam", {"rho": 0.03}),
        ("split_sgd", {"momentum": 0.7, "dampening": 0.6, "threshold": 0.2, "signed_lr": 0.01}),
    ],
)
def test_the_two_layer_model_moves_as_the_simulator_says(name, options):
    """The simulator's kernels are generated from the symbolic rules; here torch differentiates the data's loss."""
    steps, lr = 60, 0.05
    ours, optimizer = two_layer(name, lr, steps, **options)
    rule = GD(**options) if name == "gd" else type(make_rule(name))(**options)
    theirs = toymodels.simulate(TwoLayerLinear(d1=2, d2=1, alpha=ALPHA, p=0.2), rule, lr, steps, start=START)
    expected = np.stack([theirs[n].values.reshape(-1) for n in ("c", "b_par", "b_perp", "u")], axis=1)
    assert np.abs(expected[-1] - expected[0]).min() > 0.02
    if name == "nesterov":  # torch keeps the look-ahead point w + mu v, with v = -lr * momentum_buffer
        buffers = [optimizer.state[p]["momentum_buffer"].flatten() for p in optimizer.param_groups[0]["params"]]
        ours[-1] += lr * 0.8 * torch.cat(buffers).numpy()[[3, 0, 1, 2]]
        ours, expected = ours[-1:], expected[-1:]
    # rounding grows by at most the largest factor per step, which is near 1 for all of these
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


def quadratic(seed=0, sizes=(3, 4)):
    generator = torch.Generator().manual_seed(seed)
    params = [torch.randn(n, generator=generator, dtype=torch.float64).requires_grad_() for n in sizes]
    scales = [10 ** torch.linspace(-2, 0, n, dtype=torch.float64) for n in sizes]
    return params, lambda: sum((s * (p**2) / 2 + p**4 / 8).sum() for s, p in zip(scales, params, strict=True))


def gradient(w, sizes=(3, 4)):
    return np.concatenate([np.logspace(-2, 0, n) for n in sizes]) * w + w**3 / 2


def test_split_sgd_is_its_formula():
    options = {"momentum": 0.7, "dampening": 0.4, "threshold": 0.3, "signed_lr": 0.02, "weight_decay": 0.1}
    params, loss = quadratic()
    optimizer = SplitSGD(params, 0.1, **options)
    path = descend(optimizer, params, loss, 40).numpy()
    w, m, kinds = path[0].copy(), np.zeros(7), []
    for n in range(40):
        g = gradient(w) + 0.1 * w
        m = 0.7 * m + 0.6 * g
        large = np.abs(m) > 0.3
        w = w - np.where(large, 0.02 * np.sign(m), 0.1 * g)
        kinds.append(large.mean())
        # coordinates of size 2 at the start leave rounding errors of some 1e-16 each step
        np.testing.assert_allclose(path[n + 1], w, rtol=1e-11, atol=1e-14)
    assert 0 < np.mean(kinds) < 1
    assert optimizer.signed_share() == kinds[-1]


def test_split_sgd_has_sgd_and_sign_sgd_as_its_limits():
    for changes, other in (({"threshold": 1e300}, "sgd"), ({"threshold": 1e-300, "momentum": 0.0}, "sign")):
        params, loss = quadratic()
        ours = descend(SplitSGD(params, 0.1, signed_lr=0.02, **changes), params, loss, 30)
        params, loss = quadratic()
        if other == "sgd":
            theirs = descend(torch.optim.SGD(params, 0.1), params, loss, 30)
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        else:
            w = theirs = [ours[0].numpy()]
            for _ in range(30):
                w.append(w[-1] - 0.02 * np.sign(gradient(w[-1])))
            np.testing.assert_allclose(ours, np.array(theirs), rtol=1e-10, atol=1e-13)


def test_split_sgd_foreach_is_the_loop_to_the_bit():
    paths = []
    for foreach in (True, False):
        params, loss = quadratic()
        groups = [{"params": params[:1], "threshold": 0.5}, {"params": params[1:], "lr": 0.03}]
        paths.append(descend(SplitSGD(groups, 0.1, foreach=foreach, weight_decay=0.01), params, loss, 25))
    assert torch.equal(*paths)


def test_split_sgd_leaves_what_has_no_gradient():
    params, _ = quadratic()
    before = params[1].detach().clone()
    optimizer = SplitSGD(params, 0.1)
    assert optimizer.signed_share() == 0.0
    params[0].sum().backward()
    optimizer.step()
    assert torch.equal(params[1], before)
    assert not torch.equal(params[0], torch.zeros(3))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_dict_goes_on_to_the_same_bits(name):
    options = {"momentum": 0.8} if name in ("sgd", "sam", "rmsprop") else {}
    params, loss = quadratic()
    whole = descend(make_optimizer(name, params, 0.05, **options), params, loss, 12)
    params, loss = quadratic()
    first = make_optimizer(name, params, 0.05, **options)
    descend(first, params, loss, 5)
    kept = first.state_dict()
    again = [p.detach().clone().requires_grad_() for p in params]
    second = make_optimizer(name, again, 0.05, **options)
    second.load_state_dict(kept)
    rest = descend(second, again, lambda: loss_of(again), 7)
    assert torch.equal(rest, whole[5:])


def loss_of(params):
    scales = [10 ** torch.linspace(-2, 0, p.numel(), dtype=torch.float64) for p in params]
    return sum((s * (p**2) / 2 + p**4 / 8).sum() for s, p in zip(scales, params, strict=True))


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("gd", {}, lambda p: torch.optim.SGD(p, 0.05)),
        ("sgd", {"momentum": 0.5, "dampening": 0.2}, lambda p: torch.optim.SGD(p, 0.05, 0.5, 0.2)),
        ("nesterov", {}, lambda p: torch.optim.SGD(p, 0.05, 0.9, nesterov=True)),
        ("adamw", {}, lambda p: torch.optim.AdamW(p, 0.05)),
        ("adam", {"weight_decay": 0.1}, lambda p: torch.optim.Adam(p, 0.05, weight_decay=0.1)),
        ("rmsprop", {"alpha": 0.9}, lambda p: torch.optim.RMSprop(p, 0.05, 0.9)),
        ("sam", {"rho": 0.0, "momentum": 0.5}, lambda p: torch.optim.SGD(p, 0.05, 0.5)),
    ],
)
def test_the_factory_gives_torchs_optimizers(name, options, theirs):
    paths = []
    for make in (lambda p: make_optimizer(name, p, 0.05, **options), theirs):
        params, loss = quadratic()
        paths.append(descend(make(params), params, loss, 20))
    assert torch.equal(*paths)


@pytest.mark.parametrize("normalised", [False, True])
def test_sam_is_its_formula(normalised):
    params, loss = quadratic()
    optimizer = SAM(torch.optim.SGD(params, 0.1, momentum=0.5), rho=0.2, normalised=normalised)
    path = descend(optimizer, params, loss, 20).numpy()
    w, m = path[0].copy(), np.zeros(7)
    for n in range(20):
        g = gradient(w)
        m = 0.5 * m + gradient(w + 0.2 * (g / np.linalg.norm(g) if normalised else g))
        w = w - 0.1 * m
        # coordinates of size 2 at the start leave rounding errors of some 1e-16 each step
        np.testing.assert_allclose(path[n + 1], w, rtol=1e-11, atol=1e-14)


def test_normalised_sam_stands_still_where_the_gradient_vanishes():
    params = [torch.zeros(3, requires_grad=True)]
    path = descend(SAM(torch.optim.SGD(params, 0.1), normalised=True), params, lambda: (params[0] ** 2).sum(), 2)
    assert torch.equal(path, torch.zeros(3, 3))


def test_sam_returns_the_loss_before_the_step():
    params, loss = quadratic()
    before = float(loss().detach())

    def closure():
        value = loss()
        value.backward()
        return value

    assert float(make_optimizer("sam", params, 0.1).step(closure).detach()) == before


@pytest.mark.parametrize("name", ["gd", "split_sgd", "sam"])
def test_clipping_bounds_the_gradient_over_all_parameters(name):
    options = {"sam": {"rho": 0.0}, "split_sgd": {"threshold": 1e9}}.get(name, {})
    params, loss = quadratic()
    path = descend(make_optimizer(name, params, 0.1, clip_norm=0.3, **options), params, loss, 25).numpy()
    for w, new in pairwise(path):
        g = gradient(w)
        # torch divides by the norm + 1e-6
        expected = g * min(1.0, 0.3 / (np.linalg.norm(g) + 1e-6))
        np.testing.assert_allclose(w - new, 0.1 * expected, rtol=1e-9, atol=1e-15)
    assert np.linalg.norm(gradient(path[0])) > 0.3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: SplitSGD(p, -0.1), "lr must be positive, got -0.1; pass lr > 0"),
        (lambda p: SplitSGD(p, signed_lr=0.0), "signed_lr must be positive, got 0.0"),
        (lambda p: SplitSGD(p, threshold=float("nan")), "threshold must be positive, got nan"),
        (lambda p: SplitSGD(p, momentum=1.0), r"momentum must lie in \[0, 1\), got 1.0; pass e.g. 0.9"),
        (lambda p: SplitSGD(p, dampening=-0.1), "dampening must lie in"),
        (lambda p: SplitSGD(p, weight_decay=-1.0), "weight_decay must be >= 0, got -1.0"),
        (lambda p: SplitSGD([{"params": p, "lr": 0.0}]), "lr must be positive, got 0.0"),
        (lambda p: SAM(torch.optim.SGD(p, 0.1), rho=-1.0), "rho must be >= 0, got -1.0"),
        (lambda p: SAM(torch.optim.SGD(p, 0.1)).step(), "closure must be given to SAM, got None"),
        (lambda p: make_optimizer("lion", p, 0.1), "optimizer must be one of gd, sgd, .*got 'lion'"),
        (lambda p: make_optimizer("gd", p, 0.0), "lr must be positive, got 0.0"),
        (lambda p: make_optimizer("gd", p, 0.1, momentum=0.9), "optimizer gd has options weight_decay, clip_norm, got"),
        (lambda p: make_optimizer("adam", p, 0.1, beta2=1.0), "beta2 must be a number >= 0 and < 1, got 1.0"),
        (lambda p: make_optimizer("sam", p, 0.1, normalised=1), "normalised must be true or false, got 1"),
    ],
)
def test_refusals_are_one_clear_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make([torch.zeros(2, requires_grad=True)])
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)
