"""Gradient descent as a map: fixed points, arcs, cycles and the boundary of divergence, against iteration."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from toymodels import gd_dynamics as gd
from toymodels.derivations import Derivation, Step
from toymodels.derivations.gd_cycles import _opposing_steps
from toymodels.derivations.registry import vanishes
from toymodels.orbits import cycle_multipliers, generated_map
from toymodels.symbolic import several_signals, two_layer

MODEL = two_layer()
STEP, JACOBIAN = generated_map(MODEL)
EPS = np.finfo(float).eps


def iterate(step, w, constants, steps):
    with np.errstate(all="ignore"):
        for _ in range(steps):
            w = step(w, constants)
    return w


@settings(max_examples=30, deadline=None)
@given(
    c=st.floats(0.1, 3),
    lr=st.floats(1e-3, 2),
    beta=st.floats(0.1, 3),
    alpha=st.floats(0.01, 500),
)
def test_multipliers_at_minima_are_those_of_the_generated_jacobian(c, lr, beta, alpha):
    dense = JACOBIAN(np.array([c, beta / c, 0.0, 0.0]), [beta, alpha, lr])
    stated = np.sort(gd.minimum_multipliers(c, lr, beta, alpha))
    scale = np.abs(dense).max()
    np.testing.assert_allclose(np.sort(np.linalg.eigvalsh(dense)), stated, rtol=0, atol=32 * EPS * scale)


@pytest.mark.parametrize(("p", "u"), [(0.0, 0.0), (0.4, -1.2), (0.0, 1e6), (1e-9, 1e-9)])
def test_multipliers_at_the_origin_and_their_instability(p, u):
    stated = gd.origin_multipliers(p, u, 0.3, 1.1, 7.0)
    dense = JACOBIAN(np.array([0.0, 0.0, p, u]), [1.1, 7.0, 0.3])
    np.testing.assert_allclose(
        np.sort(np.linalg.eigvalsh(dense)), np.sort(stated), rtol=0, atol=32 * EPS * np.abs(dense).max()
    )
    assert stated[0] > 1


@settings(max_examples=50, deadline=None)
@given(beta=st.floats(0.05, 20), alpha=st.floats(0.05, 1e4), share=st.floats(0.02, 3))
def test_the_arc_is_empty_exactly_above_two_over_the_flattest_sharpness(beta, alpha, share):
    c2, sharpness = gd.flattest_minimum(beta, alpha)
    lr = 2 / sharpness * share
    low, high = gd.stable_arc(lr, beta, alpha)
    if abs(share - 1) > 1e-9:
        assert np.isnan(low) == np.isnan(high) == (share > 1)
    if share < 1 - 1e-9:
        assert low < c2 < high
        inside = np.sqrt(low + (high - low) * np.array([1e-6, 0.5, 1 - 1e-6]))
        assert (np.abs(gd.minimum_multipliers(inside, lr, beta, alpha)[1:]) < 1).all()
        outside = np.sqrt(np.array([low * (1 - 1e-6), high * (1 + 1e-6)]))
        assert (np.abs(gd.minimum_multipliers(outside, lr, beta, alpha)[1:]).max(0) > 1).all()


def test_the_arc_keeps_its_digits_at_small_steps():
    # (1 - sqrt(1 - g^2))/lr is lr beta^2/2 (1 + g^2/4 + ...): the naive difference would be 0
    low, high = gd.stable_arc(1e-10, 1.0, 0.5)
    assert low == pytest.approx(5e-11, rel=1e-15)
    assert high == pytest.approx(2e10, rel=1e-15)


def test_runs_end_on_the_arc_or_diverge_or_keep_moving():
    """Whatever converges has sharpness below 2/lr: random starts, spikes included."""
    rng = np.random.default_rng(0)
    n = 3000
    w = rng.uniform(-1, 1, (4, n)) * np.array([1.5, 1.5, 1, 0.3])[:, None]
    alpha, lr = np.exp(rng.uniform(0, 3, n)), rng.uniform(0.02, 0.9, n)
    constants = [np.ones(n), alpha, lr]
    end = iterate(STEP, w, constants, 4000)
    with np.errstate(all="ignore"):
        at_rest = np.abs(STEP(end, constants) - end).max(0) < 1e-12
    assert at_rest.sum() > 500
    # a multiplier of modulus 1 + m needs log(1/eps)/m steps to take a rounding error away
    largest = np.abs(gd.minimum_multipliers(np.where(at_rest, end[0], 1.0), lr, 1.0, alpha)).max(0)
    seen = 1 - np.log(EPS) / 4000
    assert (largest[at_rest] < seen).all()
    none = lr * gd.flattest_minimum(1.0, alpha)[1] > 1 + seen
    assert none.sum() > 100
    assert not at_rest[none].any()


@pytest.mark.parametrize("alpha", [0.2, 1.5, 2.05])
def test_balanced_cycle_multipliers_against_the_jacobian(alpha):
    g = np.array([1.001, 1.1, 1.2, 1.5, 1.9])
    beta = 0.7
    cycle, multipliers = gd.balanced_cycle(g / beta, beta, alpha)
    found = cycle_multipliers(MODEL, cycle.as_array(), g / beta, {"beta": beta, "alpha": alpha})
    np.testing.assert_allclose(np.sort(found.real, 0), np.sort(multipliers, 0), atol=1e-12)
    w = cycle.as_array()
    np.testing.assert_allclose(STEP(w[:, 0], [beta, alpha, g / beta]), w[:, 1], atol=1e-14)
    nothing, none = gd.balanced_cycle(0.9, 1.0, alpha)
    assert np.isnan(nothing.c).all()
    assert np.isnan(none).all()


def test_landmarks_are_where_the_multipliers_say():
    marks = gd.BALANCED_LANDMARKS
    _, at = gd.balanced_cycle(marks["two-cycle superstable"], 1.0, 1.0)
    assert at[0] == pytest.approx(0, abs=1e-14)
    _, at = gd.balanced_cycle(marks["flip to the four-cycle"], 1.0, 1.0)
    assert at[0] == pytest.approx(-1, abs=1e-14)
    # 1 % below the merger a positive start stays positive, 1 % above it changes sign; the same about the escape
    x = np.full((1, 2), 0.3)
    g = marks["both signs merge"] * np.array([0.99, 1.01])
    seen = np.zeros(2, bool)
    for _ in range(3000):
        x = x + x * (g - x**2)
        seen |= x[0] < 0
    assert seen.tolist() == [False, True]
    x, g = np.array([0.3, 0.3]), np.array([1.99, 2.01])
    with np.errstate(all="ignore"):
        for _ in range(20_000):
            x = x + x * (g - x**2)
    assert np.isfinite(x).tolist() == [True, False]


@settings(max_examples=40, deadline=None)
@given(alpha=st.floats(2.05, 1000), share=st.floats(0.01, 0.99), beta=st.floats(0.1, 10))
def test_opposing_cycle_returns_and_exchanges_sign(alpha, share, beta):
    low, high = 2 * np.sqrt(alpha - 1) / alpha, alpha - 1
    lr = low ** (1 - share) * high**share / beta
    w = gd.opposing_cycle(lr, beta, alpha).as_array()
    assert np.isfinite(w).all()
    assert w[3, 0] > 0 > w[3, 1]
    constants = [beta, alpha, lr]
    for first in (0, 1):
        size = np.abs(w).max() + lr * alpha * np.abs(w).max() ** 3  # what one step adds
        assert np.abs(STEP(w[:, first], constants) - w[:, 1 - first]).max() <= 64 * EPS * size


def test_opposing_cycle_joins_the_flattest_minimum_and_the_balanced_cycle():
    alpha, beta = 10.0, 1.0
    low, high = 2 * np.sqrt(alpha - 1) / alpha, alpha - 1
    born = gd.opposing_cycle(low * (1 + 1e-10), beta, alpha)
    c2, _ = gd.flattest_minimum(beta, alpha)
    # the gap opens like the square root of the excess
    np.testing.assert_allclose(born.c**2, c2, rtol=1e-4)
    assert np.abs(born.u).max() < 1e-4
    last, (balanced, _) = gd.opposing_cycle(high * (1 - 1e-10), beta, alpha), gd.balanced_cycle(high, beta, alpha)
    np.testing.assert_allclose(np.sort(last.c), np.sort(balanced.c), rtol=1e-4)
    np.testing.assert_allclose(last.b_par, last.c, rtol=1e-4)
    for lr in (low * 0.999, high * 1.001):
        assert np.isnan(gd.opposing_cycle(lr, beta, alpha).c).all()
    assert np.isnan(gd.opposing_cycle(1.5, 1.0, 1.9).u).all()


def test_where_the_cycles_with_u_attract():
    """The measured statements of their docstrings."""
    share = np.linspace(0.002, 0.998, 150)
    alpha = np.array([2.01, 2.1, 2.18, 2.21, 2.3, 2.38, 2.42, 3.0, 20.0, 1000.0])[:, None]
    low, high = 2 * np.sqrt(alpha - 1) / alpha, alpha - 1
    lr = low + (high - low) * share
    w = gd.opposing_cycle(lr, 1.0, alpha).as_array()
    stable = np.abs(cycle_multipliers(MODEL, w, lr, {"beta": 1.0, "alpha": alpha}))[0] < 1
    assert stable[:4].all()
    assert (stable[4:6].any(1) & ~stable[4:6].all(1)).all()
    assert not stable[6:].any()
    lr = 2 * np.abs(alpha - 1) / alpha * share
    w = gd.mirror_cycle(lr, 1.0, alpha).as_array()
    assert (np.abs(cycle_multipliers(MODEL, w, lr, {"beta": 1.0, "alpha": alpha}))[0] > 9 * (1 - 1e-9)).all()
    # a run from nearby falls onto the attracting one, and alternates
    stated = gd.opposing_cycle(1.12, 1.0, 2.15).as_array()
    end = iterate(STEP, stated[:, 0] * 1.02 + np.array([0, 0, 0.05, 0]), [1.0, 2.15, 1.12], 600)
    np.testing.assert_allclose(end, stated[:, 0], atol=1e-12)
    np.testing.assert_allclose(STEP(end, [1.0, 2.15, 1.12]), stated[:, 1], atol=1e-12)


def test_no_other_two_cycle_is_found_by_newton():
    """Newton's method from random starts finds the cycles of the closed forms and fixed points, nothing else."""
    from toymodels.orbits import periodic_orbit

    rng = np.random.default_rng(3)
    alpha, lr = 3.0, 1.25
    names = [w.name for w in MODEL.weights]
    guess = rng.normal(size=(4, 1500))
    found = periodic_orbit(
        MODEL, 2, lr, start=dict(zip(names, guess, strict=True)), parameters={"beta": 1.0, "alpha": alpha}
    )
    # minima at the flip, lr alpha c^2 = 2, with u below the root of rounding pass for cycles: fixed points
    apart = np.abs(found.orbit.diff("phase")).max(("phase", "weight")) > 1e-6
    genuine = (found.converged & found.prime & apart).values
    c = found.orbit.values[genuine][..., 0]
    u = found.orbit.values[genuine][..., 3]
    opposing, (balanced, _) = gd.opposing_cycle(lr, 1.0, alpha), gd.balanced_cycle(lr, 1.0, alpha)
    known = {
        "opposing": opposing.c,
        "balanced": balanced.c,
        "x to -x": np.sqrt((1 / lr) * (2 + lr)) * np.array([1, 1]),
        "mirror": np.abs(gd.mirror_cycle(lr, 1.0, alpha).c),
        "on c = -b": np.sqrt((1 / lr) * (2 - lr)) * np.array([1, 1]),
    }
    kinds = []
    for pair, v in zip(c, u, strict=True):
        size = np.sort(np.abs(pair))
        hits = [k for k, value in known.items() if np.abs(size - np.sort(value)).max() < 1e-7]
        assert len(hits) == 1, pair
        assert (np.abs(v).max() > 1e-6) == (hits[0] in ("opposing", "mirror"))
        kinds += hits
    assert set(kinds) == set(known)


@settings(max_examples=40, deadline=None)
@given(g=st.floats(0.01, 1.99), angle=st.floats(0, 6.28), level=st.floats(0.0, 0.999), p=st.floats(0, 0.9))
def test_inside_the_ellipsoid_stays_inside(g, angle, level, p):
    """Starts on a shell of the ellipsoid, by its own axes; the level never passes 4 by more than rounding."""
    lr = 0.4
    beta = g / lr
    room = level * (4 - g**2)
    f = np.sqrt(p * room)
    total, gap = np.sqrt((room - f**2) / np.array([2 - g, 2 + g]) * 4) * np.array([np.cos(angle), np.sin(angle)])
    w = np.array([(total + gap) / 2, (total - gap) / 2, f, 0.0]) / np.sqrt(lr)
    assert gd.boundary_level(w[0], w[1], w[2], lr, beta) == pytest.approx(g**2 + room, abs=1e-12)
    for _ in range(300):
        w = STEP(w, [beta, 5.0, lr])
        assert gd.boundary_level(w[0], w[1], w[2], lr, beta) < 4 + 1e-9


def test_boundary_at_small_beta_is_the_catapult_circle():
    """With beta -> 0 the ellipsoid is lr (c^2 + b^2) = 4, the catapult's with alpha = 1."""
    c, b = 0.7, -1.1
    level = gd.boundary_level(c, b, 0.0, 0.9, 1e-12)
    assert level == pytest.approx(gd.catapult_level(c, b, 0.9, 1.0), rel=1e-11)


def test_catapult_against_iteration():
    """Start far above the edge: the loss rises before it falls, and the end is below 2/lr; past 4 it diverges."""
    step = generated_map(several_signals(1).fix(beta_1=0))[0]
    lr, alpha = 0.05, 20.0
    q = np.array([1.5, 2.5, 3.0, 3.9, 4.1, 6.0])
    u = np.full(q.shape, 1e-3)
    c = np.sqrt(q / (lr * alpha) - u**2)
    np.testing.assert_allclose(gd.catapult_level(c, u, lr, alpha), q, rtol=1e-14)
    w, losses = np.stack([c, u]), []
    with np.errstate(all="ignore"):
        for _ in range(600):
            losses.append(alpha * w[0] ** 2 * w[1] ** 2 / 2)
            w = step(w, [alpha, lr])
        end = lr * alpha * (w**2).sum(0)
        rise = np.nanmax(np.array(losses), 0) / losses[0]
    assert (np.isfinite(end) & (end <= 2 + 1e-6)).tolist() == [True] * 4 + [False] * 2
    assert rise[0] == 1
    assert (rise[1:] > 1e3).all()


def test_exponents_of_the_boundary():
    along, across = gd.boundary_exponents(np.array([1e-9, 1.5, 2 - 1e-12]), 1.0)
    assert along.tolist() == [np.log(3)] * 3
    assert across[0] == pytest.approx(2 * np.log((1 + np.sqrt(5)) / 2), rel=1e-12)
    assert across[1] == pytest.approx(np.log(2), rel=1e-14)
    # near g = 2: rho + 1/rho - 2 = (log rho)^2, and the sum is 2 + (2 - g)/3 to first order
    assert across[2] == pytest.approx(2 * np.sqrt((2 - 1e-12 - 2) / -3), rel=1e-3)


def test_a_wrong_factor_in_the_steps_is_seen():
    c, b, p, u = MODEL.weights
    beta = MODEL.parameters[0]
    eta = sp.Symbol("eta", positive=True)
    image = MODEL.gd_map(eta).subs({u: 0})

    def level(c, b, p, k):
        return eta * (c**2 + b**2 + p**2) + k * eta * beta * (eta * beta - eta * c * b)

    def residual(k):
        e, f = eta * (beta - c * b), eta * c * p
        factor = 1 - eta * beta * e + e**2 + f**2
        return 4 - level(image[0], image[1], image[2], k) - (4 - level(c, b, p, k)) * factor

    assert vanishes(residual(1))
    row = Derivation("x", "x", "x", (), "", "proved", (Step("wrong", lambda: residual(2)),))
    assert not row.prove().ok
    steps = _opposing_steps()
    assert all(vanishes(s.residual()) for s in steps)
    # the necessity step holds for the stated load and cubic, not for another
    assert not vanishes(steps[4].residual() + sp.Symbol("a", positive=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gd.minimum_multipliers(0.0, 0.1, 1, 1), r"c must not be 0 .*pass c != 0"),
        (lambda: gd.flattest_minimum(-1.0, 1), r"beta must be positive, got -1; pass beta > 0"),
        (lambda: gd.stable_arc(0.0, 1, 1), r"lr must be positive, got 0; pass lr > 0"),
        (lambda: gd.balanced_cycle(1.0, 1, np.nan), r"alpha must be finite"),
        (lambda: gd.opposing_cycle(1.0, 1, -3), r"alpha must be positive, got -3"),
        (lambda: gd.boundary_level(1, 1, 0, 2.0, 1.0), r"lr must be below 2/beta, got lr \* beta = 2"),
        (lambda: gd.boundary_exponents(3.0, 1.0), r"pass a smaller lr"),
        (lambda: gd.catapult_level(np.inf, 1, 1, 1), r"c must be finite, got inf"),
        (lambda: gd.origin_multipliers(np.nan, 0, 1, 1, 1), r"b_perp must be finite"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
