"""What a run records, against the dense Hessian and gradients written out independently."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from small_runs import small

from nets.data import load_data
from nets.run import Run, create_run


def dense(config, theta, module):
    """Loss, per-example losses, gradient and Hessian by torch.func, from flat parameters."""
    data = load_data(config)
    x, y = torch.from_numpy(data.inputs).double(), torch.from_numpy(data.targets)
    names = [name for name, _ in module.named_parameters()]
    shapes = [p.shape for p in module.parameters()]

    def losses(flat):
        parts = torch.split(flat, [s.numel() for s in shapes])
        weights = {n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        out = torch.func.functional_call(module, weights, (x,))
        if config.loss == "squared":
            return 0.5 * ((out - torch.eye(10, dtype=torch.float64)[y]) ** 2).sum(1)
        return -torch.log_softmax(out, 1)[torch.arange(len(y)), y]

    def mean(flat):
        return losses(flat).mean()

    return losses(theta), torch.func.grad(mean)(theta), torch.func.hessian(mean)(theta)


def walk(tmp_path, config):
    """Advance one step at a time; the flat parameters of every step."""
    create_run(tmp_path / "run", config)
    run, thetas = Run.open(tmp_path / "run"), []
    for n in range(config.steps):
        thetas.append(torch.nn.utils.parameters_to_vector(run.parameters().parameters()).detach())
        run.advance(until=n + 1)
    return run, thetas


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_values_against_a_dense_computation(tmp_path, loss):
    config = small(
        widths=(3,), steps=6, loss=loss, lr=0.3, dtype="float64", eig_tol=1e-9, max_products=235, n_examples=25
    )
    run, thetas = walk(tmp_path, config)
    history, module = run.history(), run.parameters()
    grads = []
    for n, theta in enumerate(thetas):
        row = history.isel(step=n)
        losses, gradient, hessian = dense(config, theta, module)
        grads.append(gradient)
        values, vectors = torch.linalg.eigh(hessian)
        top, v = float(values[-1]), vectors[:, -1]
        np.testing.assert_allclose(row.example_loss, losses, rtol=1e-12)
        np.testing.assert_allclose(row.loss, losses.mean(), rtol=1e-12)
        np.testing.assert_allclose(row.grad_norm, gradient.norm(), rtol=1e-10)
        np.testing.assert_allclose(row.sharpness, top, rtol=1e-9)
        assert row.sharpness_converged == 1
        np.testing.assert_allclose(abs(row.grad_v), abs(gradient @ v), rtol=1e-5, atol=1e-10)
        if n < 2:
            assert np.isnan(row.oscillation)
        else:
            x = (grads[n] - 2 * grads[n - 1] + grads[n - 2]) @ v / (4 * top)
            np.testing.assert_allclose(abs(row.oscillation), abs(x), rtol=1e-5, atol=1e-10)
        if n:
            np.testing.assert_allclose(theta, thetas[n - 1] - config.lr * grads[n - 1], rtol=1e-12, atol=1e-14)
    vector = run.eigenvector().double()
    assert abs(float(vector @ v)) == pytest.approx(1, abs=1e-8)


def test_record_shapes_units_and_mean(tmp_path):
    config = small()
    create_run(tmp_path / "run", config)
    run = Run.open(tmp_path / "run")
    assert run.history().sizes["step"] == 0
    seen = []
    status = run.advance(on_step=seen.append)
    assert (status.status, status.step) == ("finished", 23)
    history = run.history()
    assert dict(history.sizes) == {"step": 23, "example": 40}
    assert history.example_loss.dims == ("step", "example")
    for name, array in history.data_vars.items():
        assert array.attrs["units"], name
        assert array.attrs["description"], name
        assert np.isfinite(array.values[2:] if name == "oscillation" else array.values).all(), name
    np.testing.assert_allclose(history.example_loss.mean("example"), history.loss, rtol=1e-6)
    assert [s.step for s in seen] == list(range(23))
    np.testing.assert_array_equal(np.float32([s.sharpness for s in seen]), history.sharpness)
    assert float(history.loss[-1]) < float(history.loss[0])
    targets = load_data(config).targets
    np.testing.assert_array_equal(history.target, targets)
    with torch.no_grad():  # θ_23 is one update beyond the last row: accuracy moves by little
        out = run.parameters()(torch.from_numpy(load_data(config).inputs))
    assert abs(float((out.argmax(1).numpy() == targets).mean()) - float(history.accuracy[-1])) < 0.2


def test_not_yet_computed_reads_as_nan(tmp_path):
    import xarray as xr

    create_run(tmp_path / "run", small())
    Run.open(tmp_path / "run").advance(until=7)
    with xr.open_zarr(tmp_path / "run" / "record.zarr", consolidated=False) as record:
        assert record.sizes["step"] == 23
        assert np.isfinite(record.loss[:7]).all()
        assert np.isnan(record.loss[7:]).all()
        assert (record.sharpness_converged[7:] == 0).all()


def test_consecutive_eigenvectors_keep_their_sign(tmp_path):
    create_run(tmp_path / "run", small(steps=12))
    run, vectors = Run.open(tmp_path / "run"), []
    for n in range(12):
        run.advance(until=n + 1)
        vectors.append(run.eigenvector())
    assert all(float(a @ b) >= 0 for a, b in pairwise(vectors))
    assert all(float(v.norm()) == pytest.approx(1, rel=1e-5) for v in vectors)


def test_oscillation_grows_by_the_factor_of_the_linear_law(tmp_path):
    r"""Beyond the edge and while small, $x_{n+1} = (1 - \eta S_n) x_n$: x alternates and grows."""
    create_run(tmp_path / "run", small(n_examples=200, widths=(16,), lr=0.5, steps=125, dtype="float64"))
    run = Run.open(tmp_path / "run")
    run.advance()
    history = run.history()
    x, y = history.oscillation.values, 0.5 * history.sharpness.values - 2
    grows = np.array([n for n in range(30, 124) if y[n] > 0.01 and 1e-6 < abs(x[n]) < 1e-3])
    assert len(grows) >= 30
    # the demodulation spans three steps and y drifts by about 0.004 a step
    np.testing.assert_allclose(x[grows + 1] / x[grows], -(1 + y[grows]), rtol=0.01)


def test_converged_flag_is_honest(tmp_path):
    create_run(tmp_path / "run", small(eig_tol=1e-7, max_products=2, steps=3, dtype="float64"))
    run = Run.open(tmp_path / "run")
    run.advance()
    history = run.history()
    assert (history.sharpness_converged == 0).all()
    assert (history.sharpness_residual > 1e-7).all()
    assert (history.products <= 2).all()
