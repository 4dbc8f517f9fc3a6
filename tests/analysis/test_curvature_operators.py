"""Products with Hessian and Gauss-Newton matrices against dense ones, for the layers that make them go wrong."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from analysis.curvature import CurvatureTracker, LossCurvature, attribute, precondition, restrict, unflatten
from analysis.projection import example_losses


def squared(outputs, targets):
    return 0.5 * (outputs - targets).square().flatten(1).sum(1)


def softplus_loss(outputs, targets):  # no quadratic: the second derivative of the loss matters
    return (nn.functional.softplus(outputs) - targets * outputs).flatten(1).sum(1)


class Tied(nn.Module):
    """One matrix used twice, and a buffer that scales the outputs."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last.weight = self.first.weight
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 4))

    def forward(self, x):
        return self.scale * self.last(torch.tanh(self.first(x)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(4), nn.Linear(4, 12), nn.Linear(4, 4)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).reshape(len(x), -1, 3, 2, 2).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(x.shape))


def frozen():
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4))
    net[0].weight.requires_grad_(False)
    return net


def batchnorm(train):
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Dropout(0.5), nn.Linear(3, 4))
    net[1].running_mean.normal_()
    net.train(train)
    if train:
        net[3].eval()
    return net


def between(norm):
    return nn.Sequential(nn.Linear(4, 3), norm, nn.Tanh(), nn.Linear(3, 4))


MODELS = {
    "mlp": lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4)),
    "tied weights, buffer": Tied,
    "frozen weight": frozen,
    "batchnorm, evaluation": lambda: batchnorm(False),
    "batchnorm, batch statistics": lambda: batchnorm(True),
    "attention": Attention,
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 2), nn.GELU(), nn.Flatten(), nn.Linear(2, 4)
    ),
    "no bend": lambda: nn.Linear(4, 4),
    "layernorm": lambda: between(nn.LayerNorm(3)),
    "groupnorm": lambda: between(nn.GroupNorm(1, 3)),
    "rmsnorm": lambda: between(nn.RMSNorm(3)),
}


def make(name, dtype=torch.float64, n=13):
    torch.manual_seed(1)
    net = MODELS[name]().to(dtype)
    shape = (n, 3, 4) if name == "attention" else (n, 4)
    return net, torch.randn(shape, dtype=dtype), torch.rand(shape, dtype=dtype)


def dense(net, loss, x, y, names=None, chunks=None):
    """Hessian of the mean loss by autograd.functional on an independently written loss."""
    held = {k: p.detach() for k, p in net.named_parameters() if p.requires_grad and (names is None or k in names)}
    parts = chunks or [slice(None)]

    def total(flat):
        params = dict(zip(held, unflatten(flat, list(held.values())), strict=True))
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            outs = [functional_call(net, params, (x[c],)) for c in parts]
        return sum(loss(o, y[c]).sum() for o, c in zip(outs, parts, strict=True)) / len(x)

    flat = torch.cat([p.reshape(-1) for p in held.values()])
    return torch.autograd.functional.hessian(total, flat)


def columns(matvec, size, dtype=torch.float64):
    return torch.stack([matvec(e) for e in torch.eye(size, dtype=dtype)], dim=1)


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_the_product_alone_is_that_of_the_point(kind):
    net, x, y = make("mlp")
    curvature = LossCurvature(net, softplus_loss, x, y, chunk_size=5, kind=kind)
    point = curvature.point() + 0.3
    alone = columns(curvature.product(point), curvature.size)
    torch.testing.assert_close(alone, columns(curvature.linearise(point)[2], curvature.size))
    torch.nn.utils.vector_to_parameters(point.clone(), net.parameters())
    assert torch.equal(columns(curvature.product(), curvature.size), alone)
    if kind == "hessian":
        torch.testing.assert_close(alone, dense(net, softplus_loss, x, y), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", [squared, softplus_loss], ids=["squared", "softplus"])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_hessian_products(name, keep, loss):
    net, x, y = make(name)
    before = {k: b.clone() for k, b in net.named_buffers()}
    curvature = LossCurvature(net, loss, x, y, keep=keep)
    value, gradient, matvec = curvature.linearise()
    exact = dense(net, loss, x, y)
    torch.testing.assert_close(columns(matvec, curvature.size), exact, rtol=1e-9, atol=1e-12)
    for k, b in net.named_buffers():
        if ("running" not in k and "tracked" not in k) or not net.training:
            torch.testing.assert_close(b, before[k], rtol=0, atol=0)
    outputs = loss(net(x), y).mean()
    grads = torch.autograd.grad(outputs, [p for p in net.parameters() if p.requires_grad])
    assert value == pytest.approx(outputs.item(), rel=1e-12)
    torch.testing.assert_close(gradient, torch.cat([g.reshape(-1) for g in grads]), rtol=1e-10, atol=1e-14)


def test_running_statistics_are_left_alone():
    net, x, y = make("batchnorm, batch statistics")
    before = net[1].running_mean.clone()
    LossCurvature(net, squared, x, y).linearise()[2](torch.zeros(LossCurvature(net, squared, x, y).size).double())
    torch.testing.assert_close(net[1].running_mean, before, rtol=0, atol=0)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_unequal_chunks_have_the_weights_of_their_sizes(kind, keep):
    net, x, y = make("mlp")
    whole = LossCurvature(net, softplus_loss, x, y, kind=kind)
    parts = LossCurvature(net, softplus_loss, [x[:2], x[2:]], [y[:2], y[2:]], chunk_size=5, kind=kind, keep=keep)
    assert [len(a) for a, _ in parts.chunks] == [2, 5, 5, 1]
    v = torch.randn(whole.size, dtype=torch.float64)
    (la, ga, ha), (lb, gb, hb) = whole.linearise(), parts.linearise()
    assert la == pytest.approx(lb, rel=1e-13)
    torch.testing.assert_close(ga, gb, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(ha(v), hb(v), rtol=1e-11, atol=1e-14)


def test_batch_statistics_are_those_of_each_chunk():
    net, x, y = make("batchnorm, batch statistics")
    parts = LossCurvature(net, squared, x, y, chunk_size=7)
    exact = dense(net, squared, x, y, chunks=[slice(0, 7), slice(7, 13)])
    torch.testing.assert_close(columns(parts.linearise()[2], parts.size), exact, rtol=1e-9, atol=1e-12)
    assert (exact - dense(net, squared, x, y)).abs().max() > 1e-3  # and the loss does depend on the chunks


@pytest.mark.parametrize("name", ["mlp", "tied weights, buffer", "attention", "batchnorm, evaluation"])
def test_gauss_newton_products(name):
    net, x, y = make(name, n=4)
    curvature = LossCurvature(net, softplus_loss, x, y, kind="gauss_newton")
    held = {k: p.detach() for k, p in net.named_parameters()}

    def outputs(flat):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            params = dict(zip(held, unflatten(flat, list(held.values())), strict=True))
            return functional_call(net, params, (x,)).reshape(-1)

    flat = curvature.point()
    jacobian = torch.autograd.functional.jacobian(outputs, flat)
    slope = torch.sigmoid(outputs(flat))
    exact = jacobian.T @ ((slope * (1 - slope))[:, None] * jacobian) / len(x)
    torch.testing.assert_close(columns(curvature.linearise()[2], curvature.size), exact, rtol=1e-9, atol=1e-12)


def test_layers_groups_and_examples():
    net, x, y = make("mlp")
    whole = dense(net, squared, x, y)
    names = [k for k, _ in net.named_parameters()]
    sizes = [p.numel() for p in net.parameters()]
    layer = LossCurvature(net, squared, x, y, parameters=[names[2], names[3]])
    entries = torch.arange(sum(sizes[:2]), sum(sizes))
    torch.testing.assert_close(
        columns(layer.linearise()[2], layer.size), whole[entries][:, entries], rtol=1e-9, atol=1e-12
    )
    full = LossCurvature(net, squared, x, y).linearise()[2]
    product = restrict(full, entries, sum(sizes))
    torch.testing.assert_close(columns(product, len(entries)), whole[entries][:, entries], rtol=1e-9, atol=1e-12)
    picked = torch.tensor([7, 1, 4])
    some = LossCurvature(net, squared, x, y, examples=picked)
    torch.testing.assert_close(
        columns(some.linearise()[2], some.size), dense(net, squared, x[picked], y[picked]), rtol=1e-9, atol=1e-12
    )


def test_effective_sharpness_is_the_top_eigenvalue_of_the_preconditioned_hessian():
    net, x, y = make("mlp")
    exact = dense(net, squared, x, y)
    diagonal = torch.rand(len(exact), dtype=torch.float64) + 0.1
    matvec, root = precondition(LossCurvature(net, squared, x, y).linearise()[2], diagonal)
    found = CurvatureTracker(1, tol=1e-6).measure(matvec, torch.zeros(len(exact), dtype=torch.float64))
    unsymmetric = torch.diag(1 / diagonal) @ exact
    assert found.top == pytest.approx(torch.linalg.eigvals(unsymmetric).real.max().item(), rel=1e-6)
    vector = root * CurvatureTracker(1, tol=1e-12, max_products=60).measure(matvec, torch.zeros_like(root)).vectors[0]
    torch.testing.assert_close(unsymmetric @ vector, found.top * vector, rtol=0, atol=1e-5 * found.top)


def test_a_compiled_module_has_the_products_of_the_module():
    net = MODELS["mlp"]()
    compiled = torch.compile(net, backend="aot_eager")
    x, y, v = torch.randn(5, 4), torch.randn(5, 4), torch.randn(31)
    torch.testing.assert_close(compiled(x), net(x))
    names = [name for name, _ in compiled.named_parameters()]
    ours = LossCurvature(compiled, squared, x, y, parameters=names)
    expected = LossCurvature(net, squared, x, y)
    torch.testing.assert_close(ours.linearise()[2](v), expected.linearise()[2](v))


def test_linearise_elsewhere_leaves_the_module_and_survives_its_updates():
    net, x, y = make("mlp")
    curvature = LossCurvature(net, softplus_loss, x, y)
    here = curvature.point()
    there = here + 0.3
    _, _, matvec = curvature.linearise(there)
    torch.testing.assert_close(curvature.point(), here, rtol=0, atol=0)
    v = torch.randn(curvature.size, dtype=torch.float64)
    first = matvec(v)
    with torch.no_grad():
        nn.utils.vector_to_parameters(there, net.parameters())
    torch.testing.assert_close(first, dense(net, softplus_loss, x, y) @ v, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(matvec(v), first, rtol=1e-12, atol=1e-14)


def test_float32_agrees_with_float64():
    net, x, y = make("mlp")
    double = LossCurvature(net, softplus_loss, x, y).linearise()[2]
    single = LossCurvature(net.float(), softplus_loss, x.float(), y.float()).linearise()[2]
    v = torch.randn(31, dtype=torch.float64)
    error = (single(v.float()).double() - double(v)).norm() / double(v).norm()
    assert error < 100 * torch.finfo(torch.float32).eps  # sums of a few dozen terms


@pytest.mark.parametrize(
    "name", ["mlp", "attention", "batchnorm, evaluation", "tied weights, buffer", "groupnorm", "rmsnorm"]
)
def test_attribution_against_each_examples_dense_hessian(name):
    net, x, y = make(name, n=6)
    params = [p for p in net.parameters() if p.requires_grad]
    u = torch.randn(sum(p.numel() for p in params), dtype=torch.float64)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        got = attribute(example_losses(net, softplus_loss, x, y), params, 3.0 * u)
    u = u / u.norm()
    exact = torch.stack([u @ dense(net, softplus_loss, x[i : i + 1], y[i : i + 1]) @ u for i in range(6)])
    torch.testing.assert_close(got.curvatures, exact, rtol=1e-9, atol=1e-12)
    assert got.curvatures.mean().item() == pytest.approx((u @ dense(net, softplus_loss, x, y) @ u).item(), rel=1e-9)
    grads = torch.autograd.grad(softplus_loss(net(x[2:3]), y[2:3]).sum(), params)
    slope = torch.cat([g.reshape(-1) for g in grads]) @ u
    assert got.slopes[2].item() == pytest.approx(slope.item(), rel=1e-9)
    assert got.share(torch.tensor([0, 3])) == pytest.approx((exact[[0, 3]].sum() / exact.sum()).item(), rel=1e-9)


@pytest.mark.parametrize("name", ["layernorm", "batchnorm, batch statistics"])
def test_attribution_where_nested_forward_mode_is_wrong(name):
    """Against double backward of each example's loss, which is right for these layers; all examples in one batch."""
    net, x, y = make(name, n=6)
    before = {k: b.clone() for k, b in net.named_buffers()}
    losses, params = example_losses(net, softplus_loss, x, y), [p.detach() for p in net.parameters()]
    u = torch.randn(sum(p.numel() for p in params), dtype=torch.float64)
    with torch.no_grad():  # as it may be called while training
        got = attribute(losses, params, 3.0 * u)
    flat, u = torch.cat([p.reshape(-1) for p in params]), u / u.norm()
    hessians = [
        torch.autograd.functional.hessian(lambda p, i=i: losses(unflatten(p, params))[i], flat) for i in range(6)
    ]
    exact = torch.stack([u @ hessian @ u for hessian in hessians])
    # differences: rounding unit^(2/3), 4e-11, times the ratio of a third to a first derivative, some tens here
    torch.testing.assert_close(got.curvatures, exact, rtol=0, atol=1e-8 * float(exact.abs().max()))
    slopes = torch.autograd.functional.jacobian(lambda p: losses(unflatten(p, params)), flat) @ u
    torch.testing.assert_close(got.slopes, slopes, rtol=1e-9, atol=1e-12)
    for k, b in net.named_buffers():
        torch.testing.assert_close(b, before[k], rtol=0, atol=0)


BAD = [
    ({"kind": "fisher"}, "kind must be hessian or gauss_newton, got 'fisher'"),
    ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
    ({"parameters": ["9.weight"]}, "parameters must be trainable ones of the module"),
    ({"parameters": []}, "parameters must name at least one"),
    ({"examples": torch.ones(13, dtype=torch.bool)}, "examples must be indices"),
    ({"targets": torch.zeros(5, 4)}, "equal lengths > 0"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_arguments_are_named(change, message):
    net, x, y = make("mlp")
    given = {"inputs": x, "targets": y} | change
    with pytest.raises(ValueError, match=message):
        LossCurvature(net, squared, **given)


def test_a_mean_loss_is_refused():
    net, x, y = make("mlp")
    with pytest.raises(ValueError, match=r"loss must return one value per example, shape \(13,\), got \(\)"):
        LossCurvature(net, lambda o, t: squared(o, t).mean(), x, y).linearise()


def test_bad_preconditioner_and_direction():
    with pytest.raises(ValueError, match="diagonal must be positive and finite, got 0"):
        precondition(lambda v: v, torch.tensor([1.0, 0.0]))
    net, x, y = make("mlp")
    with pytest.raises(ValueError, match="direction must have a finite norm > 0, got 0"):
        attribute(example_losses(net, squared, x, y), list(net.parameters()), torch.zeros(31))
