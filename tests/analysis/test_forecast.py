"""The reduced map, the scores and the forecast's life on disk."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis.prediction import RunPoint, make_forecast, read_forecast, write_forecast
from analysis.reduced_map import iterate_reduced_map
from analysis.scoring import Score, precision_at, rank_correlation, relative_error, sign_accuracy
from analysis.verification import example_window, verify_forecast


def test_reduced_map_is_gradient_descent_on_its_own_loss():
    """Exact oracle: GD on L = ½ (s0 + w) x² − A w, for which S = s0 + w, ∇S_⊥ = e_w, B = 1."""
    lr, s0, a, x, w = 0.1, 20.0, 0.05, 1e-6, 0.0
    path = iterate_reduced_map(x, lr * s0 - 2, lr, progressive=a, restoring=1.0, horizon=2000)
    xs = []
    for _ in range(2000):
        xs.append(abs(x))
        x, w = x - lr * (s0 + w) * x, w - lr * (0.5 * x * x - a)
    peak = next(n for n in range(1, 2000) if xs[n] >= xs[n - 1] and xs[n] > xs[n + 1])
    assert path.peak == peak
    np.testing.assert_allclose(path.amplitude, xs[: peak + 1], rtol=1e-9)


def test_reduced_map_without_sharpening_has_no_peak():
    assert iterate_reduced_map(1e-8, -0.1, 0.1, 0.0, 1.0, 500).peak is None
    with pytest.raises(ValueError, match="amplitude must be positive"):
        iterate_reduced_map(0.0, 0.1, 0.1, 1.0, 1.0, 10)


@given(st.lists(st.integers(-100, 100).filter(bool), min_size=5, max_size=30, unique=True), st.integers(0, 10**6))
def test_scores_are_perfect_for_a_perfect_forecast_up_to_a_sign(values, seed):
    a = np.array(values, dtype=float)
    k = len(a) // 2
    assert precision_at(k, a, -a) == 1.0
    assert rank_correlation(a, a) == pytest.approx(1.0)
    assert sign_accuracy(k, a, -a) == 1.0
    order = np.random.default_rng(seed).permutation(len(a))
    assert rank_correlation(a[order], 2 * a[order] + 1) == pytest.approx(1.0)


def test_shuffled_labels_break_a_forecast():
    rng = np.random.default_rng(0)
    a = rng.standard_t(2, size=1000)
    shuffled = [precision_at(40, a, rng.permutation(a)) for _ in range(50)]
    assert np.mean(shuffled) == pytest.approx(0.04, abs=0.02)


def test_relative_error_is_a_share_of_the_lead():
    assert relative_error(110, 100, origin=50) == pytest.approx(0.2)
    assert np.isnan(relative_error(None, 3))
    assert relative_error(5, 5, origin=5) == 0.0
    assert relative_error(6, 5, origin=5) == float("inf")


@pytest.mark.parametrize(
    ("score", "outcome", "baseline", "verdict"),
    [
        (0.9, 1, 0.1, "holds"),
        (0.4, 1, 0.1, "fails"),
        (0.9, 1, 0.95, "fails"),
        (float("nan"), None, 0.1, "not run"),
    ],
)
def test_verdict_needs_the_bar_and_the_baseline(score, outcome, baseline, verdict):
    assert Score("c", 1, outcome, score, "higher", 0.5, "b", baseline).verdict == verdict


def toy_run(lr=0.1, a=1.0, steps=120):
    """GD on per-example losses whose alternation along one direction is known: groups 0-4 against 5-9."""
    sign = torch.cat([torch.ones(5), -torch.ones(5), torch.zeros(190)]).double() * torch.linspace(1, 2, 200).double()
    centred = sign - sign.mean()

    def losses(p):
        x, w = p[0][0], p[0][1]
        return 0.5 * (18.5 + w) * x**2 - a * w + 3.0 + centred * x

    theta = torch.tensor([1e-4, 0.0], dtype=torch.float64)
    thetas, record = [], {"loss": [], "sharpness": [], "oscillation": [], "example_loss": []}
    for _ in range(steps):
        p = theta.clone().requires_grad_()
        value = losses([p])
        (g,) = torch.autograd.grad(value.mean(), p)
        thetas.append(theta.clone())
        record["loss"].append(value.mean().item())
        record["sharpness"].append(18.5 + theta[1].item())
        record["oscillation"].append(theta[0].item())
        record["example_loss"].append(value.detach().numpy())
        theta = theta - lr * g
    return losses, thetas, {k: np.array(v) for k, v in record.items()}, centred.numpy()


def point_at(step, losses, thetas, record, lr=0.1):
    return RunPoint(
        step,
        lr,
        losses,
        [thetas[step]],
        torch.tensor([1.0, 0.0], dtype=torch.float64),
        record["sharpness"][: step + 1],
        record["oscillation"][: step + 1],
        "hash",
    )


def test_forecast_of_a_known_run_is_right_end_to_end():
    losses, thetas, record, centred = toy_run()
    onset = int(np.argmax(record["sharpness"] >= 20.0))
    approach = onset - 10
    first = make_forecast(point_at(approach, losses, thetas, record))
    assert first["kind"] == "approach"
    assert "spike" not in first
    np.testing.assert_allclose(first["examples"]["projection"], centred, atol=1e-2)
    second = make_forecast(point_at(onset, losses, thetas, record))
    scores = verify_forecast(first, record) + verify_forecast(second, record)
    assert {s.verdict for s in scores} == {"holds"}, scores
    spike = scores[-1]
    assert abs(spike.forecast - spike.outcome) <= 3


def test_verify_needs_a_longer_record_and_leaves_the_unseen_unscored():
    losses, thetas, record, _ = toy_run()
    onset = int(np.argmax(record["sharpness"] >= 20.0))
    forecast = make_forecast(point_at(onset, losses, thetas, record))
    cut = {k: v[: onset + 1] for k, v in record.items()}
    with pytest.raises(ValueError, match="continue the run first"):
        verify_forecast(forecast, cut)
    little = {k: v[: onset + 5] for k, v in record.items()}
    assert {s.verdict for s in verify_forecast(forecast, little)} == {"not run"}
    assert example_window(little, onset) is None


def test_a_forecast_spike_that_does_not_come_fails():
    losses, thetas, record, _ = toy_run(steps=140)
    onset = int(np.argmax(record["sharpness"] >= 20.0))
    forecast = make_forecast(point_at(onset, losses, thetas, record))
    lead = forecast["spike"]["peak_step"] - onset
    calm = {k: v[: onset + 2 * lead + 1] for k, v in record.items()}
    calm["oscillation"] = np.full_like(calm["oscillation"], 1e-12)
    spike = verify_forecast(forecast, calm)[-1]
    assert (spike.verdict, spike.outcome) == ("fails", f"none by step {onset + 2 * lead}")
    early = {k: v[: onset + 2 * lead] for k, v in calm.items()}
    assert verify_forecast(forecast, early)[-1].verdict == "not run"


def test_a_point_must_not_hold_the_future():
    losses, thetas, record, _ = toy_run(steps=60)
    with pytest.raises(ValueError, match="no later one"):
        RunPoint(10, 0.1, losses, [thetas[10]], torch.ones(2), record["sharpness"], record["oscillation"][:11], "h")


def test_forecast_file_round_trip_and_no_overwrite(tmp_path):
    losses, thetas, record, _ = toy_run(steps=60)
    forecast = make_forecast(point_at(20, losses, thetas, record))
    path = tmp_path / "forecasts" / "a.json"
    write_forecast(path, forecast)
    assert read_forecast(path) == json.loads(json.dumps(forecast))
    with pytest.raises(ValueError, match="never overwritten"):
        write_forecast(path, forecast)
    path.write_text('{"kind": "onset"')
    with pytest.raises(ValueError, match="must be a readable forecast"):
        read_forecast(path)
    path.write_text('{"kind": "onset"}')
    with pytest.raises(ValueError, match="lacks"):
        read_forecast(path)
