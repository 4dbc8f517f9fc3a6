"""Architectures: parameter counts, shapes, and derivatives of every order that the measurements take."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jvp

import nets.architectures
from analysis.curvature import flatten
from nets.architectures import GPT, MODELS, Task, build_model, gpt, mlp, resnet18, two_layer_linear, vgg11, vit
from nets.architectures.common import ImageRows
from nets.architectures.norms import BatchNorm, LayerNorm, with_exact_norms
from nets.architectures.transformer import Attention
from nets.options import MODELS as OPTIONS

IMAGES = Task((48,), 3, (4, 4, 3))
TOKENS = Task((5,), 7, vocabulary=7, per_position=True)
SMALL = {
    "mlp": (Task((6,), 3), {"widths": (5, 4)}),
    "mlp layer": (Task((6,), 3), {"widths": (5, 4), "norm": "layer"}),
    "mlp batch": (Task((6,), 3), {"widths": (5, 4), "norm": "batch"}),
    "linear2": (Task((6,), 3), {"width": 2}),
    "vgg11": (IMAGES, {"width": 1 / 32, "activation": "tanh"}),
    "vgg11 batch": (IMAGES, {"width": 1 / 32, "norm": "batch", "activation": "gelu"}),
    "resnet18 batch": (IMAGES, {"width": 1 / 32, "activation": "tanh"}),
    "resnet18 group": (IMAGES, {"width": 1 / 32, "norm": "group", "activation": "tanh"}),
    "resnet18 none": (IMAGES, {"width": 1 / 32, "norm": "none", "activation": "tanh"}),
    "vit": (IMAGES, {"patch": 2, "width": 8, "depth": 2, "heads": 2}),
    "gpt": (TOKENS, {"width": 8, "depth": 2, "heads": 2}),
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def count(module):
    return sum(p.numel() for p in module.parameters())


def on_meta(make):
    with torch.device("meta"):
        return count(make())


def test_parameter_counts_of_the_literature():
    """ResNet-18 for CIFAR and VGG-11 as in common CIFAR repositories; GPT-2 small as released."""
    assert on_meta(lambda: resnet18((32, 32, 3), 10)) == 11_173_962
    assert on_meta(lambda: resnet18((32, 32, 3), 10, norm="group")) == 11_173_962
    assert on_meta(lambda: vgg11((32, 32, 3), 10, norm="batch")) == 9_231_114
    assert on_meta(lambda: GPT(50257, 1024, width=768, depth=12, heads=12)) == 124_439_808


def test_parameter_counts_by_arithmetic():
    sizes = (64, 128, 256, 256, 512, 512, 512, 512)
    convolutions = sum(9 * a * b + b for a, b in zip((3, *sizes), sizes, strict=False))
    assert on_meta(lambda: vgg11((32, 32, 3), 10)) == convolutions + 512 * 10 + 10
    # a convolution without norm has a bias where the other two have a scale and a shift
    norms = 2 * (5 * 64 + 5 * 128 + 5 * 256 + 5 * 512)
    assert on_meta(lambda: resnet18((32, 32, 3), 10, norm="none")) == 11_173_962 - norms // 2
    d, patches = 64, (32 // 4) ** 2
    block = 12 * d * d + 13 * d
    assert count(vit((32, 32, 3), 10)) == (48 + 1) * d + patches * d + 4 * block + 2 * d + 10 * (d + 1)
    tied, free = (count(gpt(50, 16, width=d, depth=3, tied=t)) for t in (True, False))
    assert tied == 50 * d + 16 * d + 3 * block + 2 * d
    assert free - tied == 50 * d
    assert count(mlp(6, (5, 4), 3, norm="layer")) == count(mlp(6, (5, 4), 3)) + 2 * (5 + 4)
    assert count(two_layer_linear(6, 2, 3)) == 6 * 2 + 2 * 3


def sample(task, n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if task.vocabulary is not None:
        return torch.randint(0, task.vocabulary, (n, *task.input_shape), generator=generator)
    return torch.randn((n, *task.input_shape), generator=generator, dtype=torch.float64)


@pytest.fixture(params=SMALL)
def small(request):
    task, options = SMALL[request.param]
    return task, lambda **changes: build_model(request.param.split()[0], task, **options, **changes)


def test_shapes_seeds_and_types(small):
    task, make = small
    before = torch.random.get_rng_state()
    a, b, other, double = make(), make(), make(seed=1), make(dtype=torch.float64)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(flatten(list(a.parameters())), flatten(list(other.parameters())))
    assert all(torch.equal(p.double(), q) for p, q in zip(a.parameters(), double.parameters(), strict=True))
    assert not [name for name, buffer in a.named_buffers() if buffer is not None]
    x = sample(task)
    out = double(x)
    assert out.shape == ((6, 5, 7) if task.per_position else (6, 3))
    assert torch.equal(double(x), out)  # a forward pass changes nothing
    torch.set_default_dtype(torch.float64)
    try:
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), make().parameters(), strict=True))
    finally:
        torch.set_default_dtype(torch.float32)


def test_derivatives_agree_with_differences(small):
    """Along one direction: forward mode against values, double backward against forward mode, third against second."""
    task, make = small
    module, x = make(dtype=torch.float64), sample(task)
    names = [name for name, _ in module.named_parameters()]
    generator = torch.Generator().manual_seed(3)
    # away from the initial weights, where norms have scale 1 and a transformer's outputs are tiny
    base = [
        p.detach() + 0.2 * torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in module.parameters()
    ]
    v = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in base]
    v = [t / flatten(v).norm() for t in v]

    def losses(*params):
        out = functional_call(module, dict(zip(names, params, strict=True)), (x,))
        return out.square().flatten(1).sum(1)

    def at(t):
        return [(p + t * q).requires_grad_() for p, q in zip(base, v, strict=True)]

    def dot(tensors):
        return sum((a * b).sum() for a, b in zip(tensors, v, strict=True))

    def first(t):
        return jvp(losses, tuple(p.detach() for p in at(t)), tuple(v))[1]

    def second(t, points=None):
        points = points or at(t)
        gradient = torch.autograd.grad(losses(*points).mean(), points, create_graph=True)
        return dot(torch.autograd.grad(dot(gradient), points, create_graph=True, materialize_grads=True))

    def third():
        points = at(0.0)
        value = second(0.0, points)
        return dot(torch.autograd.grad(value, points, materialize_grads=True)) if value.requires_grad else value

    def difference(f, h=1e-5):
        return (f(h) - f(-h)).detach() / (2 * h)

    # a difference errs by h^2 f'''/6 + eps |f|/h: of 1e-11 and 1e-11 of the size of the function
    points = at(0.0)
    gradient = torch.autograd.grad(losses(*points).mean(), points)
    np.testing.assert_allclose(dot(gradient), first(0.0).mean(), rtol=1e-9, atol=1e-12)
    for derivative, integral in ((first(0.0), lambda t: losses(*at(t))), (second(0.0), lambda t: first(t).mean())):
        np.testing.assert_allclose(derivative.detach(), difference(integral), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(float(third().detach()), float(difference(second)), rtol=1e-6, atol=1e-8)
    assert abs(float(second(0.0).detach())) > 1e-4  # the direction is one along which something happens


def test_image_rows_are_height_width_channel():
    image = torch.arange(2 * 3 * 4 * 3.0).reshape(2, 3, 4, 3)
    out = ImageRows((3, 4, 3))(image.reshape(2, -1))
    assert out.shape == (2, 3, 3, 4)
    assert out[1, 2, 0, 3] == image[1, 0, 3, 2]
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert ImageRows((3, 4))(torch.zeros(2, 12)).shape == (2, 1, 3, 4)


def test_attention_is_that_of_torch():
    attention = Attention(8, 2, causal=True).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    q, k, v = (t.view(3, 5, 2, 4).transpose(1, 2) for t in attention.qkv(x).split(8, dim=2))
    expected = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    expected = attention.out(expected.transpose(1, 2).reshape(3, 5, 8))
    np.testing.assert_allclose(attention(x).detach(), expected.detach(), rtol=1e-12, atol=1e-14)


def test_a_decoder_does_not_see_later_tokens():
    net, tokens = gpt(7, 5, dtype=torch.float64), sample(TOKENS, 2)
    changed = tokens.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 7
    a, b = net(tokens), net(changed)
    assert torch.equal(a[:, :3], b[:, :3])
    assert not torch.allclose(a[:, 3:], b[:, 3:])
    last = gpt(7, 5, dtype=torch.float64, last_only=True, d_out=4)
    np.testing.assert_allclose(last(tokens).detach(), a[:, -1, :4].detach(), rtol=1e-12)


def test_a_vision_transformer_sees_patches():
    """Two pixels of one patch and of different patches: only the embedding tells them apart."""
    net = vit((8, 8), 3, patch=4, depth=1, dtype=torch.float64)
    with torch.no_grad():
        net.positions.zero_()
    x = sample(Task((64,), 3), 4)
    swapped = x.reshape(4, 2, 4, 8)[:, [1, 0]].reshape(4, 64)  # upper and lower row of patches
    np.testing.assert_allclose(net(x).detach(), net(swapped).detach(), rtol=1e-9, atol=1e-12)
    rolled = x.reshape(4, 8, 8).roll(1, 1).reshape(4, 64)
    assert not torch.allclose(net(x), net(rolled))


@pytest.mark.parametrize("shape", [(8, 5), (4, 5, 3, 2)])
def test_norms_are_those_of_torch_to_second_order_and_use_the_batch_alone(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    torches = [(nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(5, track_running_stats=False)]
    torches += [nn.LayerNorm(shape[-1]), nn.GroupNorm(5 if len(shape) > 2 else 1, 5)]
    for theirs in torches:
        theirs = theirs.double()
        nn.init.normal_(theirs.weight)
        nn.init.normal_(theirs.bias)
        ours = with_exact_norms(theirs)
        assert type(ours) is not type(theirs)
        assert ours.weight is theirs.weight
        values = []
        for norm in (theirs, ours, ours.eval()):
            out = norm(x)
            gradient = torch.autograd.grad((out**3).sum(), x, create_graph=True)[0]
            values.append((out, gradient, torch.autograd.grad(gradient.square().sum(), x)[0]))
        for others in values[1:]:
            for a, b in zip(values[0], others, strict=True):
                np.testing.assert_allclose(a.detach(), b.detach(), rtol=1e-9, atol=1e-9)


def user_net(task, width=2):
    return nn.Sequential(nn.Linear(task.input_shape[0], width), nn.Tanh(), nn.Linear(width, task.n_outputs))


def user_normed(task):
    norms = nn.LayerNorm(4), nn.BatchNorm1d(4, track_running_stats=False)
    return nn.Sequential(nn.Linear(task.input_shape[0], 4), nn.Sequential(*norms), nn.Linear(4, task.n_outputs))


def user_running(task):
    return nn.Sequential(nn.Linear(task.input_shape[0], 2), nn.BatchNorm1d(2))


def user_dropout(task):
    return nn.Sequential(nn.Linear(task.input_shape[0], 2), nn.Dropout())


def user_broken(task):
    raise RuntimeError("two\nlines")


def user_none(task):
    return None


def user_empty(task):
    return nn.Tanh()


def test_a_user_module_by_import_path():
    here = f"{__name__}:user_net"
    a, b = (build_model(here, Task((6,), 3), seed=4, width=3, dtype=d) for d in (torch.float32, torch.float64))
    assert count(a) == 7 * 3 + 4 * 3
    assert all(torch.equal(p.double(), q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    normed = build_model(f"{__name__}:user_normed", Task((6,), 3))
    assert [type(m) for m in normed[1]] == [LayerNorm, BatchNorm]


@pytest.mark.parametrize(
    ("name", "task", "options", "message"),
    [
        ("lenet", IMAGES, {}, "model must be one of mlp, linear2, .*got 'lenet'"),
        ("resnet18", Task((6,), 3), {}, "model resnet18 needs images"),
        ("gpt", IMAGES, {}, "model gpt needs tokens"),
        ("vit", TOKENS, {}, "model vit needs numbers"),
        ("vit", IMAGES, {"patch": 3}, "patch must divide the image, got 3 for 4x4"),
        ("vit", IMAGES, {"heads": 3}, "heads must divide width, got 3 for 64"),
        ("vgg11", IMAGES, {"width": 0.0}, "width must be positive, got 0.0"),
        ("vgg11", IMAGES, {"norm": "layer"}, "norm must be one of none, batch, group, got 'layer'"),
        ("vgg11", IMAGES, {"pool": "median"}, "pool must be one of max, average"),
        ("resnet18", IMAGES, {"activation": "sine"}, "activation must be one of tanh, relu, gelu, got 'sine'"),
        ("mlp", IMAGES, {"norm": "group"}, "norm must be one of none, layer, batch"),
        ("gpt", TOKENS, {"depth": 0}, "depth must be an integer >= 1, got 0"),
        (f"{__name__}:nothing", IMAGES, {}, "model must name a function of .*got nothing of that name"),
        ("no_such_module:make", IMAGES, {}, "no_such_module failed with ModuleNotFoundError"),
        (f"{__name__}:user_broken", IMAGES, {}, "user_broken failed with RuntimeError: two; correct it"),
        (f"{__name__}:user_none", IMAGES, {}, "must return a torch.nn.Module, got NoneType"),
        (f"{__name__}:user_empty", IMAGES, {}, "must have parameters, got none"),
        (f"{__name__}:user_running", IMAGES, {}, "running statistics in 1; pass track_running_stats=False"),
        (f"{__name__}:user_dropout", IMAGES, {}, "must be deterministic, got dropout in 1"),
    ],
)
def test_refusals_are_one_clear_line(name, task, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_model(name, task, **options)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)


def test_too_long_a_context():
    with pytest.raises(ValueError, match="tokens must have at most 5 positions, got 6"):
        gpt(7, 5)(torch.zeros(1, 6, dtype=torch.int64))


@pytest.mark.parametrize("name", MODELS)
def test_the_table_of_options_is_the_signature(name):
    factory = {"linear2": two_layer_linear}.get(name) or getattr(nets.architectures, name)
    signature = inspect.signature(factory).parameters
    for option, entry in OPTIONS[name].items():
        default = signature[option].default
        assert (
            option == "width" and name == "linear2" if default is inspect.Parameter.empty else default == entry.default
        )
    assert set(OPTIONS) == set(MODELS)
