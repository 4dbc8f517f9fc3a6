"""Fused and compiled steps: the same numbers to rounding, the same bits when resumed, one line where they fail."""

import numpy as np
import pytest
import torch
from small_runs import assert_same_run, small

from nets.architectures.kernels import first_derivatives_only
from nets.architectures.norms import BatchNorm, GroupNorm, LayerNorm
from nets.architectures.transformer import Attention
from nets.config import ConfigError
from nets.run import Run, create_run
from opposing.cli import main

MODELS = {
    "mlp": {"model_options": ("norm=layer",)},
    "resnet18": {"model": "resnet18", "widths": (64, 64), "model_options": ("width=0.05",)},
    "vgg11": {"model": "vgg11", "widths": (64, 64), "model_options": ("width=0.05", "norm=batch")},
    "vit": {"model": "vit", "widths": (64, 64), "model_options": ("width=8", "depth=1", "heads=2")},
}


def finished(directory, stops=(), **changes):
    create_run(directory, small(**changes))
    for n in (*stops, None):
        Run.open(directory).advance(until=n)
    return Run.open(directory).history()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # inside torch
@pytest.mark.parametrize("model", ["mlp", "vgg11", "vit"])
def test_compiled_equals_uncompiled_and_resumes_to_the_same_bits(tmp_path, model):
    options = {**MODELS[model], "steps": 12, "eig_every": 5, "dtype": "float64"}
    plain = finished(tmp_path / "plain", **options)
    whole = finished(tmp_path / "whole", kernels="compiled", **options)
    np.testing.assert_allclose(whole.example_loss, plain.example_loss, rtol=1e-10)
    np.testing.assert_allclose(whole.grad_norm, plain.grad_norm, rtol=1e-9)
    np.testing.assert_array_equal(whole.accuracy, plain.accuracy)
    np.testing.assert_array_equal(np.isfinite(whole.sharpness), np.arange(12) % 5 == 0)
    torch._dynamo.reset()
    finished(tmp_path / "resumed", stops=(3, 4, 9), kernels="compiled", **options)
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (LayerNorm(6), (4, 5, 6)),
        (LayerNorm((5, 6)), (4, 5, 6)),
        (BatchNorm(5), (4, 5, 6, 3)),
        (BatchNorm(5), (7, 5)),
        (GroupNorm(2, 6), (4, 6, 3, 3)),
        (Attention(6, 2, causal=True), (4, 5, 6)),
        (Attention(6, 3, causal=False), (4, 5, 6)),
    ],
)
def test_fused_layers_have_the_exact_values_and_gradients(layer, shape):
    layer = layer.double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
    pull = torch.randn(shape, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        for p in layer.parameters():
            p += 0.3 * torch.randn(p.shape, dtype=torch.float64, generator=generator)

    def values_and_gradients():
        out = layer(x)
        return out.detach(), *torch.autograd.grad((out * pull).sum(), [x, *layer.parameters()])

    exact = values_and_gradients()
    with first_derivatives_only():
        fast = values_and_gradients()
    assert any(not torch.equal(a, b) for a, b in zip(exact, fast, strict=True))  # other kernels were at work
    for a, b in zip(exact, fast, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("model", ["resnet18", "vit"])
def test_fused_steps_equal_exact_ones_and_resume_to_the_same_bits(tmp_path, model):
    options = {**MODELS[model], "steps": 6, "eig_every": 3, "dtype": "float64", "max_products": 2}
    exact = finished(tmp_path / "exact", **options)
    whole = finished(tmp_path / "whole", kernels="fused", **options)
    np.testing.assert_allclose(whole.example_loss, exact.example_loss, rtol=1e-9)
    assert not np.array_equal(whole.example_loss[1], exact.example_loss[1])
    np.testing.assert_array_equal(whole.example_loss[0], exact.example_loss[0])  # with sharpness: exact
    np.testing.assert_array_equal(np.isfinite(whole.sharpness), np.arange(6) % 3 == 0)
    finished(tmp_path / "resumed", stops=(2, 3), kernels="fused", **options)
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")


def test_what_cannot_be_built_is_one_line_and_loses_nothing(tmp_path, monkeypatch, capsys):
    def broken(function):
        def call(*args):
            raise RuntimeError("no C++ compiler\nfound")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    create_run(tmp_path / "run", small(kernels="compiled", eig_every=4))
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err.strip()
    assert "kernels compiled must be able to build the network, got RuntimeError: no C++ compiler; install" in err
    assert len(err.splitlines()) == 1
    assert Run.open(tmp_path / "run").status.status == "stopped"


def test_refusals():
    with pytest.raises(ConfigError, match="kernels must be one of exact, fused, compiled, got 'fast'"):
        small(kernels="fast")
    with pytest.raises(ConfigError, match="eig_every must be an integer >= 0, got -1"):
        small(eig_every=-1)


def test_off_nothing_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda _: pytest.fail("compiled"))
    history = finished(tmp_path / "run", eig_every=0)
    assert np.isnan(history.sharpness).all()
    assert np.isfinite(history.loss).all()
