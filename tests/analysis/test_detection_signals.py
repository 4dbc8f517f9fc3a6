"""Descriptions on images, tables and texts made to differ in one known thing; the probe on a planted colour."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from analysis.observer import OpposingSignals
from analysis.probe import FeatureProbe, constant_image, mean_background, probe_alternation
from analysis.signals import (
    complexity,
    describe_images,
    describe_table,
    describe_tokens,
    image_statistics,
    separation,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices this small run slower on several threads, much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (0, 3), (4, 0), (3, 4), (8, 8)])
def test_complexity_of_one_wave_is_its_frequency(down, right):
    y, x = np.mgrid[:16, :16] / 16
    assert complexity(np.cos(2 * np.pi * (down * y + right * x))) == pytest.approx(
        np.hypot(down, right) / 16, abs=1e-12
    )


def test_complexity_weighs_by_power():
    y = np.arange(16)[:, None] / 16 * np.ones(16)
    image = np.stack([3 * np.cos(2 * np.pi * y), 4 * np.cos(2 * np.pi * 5 * y)], axis=2)
    assert complexity(image) == pytest.approx((9 * 1 + 16 * 5) / 25 / 16, abs=1e-12)
    assert complexity(np.zeros((4, 4))) == 0.0


@given(a=st.lists(st.integers(-5, 5), min_size=1, max_size=8), b=st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_separation_counts_pairs(a, b):
    expected = np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
    assert separation(a, b) == pytest.approx(expected, abs=1e-12)
    assert separation(b, a) == pytest.approx(1 - expected, abs=1e-12)


def pictures(n=40, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 8, 8, 3))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda x: x + np.array([0, 0, 2.0]), "mean blue"),
        (lambda x: x + np.array([2.0, 0, 0]), "mean red"),
        (lambda x: x * 3, "contrast"),
        (lambda x: x + 3 * np.linspace(1, -1, 8)[:, None, None], "top minus bottom"),
        (lambda x: 0.5 * (x + np.roll(x, 1, axis=1)) * np.sqrt(2), "spatial frequency"),
    ],
)
def test_the_statistic_that_was_changed_comes_first(change, name):
    x = pictures()
    x[:20] = change(x[:20])
    found = describe_images(x, range(20), range(20, 40))
    assert found.statistics[0].name == name
    area = found.statistics[0].area
    assert abs(area - 0.5) > 4 * 0.093  # standard deviation for equal groups: sqrt(41 / (12 * 20 * 20))
    np.testing.assert_allclose(found.difference, x[:20].mean(0) - x[20:].mean(0))
    swapped = describe_images(x, range(20, 40), range(20))
    assert swapped.statistics[0].effect == pytest.approx(-found.statistics[0].effect)
    assert swapped.complexity == pytest.approx(found.complexity)


def test_a_sky_is_simple_and_a_checkerboard_is_not():
    sky, board = pictures(), pictures()
    sky[:20] += np.array([0, 0, 3.0])
    board[:20] += 3 * (np.indices((8, 8)).sum(0) % 2 * 2.0 - 1)[..., None]
    assert describe_images(sky, range(20), range(20, 40)).complexity < 0.05
    assert describe_images(board, range(20), range(20, 40)).complexity > 0.6


def test_equal_groups_are_not_told_apart():
    x = pictures(200)
    areas = [s.area for s in describe_images(x, range(100), range(100, 200)).statistics]
    # the area of equal groups has standard deviation sqrt((201)/(12·100·100)) = 0.041
    assert max(abs(a - 0.5) for a in areas) < 4 * 0.041
    assert set(image_statistics(x[..., :1])) == {"mean", "top minus bottom", "rim minus middle", "contrast",
                                                 "spatial frequency"}  # fmt: skip


def test_separating_features_of_a_table():
    table = np.random.default_rng(1).standard_normal((60, 4))
    table[:30, 2] -= 4.0
    first = describe_table(table, range(30), range(30, 60), names=["age", "income", "height", "weight"])[0]
    assert first.name == "height"
    assert first.area < 0.05
    assert first.effect == pytest.approx(-4.0, abs=4 * np.sqrt(2 / 30 + 16 / 120))  # standard error of an effect of 4
    constant = describe_table(np.array([[1.0], [1.0], [0.0], [0.0]]), [0, 1], [2, 3])[0]
    assert constant.effect == np.inf
    assert constant.to_dict()["effect"] is None
    assert describe_table(np.ones((4, 1)), [0, 1], [2, 3])[0].effect == 0.0


def test_shared_prefix_of_a_group():
    contexts = [(9, 1, 2, 3), (8, 2, 3), (7, 1, 2, 3), (5, 6)]
    found = describe_tokens(contexts, [4, 4, 5, 4], share=0.75)
    assert found.prefix == (2, 3)
    assert found.prefix_share == 0.75
    assert found.targets == ((4, 3), (5, 1))
    assert describe_tokens(contexts, [4, 4, 5, 4], share=0.5).prefix == (1, 2, 3)
    assert describe_tokens(contexts, [4, 4, 5, 4], share=1.0).prefix == ()
    assert describe_tokens([(1, 2)] * 3, [0] * 3).prefix == (1, 2)  # ends with the contexts


def test_backgrounds():
    images = np.zeros((3, 8, 8, 2))
    images[:, :, :, 0] = np.arange(3)[:, None, None]
    images[:, 2:6, 2:6] = 99.0
    np.testing.assert_array_equal(mean_background(images, [0, 2]), constant_image([1.0, 0.0], 8, 8))


def colour_run(steps=90, seed=0):
    """Two classes of noise images; one large patch colour on a few of either class; MLP at the edge of stability."""
    rng = np.random.default_rng(seed)
    n, shape = 120, (4, 4, 3)
    y = np.arange(n) % 2
    x = rng.standard_normal((n, *shape)) + np.where(y, 0.4, -0.4)[:, None, None, None] * rng.standard_normal(shape)
    carrier = np.arange(n) < 12
    x[carrier] += np.array([-2.0, 1.0, 6.0])
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    net = net.double()
    inputs, targets = torch.tensor(x), torch.tensor(y)
    signals = OpposingSignals(net, functional.cross_entropy, (inputs, targets))
    probes = np.stack([mean_background(x, np.flatnonzero(carrier)), constant_image(np.zeros(3), 4, 4)])
    probe = FeatureProbe(net, torch.tensor(probes))
    for _ in range(steps):
        signals.step()
        probe.step()
        gradients = torch.autograd.grad(functional.cross_entropy(net(inputs), targets), list(net.parameters()))
        with torch.no_grad():
            for p, g in zip(net.parameters(), gradients, strict=True):
                p -= 2.5 * g
    return carrier, signals.detect(), probe


def test_the_pure_colour_alternates_with_the_groups():
    carrier, found, probe = colour_run()
    pair = found.significant()[0]
    assert carrier[list(pair.members)].mean() > 0.9
    seen = probe.alternation(found.first_step, found.last_step, pair.series)
    assert probe.probabilities.shape == (90, 2, 2)
    assert (seen.p_value[0] == 2.0**-7).all()
    np.testing.assert_allclose(seen.amplitude.sum(axis=1), 0.0, atol=1e-12)  # probabilities sum to 1
    assert np.abs(seen.correlation[0]).min() > 0.99
    assert abs(seen.amplitude[0, 0]) > 3 * abs(seen.amplitude[1, 0])  # grey, without the colour, hardly moves
    # the class of the group whose loss is high at even steps is improbable at even steps
    first, second = pair.groups
    labels = np.arange(120) % 2
    assert {labels[list(first)].mean().round(), labels[list(second)].mean().round()} == {0.0, 1.0}
    assert seen.amplitude[0, int(labels[list(first)].mean().round())] < 0


def test_alternation_of_recorded_probabilities():
    steps = np.arange(7, 60)
    size = 0.01 * np.exp(0.02 * steps)
    drift = 0.3 + 1e-3 * steps - 1e-5 * steps**2
    even = np.where(steps % 2 == 0, 1.0, -1.0)
    p = np.stack([drift + even * size, drift - even * size, drift], axis=1)[:, None]
    starts = np.arange(10, 57, 5)
    # response of (1, -3, 3, -1)/8 to (-1)^n e^(an): (1 + e^a)^3 / 8 from the block's first step
    known = 0.01 * np.exp(0.02 * starts) * (1 + np.exp(0.02)) ** 3 / 8
    found = probe_alternation(p, 7, series=known)
    np.testing.assert_allclose(found.amplitude[0], [known.mean(), -known.mean(), 0.0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.p_value[0, :2], 2.0 ** (1 - len(starts)))
    np.testing.assert_allclose(found.correlation[0, :2], [1.0, -1.0], rtol=1e-12)
    other = probe_alternation(p, 7, series=known * np.where(np.arange(len(starts)) % 2 == 0, 1.0, -1.0))
    assert abs(other.correlation[0, 0]) < 0.5  # as large, but not in step
    assert np.isnan(probe_alternation(p, 7).correlation).all()
    with pytest.raises(ValueError, match=r"probabilities must have shape \(steps, probes, classes\), got \(53, 3\)"):
        probe_alternation(p[:, 0])
    with pytest.raises(ValueError, match="series must hold 10 blocks, got"):
        probe_alternation(p, 7, series=known[1:])


def test_a_context_is_read_at_its_last_position():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5))  # (n, T) tokens to (n, T, 5)
    contexts = torch.tensor([[0, 1, 2], [3, 3, 4]])
    whole, last = FeatureProbe(net, contexts), FeatureProbe(net, contexts[:, -1])
    whole.step()
    last.step()
    np.testing.assert_allclose(whole.probabilities, last.probabilities, rtol=1e-6)
    flat = FeatureProbe(torch.nn.Flatten(0), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"model must give scores of shape .*, got \(6,\); reshape them"):
        flat.step()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"first must hold indices in 0\.\.3, got \[4\]"):
        describe_table(np.ones((4, 1)), [4], [1])
    with pytest.raises(ValueError, match=r"table must have shape \(n, features\), got \(4, 1\) with 2 names"):
        describe_table(np.ones((4, 1)), [0], [1], names=["a", "b"])
    with pytest.raises(ValueError, match=r"images must have shape .*, got \(4, 4\); put channels last"):
        describe_images(np.ones((4, 4)), [0], [1])
    with pytest.raises(ValueError, match="contexts must match the targets, got 1 and 2"):
        describe_tokens([(1,)], [1, 2])
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\], got 0"):
        describe_tokens([(1,)], [1], share=0)
    with pytest.raises(ValueError, match=r"rim must lie in \(0, 0.5\], got 0.9"):
        mean_background(np.ones((1, 4, 4, 1)), [0], rim=0.9)
    probe = FeatureProbe(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    probe.step(3)
    with pytest.raises(ValueError, match="step must be 4, the next one, got 6"):
        probe.step(6)
    with pytest.raises(ValueError, match=r"the window must lie in the steps taken, 3\.\.3, got 0\.\.2"):
        probe.alternation(0, 2)
