"""The compiled step: the same numbers to rounding, the same bits when resumed, one line where it cannot be built."""

import numpy as np
import pytest
import torch
from small_runs import assert_same_run, small

from nets.config import ConfigError
from nets.run import Run, create_run
from opposing.cli import main

MODELS = {
    "mlp": {"model_options": ("norm=layer",)},
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
@pytest.mark.parametrize("model", MODELS)
def test_compiled_equals_uncompiled_and_resumes_to_the_same_bits(tmp_path, model):
    options = {**MODELS[model], "steps": 12, "eig_every": 5, "dtype": "float64"}
    plain = finished(tmp_path / "plain", **options)
    whole = finished(tmp_path / "whole", compile=True, **options)
    np.testing.assert_allclose(whole.example_loss, plain.example_loss, rtol=1e-10)
    np.testing.assert_allclose(whole.grad_norm, plain.grad_norm, rtol=1e-9)
    np.testing.assert_array_equal(whole.accuracy, plain.accuracy)
    np.testing.assert_array_equal(np.isfinite(whole.sharpness), np.arange(12) % 5 == 0)
    torch._dynamo.reset()
    finished(tmp_path / "resumed", stops=(3, 4, 9), compile=True, **options)
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")


def test_what_cannot_be_built_is_one_line_and_loses_nothing(tmp_path, monkeypatch, capsys):
    def broken(function):
        def call(*args):
            raise RuntimeError("no C++ compiler\nfound")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    create_run(tmp_path / "run", small(compile=True, eig_every=4))
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err.strip()
    assert "compile must be able to build the network, got RuntimeError: no C++ compiler; install" in err
    assert len(err.splitlines()) == 1
    assert Run.open(tmp_path / "run").status.status == "stopped"


def test_refusals():
    with pytest.raises(ConfigError, match="compile must be true or false, got 'yes'"):
        small(compile="yes")
    with pytest.raises(ConfigError, match="eig_every must be an integer >= 0, got -1"):
        small(eig_every=-1)


def test_off_nothing_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda _: pytest.fail("compiled"))
    history = finished(tmp_path / "run", eig_every=0)
    assert np.isnan(history.sharpness).all()
    assert np.isfinite(history.loss).all()
