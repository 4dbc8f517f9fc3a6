"""Runs with other models, data, optimizers and losses: bits on resuming, values against a loop written out."""

import hashlib
import json

import numpy as np
import pytest
import torch
from small_runs import assert_same_run, plain_losses, small
from torch import nn

from nets.batches import batch_rows
from nets.config import ConfigError, TrainConfig
from nets.data import load_data, planted
from nets.files import RunError
from nets.forecasting import forecast_run, stop_at_sharpness
from nets.optimizers import make_optimizer
from nets.options import OPTIMIZERS
from nets.run import Run, create_run
from toymodels.thresholds import critical_sharpness

KINDS = {
    "sgd": {"optimizer": "sgd", "optimizer_options": ("momentum=0.5",), "batch_size": 16},
    "heavy ball, layer norm": {"optimizer": "heavy_ball", "model_options": ("norm=layer",)},
    "nesterov": {"optimizer": "nesterov", "dtype": "float64"},
    "adam, vgg": {
        "optimizer": "adam",
        "model": "vgg11",
        "model_options": ("width=0.03125", "norm=batch"),
        "lr": 0.003,
        "batch_size": 13,
    },
    "adamw, vit": {"optimizer": "adamw", "model": "vit", "model_options": ("width=8", "depth=1"), "lr": 0.003},
    "rmsprop, planted": {
        "optimizer": "rmsprop",
        "data": "planted",
        "data_options": ("size=4", "n_classes=3", "alpha=5"),
        "lr": 0.003,
    },
    "split_sgd, resnet": {
        "optimizer": "split_sgd",
        "optimizer_options": ("threshold=0.02",),
        "model": "resnet18",
        "model_options": ("width=0.03125", "norm=group"),
        "lr": 0.01,
    },
    "sam with batches": {"optimizer": "sam", "optimizer_options": ("rho=0.1", "normalised=true"), "batch_size": 16},
    "clipped": {"optimizer": "gd", "optimizer_options": ("clip_norm=0.1",), "label_smoothing": 0.1},
    "gpt": {
        "optimizer": "adam",
        "model": "gpt",
        "model_options": ("width=8", "depth=1", "heads=2"),
        "data": "text",
        "data_options": ("context=6",),
        "n_examples": 10,
        "loss": "cross_entropy",
        "lr": 0.003,
    },
    "modular tokens": {
        "model": "gpt",
        "model_options": ("width=8", "depth=1", "heads=2"),
        "data": "modular",
        "data_options": ("modulus=7", "encoding=tokens"),
        "lr": 0.1,
    },
    "regression": {"data": "chebyshev", "n_examples": 20, "lr": 0.05},
    "two-layer": {"model": "linear2", "data": "gaussian", "data_options": ("alpha=5", "whitened=true"), "lr": 0.02},
}


@pytest.mark.parametrize("kind", KINDS)
def test_resume_equals_uninterrupted_to_the_byte(tmp_path, kind):
    """With full batches and with batches whose epochs the stops cut; by number and by predicate."""
    config = small(**{"widths": (8,) if "model" not in KINDS[kind] else (64, 64), "steps": 9, **KINDS[kind]})
    for name in ("whole", "run"):
        create_run(tmp_path / name, config)
    assert Run.open(tmp_path / "whole").advance().status == "finished"
    run = tmp_path / "run"
    Run.open(run).advance(until=2)
    Run.open(run).advance(until=lambda s: s.step == 3)
    Run.open(run).advance(max_steps=2)
    Run.open(run).advance()
    assert_same_run(run, tmp_path / "whole")
    history = Run.open(run).history()
    np.testing.assert_allclose(history.example_loss.mean("example"), history.loss, rtol=1e-5)
    assert np.isfinite(history.sharpness).all()
    assert float(history.loss[-1]) < float(history.loss[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_is_the_plain_loop(tmp_path, name):
    """The run steps one flat vector, the loop the network's tensors: equal to rounding, with batches too."""
    lr = 0.003 if name in ("adam", "adamw", "rmsprop") else 0.1
    options = {"split_sgd": ("threshold=0.01",), "sam": ("rho=0.2", "normalised=true")}.get(name, ())
    config = small(
        dtype="float64",
        optimizer=name,
        optimizer_options=(*options, "clip_norm=0.7"),
        lr=lr,
        steps=9,
        n_examples=20,
        batch_size=0 if name == "gd" else 8,
    )
    create_run(tmp_path / "run", config)
    run = Run.open(tmp_path / "run")
    run.advance()
    np.testing.assert_allclose(run.history().loss, plain_losses(config, 9), rtol=1e-9)


def test_an_epoch_takes_every_row_once():
    state = torch.Generator().manual_seed(3).get_state()
    epochs = []
    for step in range(9):
        rows, state = batch_rows(10, 4, step, state)
        assert len(rows) == (2 if step % 3 == 2 else 4)
        epochs.append(rows)
    epochs = [torch.cat(epochs[k : k + 3]) for k in (0, 3, 6)]
    assert all(sorted(e.tolist()) == list(range(10)) for e in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


def test_every_token_has_its_loss_in_the_record(tmp_path):
    config = small(steps=3, widths=(64, 64), **KINDS["gpt"])
    create_run(tmp_path / "run", config)
    run = Run.open(tmp_path / "run")
    net = run.parameters()
    run.advance()
    history, data = run.history(), load_data(config)
    assert history.sizes["example"] == 60
    np.testing.assert_array_equal(history.target, data.targets.reshape(-1))
    logits = net(torch.from_numpy(data.inputs)).detach()
    expected = -logits.log_softmax(2).gather(2, torch.from_numpy(data.targets)[..., None]).reshape(-1)
    np.testing.assert_allclose(history.example_loss[0], expected, rtol=1e-5)
    right = (logits.argmax(2).numpy() == data.targets).mean()
    assert float(history.accuracy[0]) == pytest.approx(right)


def test_truth_and_targets_stand_in_the_record(tmp_path):
    config = small(steps=2, **KINDS["rmsprop, planted"])
    create_run(tmp_path / "run", config)
    Run.open(tmp_path / "run").advance()
    history = Run.open(tmp_path / "run").history()
    truth = planted(40, size=4, n_classes=3, alpha=5.0).truth
    np.testing.assert_array_equal(history.truth_sign, truth["sign"])
    np.testing.assert_array_equal(history.truth_carrier, truth["carrier"])
    config = small(steps=2, **KINDS["regression"])
    create_run(tmp_path / "other", config)
    Run.open(tmp_path / "other").advance()
    history = Run.open(tmp_path / "other").history()
    np.testing.assert_allclose(history.target, load_data(config).targets[:, 0])
    assert np.isnan(history.accuracy).all()


def test_options_that_came_later_leave_old_hashes_as_they_were():
    """The hash of a configuration without the new options, computed from the old options alone."""
    old = {
        "data": "digits",
        "n_examples": 1000,
        "seed": 3,
        "widths": [64, 64],
        "activation": "tanh",
        "loss": "squared",
        "lr": 0.4,
        "steps": 320,
        "dtype": "float32",
        "checkpoint_every": 50,
        "eig_tol": 1e-2,
        "max_products": 60,
        "threads": 0,
    }
    expected = hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()
    assert TrainConfig.from_dict(old).config_hash == expected
    new = [{"optimizer": "heavy_ball"}, {"model_options": ("norm=layer",)}, {"label_smoothing": 0.1}]
    assert all(TrainConfig(**{**old, "widths": (64, 64), **n}).config_hash != expected for n in new)


def test_options_have_one_spelling():
    a = TrainConfig(optimizer="heavy_ball", optimizer_options=("weight_decay=1e-2", "momentum=.90"))
    b = TrainConfig(optimizer="heavy_ball", optimizer_options=["weight_decay=0.01"])
    assert a == b
    assert a.config_hash == b.config_hash
    assert TrainConfig.from_dict(json.loads(json.dumps(a.to_dict()))) == a


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 2 / 0.4),
        ({"optimizer_options": ("weight_decay=0.5",)}, critical_sharpness("weight_decay", 0.4, 0.5)),
        ({"optimizer": "heavy_ball"}, critical_sharpness("heavy_ball", 0.4, 0.9)),
        ({"optimizer": "nesterov", "optimizer_options": ("momentum=0.3",)}, critical_sharpness("nesterov", 0.4, 0.3)),
        ({"optimizer": "sam"}, critical_sharpness("sam", 0.4, 0.05)),
        ({"optimizer": "split_sgd"}, 2 / 0.4),
        ({"optimizer": "adam"}, None),
        ({"optimizer": "sgd", "batch_size": 10}, None),
        ({"optimizer_options": ("clip_norm=1.0",)}, None),
    ],
)
def test_critical_sharpness(changes, expected):
    assert TrainConfig(**changes).critical_sharpness == expected


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gd", {}),
        ("sgd", {"momentum": 0.6, "dampening": 0.5}),
        ("heavy_ball", {"momentum": 0.8}),
        ("nesterov", {"momentum": 0.7}),
        ("sam", {"rho": 0.3}),
    ],
)
def test_critical_sharpness_parts_decay_from_growth(name, options, decay):
    """On the quadratic: just below the value the iterates shrink, just above they grow."""
    options = {**options, "weight_decay": decay}
    given = tuple(f"{k}={v}" for k, v in options.items())
    critical = TrainConfig(optimizer=name, optimizer_options=given, lr=0.2).critical_sharpness
    if critical is None:
        assert (name, decay) == ("sam", 0.3)
        return
    for factor, grows in ((0.99, False), (1.01, True)):
        w = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = make_optimizer(name, [w], 0.2, **options)

        def closure(w=w, optimizer=optimizer, curvature=factor * critical):
            optimizer.zero_grad()
            loss = curvature * w.square().sum() / 2
            loss.backward()
            return loss

        sizes = []
        for _ in range(700):
            optimizer.step(closure)
            sizes.append(abs(float(w.detach())))
        assert (max(sizes[-50:]) > max(sizes[200:250])) == grows


def test_stopping_at_the_critical_sharpness_of_heavy_ball(tmp_path):
    config = small(optimizer="heavy_ball", optimizer_options=("momentum=0.5",), lr=0.9, steps=80, n_examples=200)
    create_run(tmp_path / "run", config)
    run = Run.open(tmp_path / "run")
    assert run.advance(stop_at_sharpness(run, 0.75)).status == "stopped"
    history = run.history()
    level = 0.75 * 2 * 1.5 / 0.9
    assert float(history.sharpness[-1]) >= level
    assert float(history.sharpness[-2]) < level
    with pytest.raises(RunError, match=r"must be a run of full-batch gradient descent .*heavy_ball"):
        forecast_run(run)


def test_no_constant_critical_sharpness_is_said(tmp_path):
    create_run(tmp_path / "run", small(optimizer="adam", lr=0.01))
    with pytest.raises(RunError, match="optimizer adam with these options has no constant critical sharpness"):
        stop_at_sharpness(Run.open(tmp_path / "run"), 1.0)


def user_wrong(task):
    return nn.Linear(task.input_shape[0], task.n_outputs + 1)


def user_unfit(task):
    return nn.Linear(task.input_shape[0] + 1, task.n_outputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": f"{__name__}:user_wrong"}, r"must give outputs of shape \(2, 10\), got \(2, 11\)"),
        ({"model": f"{__name__}:user_unfit"}, "must take the data, got mat1 and mat2"),
        ({"model": "gpt"}, "model gpt needs tokens as inputs"),
        ({"model": "vit", "model_options": ("patch=3",)}, "patch must divide the image, got 3 for 8x8"),
        ({"model": "linear2", "data": "text", "n_examples": 5}, "model linear2 needs numbers as inputs"),
        ({"data": "chebyshev", "loss": "cross_entropy"}, "loss must be squared without smoothing for regression"),
    ],
)
def test_what_does_not_fit_the_data_leaves_nothing_behind(tmp_path, changes, message):
    changes = {**({"widths": (64, 64)} if "model" in changes else {}), **changes}
    with pytest.raises(ConfigError, match=message) as caught:
        create_run(tmp_path / "run", small(**changes))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "lion"}, "optimizer must be one of gd, sgd, .*got 'lion'"),
        ({"optimizer": "my.module:make"}, "optimizer must be one of gd"),
        ({"model": "lenet"}, "model must be one of mlp, .*package.module:function, got 'lenet'"),
        ({"data": "my module:make"}, "data must be one of digits"),
        (
            {"optimizer_options": ("momentum=0.9",)},
            "options of gd must be among weight_decay, clip_norm; got",
        ),
        ({"optimizer_options": "momentum=0.9"}, "optimizer_options must be a list of name=value"),
        ({"optimizer_options": 3}, "optimizer_options must be a list of name=value, got 3"),
        ({"model_options": ("norm",)}, "model_options must be of the form name=value, got 'norm'"),
        ({"model_options": ("norm=layer", "norm=batch")}, "must give each option once, got norm twice"),
        ({"model_options": ("norm=group",)}, "norm must be one of none, layer, batch, got 'group'"),
        ({"optimizer": "adam", "optimizer_options": ("beta1=1",)}, "beta1 must be a number >= 0 and < 1, got '1'"),
        ({"optimizer": "adam", "optimizer_options": ("beta1=nan",)}, "beta1 must be a number .*got 'nan'"),
        ({"data_options": ("classes=a,b",)}, "classes must be integers with commas between >= 0, got 'a,b'"),
        ({"optimizer": "sam", "optimizer_options": ("normalised=yes",)}, "normalised must be true or false, got 'yes'"),
        ({"batch_size": 10}, "batch_size must be 0 for optimizer gd, got 10; choose optimizer sgd"),
        ({"optimizer": "sgd", "batch_size": 2000}, "batch_size must be at most n_examples = 1000, got 2000"),
        ({"optimizer": "sgd", "batch_size": -1}, "batch_size must be an integer >= 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\), got 1.0"),
        ({"model": "vgg11", "widths": (3,)}, r"widths belongs to model mlp, got \(3,\) for vgg11"),
        ({"model": "vgg11", "activation": "relu"}, "activation belongs to model mlp, got 'relu' for vgg11"),
    ],
)
def test_refusals_are_one_clear_line(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        TrainConfig(**changes)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)
