"""SGD noise along the opposing direction against enumeration and sampled lanes of un-reduced SGD."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toymodels.derivations.noise import ROWS, enumerated_moments, finite_counts, outlier_counts, sampled_sgd
from toymodels.noise import critical_sgd_lr, mean_square_factor, sgd_group_losses, sgd_variance

SHARES = st.floats(0.02, 1.0)
FRACTIONS = st.floats(0.02, 0.95)
THOUSANDTHS = st.integers(-3000, 3000).map(lambda i: i / 1000)  # squares and fourth powers do not underflow


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_rows_prove(row):
    proof = row.prove()
    assert proof.ok, proof.detail
    assert callable(row.function())


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 12), p=SHARES, lam=st.floats(0.1, 50), part=FRACTIONS, g0=THOUSANDTHS, r2=THOUSANDTHS.map(abs)
)
def test_moments_against_enumeration(batch, p, lam, part, g0, r2):
    lr = part * float(critical_sgd_lr(lam, batch, p))
    plus, minus, chance = counts = outlier_counts(batch, p)
    gain = 1 - lr * lam * (plus + minus) / (p * batch)
    assert mean_square_factor(lr, lam, batch, p) == pytest.approx(chance @ gain**2, rel=1e-10)
    got = sgd_group_losses(lr, lam, batch, p, g0, r2)
    if chance @ gain**4 > 0.999:  # there the solve of the enumerated recursion loses its digits
        return
    w1, w2, w3, w4 = enumerated_moments(counts, np.sqrt(lam / p), 1.0, lr, batch, g0, r2)
    scale = g0**2 + r2
    assert abs(w1) <= 1e-9 * np.sqrt(scale)
    assert abs(w3) <= 1e-9 * scale**1.5 / (1 - chance @ gain**4)
    assert lam / p * sgd_variance(lr, lam, batch, p, g0, r2) == pytest.approx(w2, rel=1e-9)
    assert got.mean == pytest.approx((r2 + g0**2 + w2) / 2, rel=1e-9)
    quarter, tolerance = (w4 - w2**2) / 4, 1e-9 * (w4 + scale * w2)
    assert got.variance == pytest.approx(quarter + g0**2 * w2, abs=tolerance)
    assert got.covariance == pytest.approx(quarter - g0**2 * w2, abs=tolerance)


@settings(max_examples=60, deadline=None)
@given(lam=st.floats(1e-3, 1e3), batch=st.integers(1, 500), p=SHARES, extra=st.integers(0, 1000))
def test_critical_lr_splits_stable_from_unstable(lam, batch, p, extra):
    for n in (np.inf, batch + 1 + extra):
        edge = critical_sgd_lr(lam, batch, p, n)
        assert edge <= 2 / lam * (1 + 1e-12)
        assert (
            mean_square_factor(0.999 * edge, lam, batch, p, n) < 1 < mean_square_factor(1.001 * edge, lam, batch, p, n)
        )
        assert np.isfinite(sgd_variance(0.999 * edge, lam, batch, p, 1.0, population=n))
        assert np.isinf(sgd_variance(1.001 * edge, lam, batch, p, 1.0, population=n))


def test_limits():
    assert critical_sgd_lr(10.0, 1, 0.25) == pytest.approx(2 * 0.25 / 10)
    assert critical_sgd_lr(10.0, 10**9, 0.25) == pytest.approx(0.2)
    assert critical_sgd_lr(10.0, 64, 0.25, 64) == pytest.approx(0.2, rel=1e-15)
    assert sgd_variance(0.1, 10.0, 64, 0.25, 1.0, 2.0, population=64) == 0.0  # the whole data: gradient descent
    assert sgd_variance(0.3, 10.0, 4, 0.25, 0.0) == 0.0  # nothing drives u from 0


@pytest.mark.parametrize("lr", [0.004, 0.02, 2 / 81 / (1 + 0.7 / 0.3 / 6), 0.05])
def test_transient_is_the_iterated_recursion(lr):
    lam, batch, p, g0, r2, square = 81.0, 6, 0.3, 0.7, 0.4, 0.3**2
    m, noise = float(mean_square_factor(lr, lam, batch, p)), lr**2 * lam * (g0**2 + r2) / batch
    for n in range(60):
        assert sgd_variance(lr, lam, batch, p, g0, r2, step=n, u0=0.3) == pytest.approx(square, rel=1e-11)
        square = m * square + noise


def test_un_reduced_sgd_in_lanes():
    """Sampled vector SGD from 0; each statistic within 5 standard errors of its own sample (4e-6 in all by chance)."""
    lr, c, p, batch = 0.012, 0.9, 0.3, 6
    u, model = sampled_sgd(lr, c, p, batch, 120, 6000, 11)
    lam, g0, r2 = model["curvature"], model["g0"], model["r2"]
    stated = float(sgd_variance(lr, lam, batch, p, g0, r2, step=120))
    rest = float(sgd_variance(lr, lam, batch, p, g0, r2))
    assert stated == pytest.approx(rest, rel=1e-9)  # the start is forgotten
    moments = sgd_group_losses(lr, lam, batch, p, g0, r2)
    w = np.sqrt(lam / p) * u
    plus, minus = (r2 + (w - g0) ** 2) / 2, (r2 + (w + g0) ** 2) / 2
    middle = float(moments.mean)
    samples = {
        "mean": (u, 0.0),
        "square": (u**2, rest),
        "group mean": (plus, middle),
        "group variance": ((plus - middle) ** 2, float(moments.variance)),
        "group covariance": ((plus - middle) * (minus - middle), float(moments.covariance)),
    }
    for name, (sample, truth) in samples.items():
        assert abs(sample.mean() - truth) <= 5 * sample.std() / np.sqrt(sample.size), name
    # and the check sees a wrong factor: the noise without the core residual is far outside
    wrong = float(sgd_variance(lr, lam, batch, p, g0))
    assert abs((u**2).mean() - wrong) > 5 * (u**2).std() / np.sqrt(u.size)


def test_without_replacement_enumerated_and_sampled():
    n, outliers, batch, lam = 16, 6, 5, 4.0
    p = outliers / n
    lr = 0.5 * float(critical_sgd_lr(lam, batch, p, n))
    w2 = enumerated_moments(finite_counts(batch, n, outliers), np.sqrt(lam / p), 1.0, lr, batch, 0.8, 0.0)[1]
    assert sgd_variance(lr, lam, batch, p, 0.8, population=n) * lam / p == pytest.approx(w2, rel=1e-12)
    # a data set with core residuals whose signed sum over the outliers is 0
    rng, g0, lanes, a = np.random.default_rng(5), 0.8, 4000, np.sqrt(lam / p)
    sign = np.array([1.0, 1, 1, -1, -1, -1] + [0.0] * (n - outliers))
    e = np.where(sign != 0, rng.normal(size=n), 0.0)
    e -= sign * (sign @ e) / outliers  # sign @ e = 0
    tau = ((g0 - e)[sign != 0] ** 2).mean()
    u = np.zeros(lanes)
    for _ in range(60):
        pick = np.argsort(rng.random((lanes, n)), axis=1)[:, :batch]
        s, residual = sign[pick], e[pick]
        error = residual + a * s * u[:, None] - g0 * np.abs(s)
        u -= lr * (error * a * s).mean(1)
    stated = float(sgd_variance(lr, lam, batch, p, np.sqrt(tau), population=n, step=60))
    assert abs((u**2).mean() - stated) <= 5 * (u**2).std() / np.sqrt(lanes)
    replaced = float(sgd_variance(lr, lam, batch, p, np.sqrt(tau)))
    assert abs((u**2).mean() - replaced) > 5 * (u**2).std() / np.sqrt(lanes)


def test_shapes_and_variance_grows_before_the_mean():
    lr = np.linspace(0.01, 0.3, 40)
    got = sgd_group_losses(lr[:, None], 10.0, [[1, 8]], 0.2, 1.0, 0.5)
    assert got.mean.shape == got.variance.shape == got.covariance.shape == (40, 2)
    assert (np.isinf(got.variance) >= np.isinf(got.mean)).all()
    assert (np.isinf(got.variance) & np.isfinite(got.mean)).any()
    assert (np.isnan(got.covariance) == np.isinf(got.variance)).all()
    loop = [[sgd_group_losses(x, 10.0, b, 0.2, 1.0, 0.5).variance for b in (1, 8)] for x in lr]
    np.testing.assert_allclose(got.variance, np.array(loop), rtol=1e-13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: critical_sgd_lr(0.0, 4, 0.1), "curvature must be positive"),
        (lambda: critical_sgd_lr(1.0, 0, 0.1), "batch must be >= 1"),
        (lambda: critical_sgd_lr(1.0, 2.5, 0.1), "batch must be a whole number"),
        (lambda: critical_sgd_lr(1.0, 2, 1.5), "p must lie in"),
        (lambda: critical_sgd_lr(1.0, 8, 0.5, 7), "population must be >= 2 and >= batch"),
        (lambda: mean_square_factor(float("nan"), 1.0, 2, 0.5), "lr must be finite"),
        (lambda: sgd_variance(0.1, 1.0, 2, 0.5, 1.0, -1.0), "r2 must be >= 0"),
        (lambda: sgd_variance(0.1, 1.0, 2, 0.5, 1.0, step=-1), "step must be >= 0"),
        (lambda: sgd_variance(0.1, 1.0, 2, 0.5, np.inf), "g0 must be finite"),
        (lambda: sgd_group_losses(0.1, 1.0, 2, 0.0, 1.0), "p must lie in"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
