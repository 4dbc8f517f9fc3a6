"""Curvature every n steps and observers: values against dense computations, bits with and without them."""

import time

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import binomtest
from small_runs import assert_same_run, contents, small
from test_run_values import dense, walk

from nets.config import ConfigError, TrainConfig
from nets.data import held_out, load_data
from nets.files import RunError
from nets.forecasting import run_point, stop_at_sharpness
from nets.losses import per_example_loss
from nets.observers import Column
from nets.run import Run, create_run

TINY = {"widths": (3,), "n_examples": 25, "dtype": "float64", "lr": 0.3}


def finished(directory, **changes):
    create_run(directory, small(checkpoint_every=8, **changes))
    run = Run.open(directory)
    assert run.advance().status == "finished"
    return run


def chunks(run, names):
    return {k: v for k, v in contents(run.directory).items() if k.split("/")[1:2] and k.split("/")[1] in names}


@pytest.mark.parametrize("every", [0, 4])
def test_sharpness_every_n_steps_and_the_same_trajectory(tmp_path, every):
    run, always = finished(tmp_path / "run", eig_every=every), finished(tmp_path / "always")
    history = run.history()
    due = np.arange(23) % every == 0 if every else np.zeros(23, dtype=bool)
    for name in ("sharpness", "sharpness_residual", "grad_v"):
        np.testing.assert_array_equal(np.isfinite(history[name]), due, err_msg=name)
    np.testing.assert_array_equal(history.products > 0, due)
    np.testing.assert_array_equal(history.sharpness_converged == 1, due)
    np.testing.assert_array_equal(np.isfinite(history.oscillation), due & (np.arange(23) >= 2))
    names = ("loss", "example_loss", "grad_norm", "accuracy")
    assert chunks(run, names) == chunks(always, names)
    assert torch.equal(run.state().parameters, always.state().parameters)
    np.testing.assert_allclose(history.sharpness[due], always.history().sharpness[due], rtol=0.02)


def test_divergence_is_seen_without_curvature(tmp_path):
    create_run(tmp_path / "run", small(lr=1e4, activation="relu", steps=60, eig_every=0))
    status = Run.open(tmp_path / "run").advance()
    assert status.status == "diverged"
    history = Run.open(tmp_path / "run").history()
    assert not np.isfinite([history.loss[-1], history.grad_norm[-1]]).all()


def test_forecasts_and_stops_say_what_they_need(tmp_path):
    create_run(tmp_path / "run", small(eig_every=3))
    with pytest.raises(RunError, match="must have the sharpness of every step to be forecast, eig_every is 3"):
        run_point(Run.open(tmp_path / "run"))
    create_run(tmp_path / "never", small(eig_every=0))
    with pytest.raises(RunError, match="must measure the sharpness to stop at it, eig_every is 0"):
        stop_at_sharpness(Run.open(tmp_path / "never"), 1.0)


def test_stopping_at_a_sharpness_measured_now_and_then(tmp_path):
    create_run(tmp_path / "run", small(n_examples=200, widths=(16,), lr=0.5, steps=125, eig_every=7))
    run = Run.open(tmp_path / "run")
    assert run.advance(stop_at_sharpness(run, 1.0)).status == "stopped"
    seen, level = run.history().sharpness.values[: run.step + 1 : 7], 2 / 0.5
    assert run.step % 7 == 0
    assert seen[-1] >= level > seen[-2]


def test_spectra_against_the_dense_hessian(tmp_path):
    config = small(**TINY, steps=7, observers=("eigenvalues every=3 k=4 tol=0.001", "density every=2 steps=6 probes=2"))
    run, thetas = walk(tmp_path, config)
    history, module = run.history(), run.parameters()
    for n, theta in enumerate(thetas):
        row = history.isel(step=n)
        hessian = dense(config, theta, module)[2]
        if n % 3 == 0:
            exact = torch.linalg.eigvalsh(hessian).flip(0)[:4].numpy()
            assert (row.eigenvalue_errors < 0.001).all()
            np.testing.assert_allclose(row.eigenvalues, exact, rtol=0.001)
        else:
            assert np.isnan(row.eigenvalues).all()
            assert np.isnan(row.eigenvalue_errors).all()
        if n % 2:
            assert np.isnan(row.density_nodes).all()
            continue
        generator = torch.Generator().manual_seed(config.seed)
        for probe in range(2):  # Gauss quadrature of z'f(H)z: exact for polynomials up to degree 11
            z = torch.randn(len(theta), generator=generator, dtype=torch.float64)
            z, power = z / z.norm(), z / z.norm()
            for degree in range(12):
                moment = float((row.density_weights[probe] * row.density_nodes[probe] ** degree).sum())
                assert moment == pytest.approx(float(z @ power), rel=1e-8, abs=1e-12)
                power = hessian @ power


@pytest.mark.parametrize(
    ("by", "changes"),
    [
        ("target", {}),
        ("sign", {"data": "planted", "data_options": ("size=4", "n_classes=3", "alpha=5")}),
        (
            "target",
            {
                "data": "text",
                "data_options": ("context=6",),
                "model": "gpt",
                "model_options": ("width=8", "depth=1", "heads=2"),
                "loss": "cross_entropy",
                "widths": (64, 64),
                "n_examples": 8,
            },
        ),
    ],
)
def test_group_losses_are_means_of_example_losses(tmp_path, by, changes):
    options = {"steps": 5, "dtype": "float64", "observers": (f"groups every=2 by={by}", "eigenvalues k=1"), **changes}
    run = finished(tmp_path / "run", **options)
    history = run.history()
    labels = (history.target if by == "target" else history[f"truth_{by}"]).values
    assert history.group_value.values.tolist() == sorted(set(labels.tolist()))
    for n in range(5):
        if n % 2:
            assert np.isnan(history.group_loss[n]).all()
            continue
        means = [history.example_loss[n].values[labels == v].mean() for v in history.group_value.values]
        np.testing.assert_allclose(history.group_loss[n], means, rtol=1e-12)
    assert float(history.eigenvalues[0, 0]) == pytest.approx(float(history.sharpness[0]), rel=0.02)


def test_group_gradients_are_means_of_the_examples_own(tmp_path):
    config = small(**TINY, steps=3, observers=("group_gradients every=2",))
    run, thetas = walk(tmp_path, config)
    history, module = run.history(), run.parameters()
    data = load_data(config)
    x, y = data.tensors(torch.float64)
    assert np.isnan(history.group_grad_norm[1]).all()
    for n in (0, 2):
        torch.nn.utils.vector_to_parameters(thetas[n], module.parameters())
        rows = []
        for i in range(len(x)):
            module.zero_grad()
            per_example_loss("squared")(module(x[i : i + 1]), y[i : i + 1]).sum().backward()
            rows.append(torch.cat([p.grad.reshape(-1) for p in module.parameters()]).clone())
        values = history.gradient_group_value.values
        means = torch.stack([torch.stack(rows)[y == v].mean(0) for v in values])
        np.testing.assert_allclose(history.group_grad_norm[n], means.norm(dim=1), rtol=1e-9)
        unit = means / means.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(history.group_grad_cosine[n], unit @ unit.T, atol=1e-9)


def test_held_out_rows_are_those_that_follow(tmp_path):
    options = ("label_noise=0.3",)
    config = small(
        **TINY, steps=4, data_options=options, observers=("held_out every=3 examples=200 clean=true columns=27,0",)
    )
    run, thetas = walk(tmp_path, config)
    history, module = run.history(), run.parameters()
    longer = load_data(TrainConfig(n_examples=225))
    x, y = (torch.from_numpy(a[25:]) for a in (longer.inputs.astype(float), longer.targets))
    assert not np.array_equal(load_data(config).targets, longer.targets[:25])  # the run's own labels are noisy
    assert np.isnan(history.held_out_accuracy.values[1:3]).all()
    for n in (0, 3):
        torch.nn.utils.vector_to_parameters(thetas[n], module.parameters())
        with torch.no_grad():
            out = module(x)
        row = history.isel(step=n)
        assert float(row.held_out_accuracy) == pytest.approx(float((out.argmax(1) == y).double().mean()))
        losses = per_example_loss("squared")(out, y)
        assert float(row.held_out_loss) == pytest.approx(float(losses.mean()), rel=1e-12)
        assert history.permuted_column.values.tolist() == [27, 0]
        # pixel 0 is blank in every digit: exchanging it changes nothing
        assert float(row.permuted_accuracy[1]) == float(row.held_out_accuracy)
    assert (history.permuted_accuracy[:, 0] != history.held_out_accuracy).any()


def test_held_out_keeps_the_noise_unless_asked_not_to(tmp_path):
    noisy = small(**TINY, data_options=("label_noise=0.3",))
    kept, clean = (held_out(noisy, [150], c) for c in (False, True))
    np.testing.assert_array_equal(kept.inputs, clean.inputs)
    share = (kept.targets != clean.targets).mean()
    assert binomtest(round(150 * share), 150, 0.3).pvalue > 1e-3
    assert held_out(noisy, [5000]) is None
    assert len(held_out(noisy, [5000, 60]).inputs) == 60
    whitened = TrainConfig(data="gaussian", data_options=("whitened=true",), n_examples=100, loss="squared")
    assert held_out(whitened, [50]) is None


def test_the_planted_feature_alone_as_a_probe(tmp_path):
    options = {"data": "planted", "data_options": ("size=4", "n_classes=3", "alpha=5", "p=0.2"), "dtype": "float64"}
    run = finished(tmp_path / "run", steps=3, **options, observers=("probes examples=1 feature=true",))
    data = run.dataset
    pure = run.history().probe_input.values[1]
    np.testing.assert_allclose(pure, 5 * data.truth["pattern"], rtol=1e-12)  # sqrt(5 / 0.2)
    np.testing.assert_array_equal(run.history().probe_input.values[0], data.inputs[1])


def test_probes_are_outputs_on_chosen_inputs(tmp_path):
    given = np.random.default_rng(0).normal(size=(3, 64))
    np.save(tmp_path / "probe.npy", given)
    config = small(**{**TINY, "n_examples": 40}, steps=6, observers=(f"probes examples=5,0 file={tmp_path}/probe.npy",))
    run, thetas = walk(tmp_path, config)
    history = run.history()
    inputs = np.concatenate([load_data(config).inputs[[5, 0]], given.astype(np.float32)])
    np.testing.assert_array_equal(history.probe_input, inputs)
    for n, theta in enumerate(thetas):
        expected = run.problem.module_at(theta)(torch.from_numpy(inputs).double()).detach()
        np.testing.assert_allclose(history.probe_outputs[n], expected, rtol=1e-12)
    create_run(tmp_path / "other", config)
    np.save(tmp_path / "probe.npy", given + 1)
    with pytest.raises(RunError, match="probe_input must be what the run was created with, it has changed"):
        Run.open(tmp_path / "other").advance()


def steepest(problem, every, power=1):
    """A user's observer: norms of the gradient, from the state it is shown."""

    class Norms:
        name = "norms"
        columns = {"norms": Column(("which",), (2,), "1", "norms")}  # noqa: RUF012

        def observe(self, module, state):
            flat = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
            assert torch.equal(flat, state.parameters)
            return {"norms": np.array([float(state.gradient.norm()) ** power, state.step])}

    observer = Norms()
    observer.every = every
    return observer


def wrong(problem, every):
    observer = steepest(problem, every)
    observer.columns = {"norms": Column(("which",), (3,), "1", "norms")}
    return observer


def taken(problem, every):
    observer = steepest(problem, every)
    observer.columns = {"loss": Column((), (), "1", "norms")}
    return observer


def plane(n):
    """A user's regression on three outputs."""
    x = np.random.default_rng(0).normal(size=(n, 2))
    return x, x @ np.ones((2, 3))


def named(problem, every, name="own", dim="which"):
    """A user's observer of one array, by the names it is given."""
    observer = steepest(problem, every)
    observer.columns = {name: Column((dim,), (2,), "1", "norms")}
    observer.observe = lambda module, state: {name: np.zeros(2)}
    return observer


WATCHED = (
    "density every=4 steps=8",
    "eigenvalues every=6 k=2",
    "groups every=5",
    "probes every=2 examples=1",
    f"{__name__}:steepest every=3 power=2",
)


@pytest.mark.parametrize(
    "optimizer", [pytest.param({}, marks=pytest.mark.slow), {"optimizer": "sam", "batch_size": 16}]
)
def test_bits_are_those_of_an_unwatched_run_and_of_a_resumed_one(tmp_path, optimizer):
    optimizer = {**optimizer, "steps": 14}
    options = {**optimizer, "observers": WATCHED, "snapshot_every": 3}
    watched = finished(tmp_path / "watched", **options)
    plain = finished(tmp_path / "plain", **optimizer)
    names = set(plain.history().data_vars)
    assert chunks(watched, names) == chunks(plain, names)
    assert torch.equal(watched.state().parameters, plain.state().parameters)
    create_run(tmp_path / "resumed", small(checkpoint_every=8, **options))
    for stop in (4, lambda s: s.step == 6, 12, None):
        Run.open(tmp_path / "resumed").advance(stop)
    assert_same_run(tmp_path / "resumed", tmp_path / "watched")
    assert sorted(p.name for p in (tmp_path / "resumed" / "snapshots").iterdir()) == [
        f"step_{n:06d}.safetensors" for n in range(0, 14, 3)
    ]
    history = watched.history()
    np.testing.assert_allclose(history.norms[::3, 0], history.grad_norm[::3] ** 2, rtol=1e-5)
    np.testing.assert_array_equal(history.norms[::3, 1], np.arange(0, 14, 3))
    assert all(array.attrs["units"] and array.attrs["description"] for array in history.data_vars.values())


def test_observed_values_are_readable_while_the_run_goes_on(tmp_path):
    create_run(tmp_path / "run", small(observers=("groups every=2",)))
    run, seen = Run.open(tmp_path / "run"), []

    def look(state):
        if state.step != 12:
            return
        end = time.monotonic() + 60
        while not (seen and seen[-1][8]) and time.monotonic() < end:  # the block is written beside the next steps
            with xr.open_zarr(run.directory / "record.zarr", consolidated=False) as record:
                seen.append(np.isfinite(record.group_loss.values).all(axis=1))

    run.advance(on_step=look)
    np.testing.assert_array_equal(seen[-1], (np.arange(23) % 2 == 0) & (np.arange(23) < 10))


@pytest.mark.parametrize(
    ("observers", "message"),
    [
        ("density", "observers must be a list, got 'density'"),
        (("spectrum",), "observers must be among eigenvalues, .*got 'spectrum'"),
        (("",), 'observers must be of the form "NAME option=value ...", got'),
        ((3,), 'observers must be of the form "NAME option=value ...", got 3'),
        (("density every=0",), "observers: every must be an integer >= 1, got '0'"),
        (("density hop=1",), "observers of density must be among every, steps, probes; got hop"),
        (("density", "density every=3"), "observers must be given once each, got density twice"),
        (("my.module:make every=x",), "observers: every must be an integer >= 1, got 'x'"),
    ],
)
def test_refusals_of_the_configuration(observers, message):
    with pytest.raises(ConfigError, match=message) as caught:
        TrainConfig(observers=observers)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("observers", "message"),
    [
        (("groups by=colour",), "observers: by must be one of target, got 'colour'"),
        (("probes",), "observers: probes must be given examples, a file or feature, got none"),
        (("probes examples=40",), r"observers: examples must be rows in 0\.\.39, got 40"),
        (("probes file=nothing.npy",), "observers: .*nothing.npy"),
        (("probes feature=true",), "observers: feature must be that of planted data, got digits"),
        (("group_gradients by=colour",), "observers: by must be one of target, got 'colour'"),
        (("held_out examples=1758",), "examples must be held-out ones that digits has after the run's 40, got 1758"),
        (("held_out columns=0,64",), r"columns must be different inputs in 0\.\.63, got \(0, 64\)"),
        (("held_out columns=3,3",), "columns must be different inputs"),
        (("eigenvalues k=1000",), "observers: k must be at most the number of parameters 610, got 1000"),
        ((f"{__name__}:absent",), "observers must name a function"),
        ((f"{__name__}:steepest power=1 colour=2",), "observers .*steepest failed with TypeError"),
        ((f"{__name__}:taken",), "observers must fill arrays of their own, got loss from norms"),
    ],
)
def test_what_cannot_be_observed_leaves_nothing_behind(tmp_path, observers, message):
    with pytest.raises(ValueError, match=message) as caught:
        create_run(tmp_path / "run", small(observers=observers))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        *(
            ({"record_losses": "top_k", "record_k": 3}, f"name={name}", f"fill arrays of their own, got {name} from")
            for name in ("top_example", "top_loss", "top_loss_before", "loss_quantile", "move_quantile", "quantile")
        ),
        ({"record_losses": "top_k", "record_k": 3}, "dim=rank", "dimension rank must have one size, got 2 and 3"),
        ({"record_losses": "top_k"}, "dim=quantile", "dimension quantile must have one size, got 2 and 9"),
        (
            {"data": f"{__name__}:plane", "loss": "squared"},
            "dim=output",
            "dimension output must have one size, got 2 and 3",
        ),
    ],
)
def test_an_observer_cannot_spoil_the_record(tmp_path, changes, options, message):
    observers = (f"{__name__}:named {options}",)
    with pytest.raises(ConfigError, match=message):
        create_run(tmp_path / "run", small(**changes, observers=observers))
    assert list(tmp_path.iterdir()) == []


def test_names_of_another_kind_of_record_are_free(tmp_path):
    history = finished(tmp_path / "run", steps=3, observers=(f"{__name__}:named name=top_loss dim=rank",)).history()
    assert history.top_loss.dims == ("step", "rank")


def test_an_observer_that_breaks_its_promise_is_named(tmp_path):
    create_run(tmp_path / "run", small(observers=(f"{__name__}:wrong",)))
    with pytest.raises(ValueError, match=r"observer norms must give arrays of shapes .*\(3,\).* got .*\(2,\)"):
        Run.open(tmp_path / "run").advance()


def test_observers_have_one_spelling():
    a = TrainConfig(observers=["density  probes=4 every=0100"])
    assert a.observers == ("density every=100",)
    assert TrainConfig.from_dict(a.to_dict()) == a
    assert a.config_hash == TrainConfig(observers=("density every=100",)).config_hash != TrainConfig().config_hash
