"""Forecasts of the onset: records whose onset is known, nulls, and nothing from the future."""

import math

import numpy as np
import pytest
import torch
from flow_nets import descend, two_layer
from scipy.integrate import solve_ivp

from analysis.onset import (
    LEVELS,
    DampedLine,
    Line,
    Logistic,
    OnsetMethod,
    OnsetPoint,
    Parabola,
    Persistence,
    Rehearsal,
    StepForecast,
)
from analysis.onset.method import Lead, hindcast_moments

EXTRAPOLATIONS = (Persistence(), Line(), Parabola(), DampedLine(), Logistic())


def two_layer_record(c, b, alpha=100.0, beta=1.0, lr=0.002, steps=1500):
    """Sharpness αc² of the two-layer model's gradient flow at whole steps, by a tight solve of its equations."""

    def velocity(_, y):
        rest = beta - y[0] * y[1]
        return [y[1] * rest, y[0] * rest]

    t = lr * np.arange(steps)
    return alpha * solve_ivp(velocity, (0, t[-1]), [c, b], t_eval=t, rtol=1e-11, atol=1e-13).y[0] ** 2


def step_at(record, share, critical):
    return int(np.argmax(record >= share * critical))


@pytest.mark.parametrize("share", [0.5, 0.65, 0.75, 0.9])
def test_the_logistic_forecasts_a_logistic_record_to_the_step(share):
    record = two_layer_record(0.5, 0.5)
    critical = 85.0
    n, onset = step_at(record, share, critical), step_at(record, 1.0, critical)
    forecast = Logistic().forecast(OnsetPoint(record[: n + 1], critical))
    assert forecast.median == onset
    assert forecast.interval(0.9)[0] <= onset <= forecast.interval(0.9)[1]


@pytest.mark.parametrize(("c", "b"), [(0.8, 0.1), (0.4, 0.7)])
def test_the_unbalanced_closed_form_too(c, b):
    """Its invariant K ≠ 0 is a fourth coefficient; the balanced form is off there."""
    record = two_layer_record(c, b)
    critical = 0.9 * record[-1]
    n, onset = step_at(record, 0.75, critical), step_at(record, 1.0, critical)
    point = OnsetPoint(record[: n + 1], critical)
    full, balanced = (n + Logistic(balanced).lead(point).steps for balanced in (False, True))
    assert abs(full - onset) <= 1
    assert abs(balanced - onset) > 10


def test_the_others_err_in_the_order_of_what_they_know():
    """On the late, bending part of a logistic: no bend, a bend, the curve itself; all expect the onset too early."""
    record = two_layer_record(0.5, 0.5)
    critical = 90.0
    n, onset = step_at(record, 0.7, critical), step_at(record, 1.0, critical)
    point = OnsetPoint(record[: n + 1], critical)
    error = {m.name: onset - m.forecast(point).median for m in EXTRAPOLATIONS}
    assert abs(error["logistic"]) <= 1 < error["parabola"] < error["line"] < error["persistence"]
    assert error["line"] < 0.6 * (onset - n)


def test_each_is_exact_on_its_own_curve():
    n = np.arange(200)
    exact = {
        Persistence: 10 * np.exp(0.01 * n),
        Line: 10 + 0.2 * n,
        Parabola: 10 + 0.05 * n + 0.001 * n**2,
        DampedLine: 50 - 40 * np.exp(-0.01 * n),
    }
    for method, record in exact.items():
        at, critical = 100, record[150]
        lead = method().lead(OnsetPoint(record[: at + 1], critical)).steps
        assert lead == pytest.approx(50, abs=1 if method in (Persistence, DampedLine) else 1e-6), method.name


def test_each_knows_when_its_own_curve_does_not_get_there():
    n = np.arange(300)
    curves = {
        Parabola: 10 + 0.1 * n - 1e-4 * n**2,  # turns at 35
        DampedLine: 20 - 15 * np.exp(-0.01 * n),
        Logistic: two_layer_record(0.5, 0.5)[:600],  # limit 100
    }
    for method, record in curves.items():
        forecast = method().forecast(OnsetPoint(record, 1.6 * record[-1]))
        assert forecast.median is None, method.name
        assert forecast.never > 0.5
        assert forecast.quantiles[-1] == math.inf
        assert (forecast.censored <= forecast.made_at + forecast.horizon).all()


@pytest.mark.parametrize("noise", [0.0, 1e-3])
@pytest.mark.parametrize("method", EXTRAPOLATIONS[1:], ids=lambda m: m.name)
def test_a_flat_record_reaches_nothing(method, noise):
    for seed in range(5):
        record = 10 + noise * np.random.default_rng(seed).standard_normal(120)
        forecast = method.forecast(OnsetPoint(record, 16.0), horizon=500)
        assert forecast.median is None
        assert forecast.never >= 0.5


def test_persistence_on_a_constant_record_reaches_nothing():
    assert Persistence().forecast(OnsetPoint(np.full(50, 3.0), 4.0)).median is None


@pytest.mark.parametrize("method", [*EXTRAPOLATIONS, Rehearsal()], ids=lambda m: m.name)
def test_the_future_of_a_run_changes_no_forecast(method):
    operator, path, record, lr = two_layer_run()
    critical = 80.0
    n = step_at(record, 0.6, critical)
    weights = {m: path[m] for m in range(len(record)) if m % 10 == 0 or m == n}
    other = record.copy(), {m: w if m <= n else torch.zeros_like(w) for m, w in weights.items()}
    other[0][n + 1 :] = 1.0
    known = [
        method.forecast(OnsetPoint.at(n, r, critical, lr, operator, w)).to_dict() for r, w in ((record, weights), other)
    ]
    assert known[0] == known[1]
    past = record.copy()
    past[:n] = np.linspace(0.5, 1.0, n) * record[n]
    assert isinstance(method, Rehearsal) or known[0] != method.forecast(OnsetPoint.at(n, past, critical)).to_dict()


def test_hindcasts_see_their_own_past_only_and_their_outcomes_are_known():
    record = two_layer_record(0.5, 0.5)
    n = step_at(record, 0.6, 85.0)
    seen = []

    class Spy(OnsetMethod):
        name, assumptions = "spy", ()

        def lead(self, point):
            seen.append((point.step, point.critical, len(point.sharpness), max(point.weights, default=0)))
            return Lead(5.0)

    point = OnsetPoint(record[: n + 1], 85.0, weights={k: torch.zeros(1) for k in range(n + 1)})
    pairs, _ = Spy().hindcasts(point)
    assert len(pairs) == len(seen) >= 3
    for step, level, length, weights in seen:
        assert length == step + 1
        assert weights <= step < n
        assert level <= record[n]
    for moment, level, came in hindcast_moments(point, point.share):
        assert moment < came <= n
        assert record[came - 1] < level <= record[came]
        assert record[moment] == pytest.approx(point.share * level, rel=0.02)


def test_intervals_come_from_the_past_errors():
    """Errors of a known size give the spread: quantiles of lead · exp(rms · t_k), rounded up to steps."""

    class Fixed(OnsetMethod):
        name, assumptions = "fixed", ()

        def lead(self, point):
            return Lead(1000.0)

        def hindcasts(self, point):
            return [(100.0, 50.0), (50.0, 100.0), (200.0, 100.0), (10.0, None)], 7.0

    forecast = Fixed().forecast(OnsetPoint(np.array([1.0, 2.0]), 3.0), horizon=10**9)
    assert forecast.median == 1001
    assert forecast.residuals == 3
    assert forecast.gradients == 7.0
    t = 2.3533634348018264  # 95 % of Student's t with 3 degrees of freedom, from tables
    assert forecast.interval(0.9)[1] == pytest.approx(1000 * 2**t, rel=1e-3)
    assert forecast.interval(0.9)[0] == pytest.approx(1000 * 2**-t, rel=1e-2)


def test_noise_widens_the_intervals():
    n = np.arange(150)
    width = []
    for noise in (0.01, 0.3):
        record = 10 + 0.1 * n + noise * np.random.default_rng(0).standard_normal(150)
        low, high = Line().forecast(OnsetPoint(record, 35.0)).interval(0.9)
        width.append(high - low)
    assert width[1] > 2 * width[0]


def test_a_sparse_record_is_enough():
    record = two_layer_record(0.5, 0.5)
    n, onset = step_at(record, 0.7, 85.0), step_at(record, 1.0, 85.0)
    sparse = np.where((n - np.arange(n + 1)) % 5 == 0, record[: n + 1], np.nan)
    assert Logistic().forecast(OnsetPoint(sparse, 85.0)).median == onset


class Watched:
    """Counts what it is asked for."""

    def __init__(self, operator):
        self.operator, self.gradients, self.products = operator, 0, 0

    def linearise(self, point=None):
        self.gradients += 1
        loss, gradient, product = self.operator.linearise(point)

        def counted(v):
            self.products += 1
            return product(v)

        return loss, gradient, counted


def two_layer_run(lr=0.004):
    """Descent on the two-layer model with one opposing direction (u tiny), and its sharpness αc²."""
    alpha = 100.0
    operator = two_layer(0.5, [0.3, 1e-9], [1.0, alpha], [1.0, 0.0])
    path = descend(operator, operator.point(), lr, 1200)
    return operator, path, alpha * path[:, 0].numpy() ** 2, lr


def test_the_rehearsal_meets_the_run_and_counts_its_cost():
    operator, path, record, lr = two_layer_run()
    critical = 80.0
    n, onset = step_at(record, 0.6, critical), step_at(record, 1.0, critical)
    watched = Watched(operator)
    weights = {int(m): path[m] for m in range(0, n + 1, 10)} | {n: path[n]}
    point = OnsetPoint(record[: n + 1], critical, lr, watched, weights)
    forecast = Rehearsal().forecast(point)
    assert abs(forecast.median - onset) <= 0.03 * (onset - n)
    assert forecast.gradients == watched.gradients + 2 * watched.products
    assert forecast.gradients < onset - n
    assert forecast.residuals > 0
    assert forecast.interval(0.9)[0] <= onset <= forecast.interval(0.9)[1]
    alone = Rehearsal().forecast(OnsetPoint(record[: n + 1], critical, lr, operator, {n: path[n]}))
    assert alone.residuals == 0
    assert alone.interval(0.9)[1] > forecast.interval(0.9)[1]


def test_a_rehearsal_without_end_is_not_reached():
    operator, path, record, lr = two_layer_run()
    n = 300
    point = OnsetPoint(record[: n + 1], 2 * record[-1], lr, operator, {n: path[n]})
    forecast = Rehearsal(budget=200).forecast(point)
    assert forecast.median is None
    assert forecast.gradients < 200 + 50


def test_bad_input_is_one_line():
    record = np.linspace(1, 2, 30)
    operator = two_layer(0.5, [0.3], [1.0], [1.0])
    fine = dict(made_at=3, horizon=9, method="", assumptions=(), gradients=0.0, never=0.0, residuals=0)
    quantiles = tuple(4.0 + k for k in range(len(LEVELS)))
    for call, message in (
        (lambda: OnsetPoint.at(30, record, 3.0), "step must lie in the record"),
        (lambda: OnsetPoint(record, 1.5), "the onset must lie ahead"),
        (lambda: OnsetPoint(np.array([1.0, np.nan]), 1.5), "ends in a positive value"),
        (lambda: OnsetPoint(record, 3.0, weights={31: torch.zeros(1)}), "leave out the future"),
        (lambda: Rehearsal().forecast(OnsetPoint(record, 3.0)), "needs operator, lr and the weights of step 29"),
        (lambda: Rehearsal(1), "stages must be an integer >= 2"),
        (lambda: Line().forecast(OnsetPoint(record, 3.0), 0), "horizon must be an integer >= 1"),
        (lambda: StepForecast(quantiles=quantiles[::-1], **fine), "do not decrease"),
        (lambda: StepForecast(quantiles=quantiles, **(fine | {"made_at": 5})), "must lie after step 5"),
        (lambda: StepForecast(quantiles=quantiles, **(fine | {"never": 1.5})), "must be a probability"),
        (lambda: StepForecast(quantiles=quantiles, **fine).interval(0.93), "level must be one of"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    assert operator.size == 2
