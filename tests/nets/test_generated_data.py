"""Generated data: statistics with their sampling errors, exact moments, and what a subset keeps."""

import inspect

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

import nets.data
from nets.config import TrainConfig
from nets.data import (
    DataError,
    Dataset,
    chebyshev,
    digits,
    gaussian,
    images,
    load_data,
    modular,
    planted,
    slabs,
    text,
    with_label_noise,
)
from nets.data.planted import background, natural_images, natural_variance
from nets.data.text import language_reference
from nets.options import DATA
from toymodels.model import ReducedState, TwoLayerLinear

UNLIKELY = 1e-4  # a test on correct data fails with this probability; seeds are fixed, so it does not come and go


def probable(hits, n, p):
    return binomtest(int(hits), int(n), p).pvalue > UNLIKELY


@pytest.mark.parametrize("name", ["chebyshev", "modular", "planted", "gaussian", "slabs", "digits", "cifar10", "text"])
def test_the_table_of_options_is_the_signature(name):
    signature = inspect.signature(getattr(nets.data, name)).parameters
    options = {k: v.default for k, v in signature.items() if k not in ("n_examples", "config", "path")}
    assert options == {k: option.default for k, option in DATA[name].items()}


@pytest.mark.parametrize(
    "make",
    [
        lambda n: planted(n, size=8, seed=3),
        lambda n: gaussian(n, seed=3),
        lambda n: slabs(n, seed=3),
        lambda n: modular(n, modulus=11),
        lambda n: modular(n, modulus=11, encoding="tokens"),
        lambda n: text(n),
        lambda n: digits(n, classes=(3, 5), label_noise=0.3),
    ],
)
def test_a_subset_keeps_its_examples(make):
    few, many, again = make(20), make(60), make(20)
    assert few.fingerprint == again.fingerprint
    np.testing.assert_array_equal(few.inputs, many.inputs[:20])
    np.testing.assert_array_equal(few.targets, many.targets[:20])
    for name, value in few.truth.items():
        if len(value) == 20:
            np.testing.assert_array_equal(value, many.truth[name][:20])
    assert few.fingerprint != make(21).fingerprint


def test_seeds_differ():
    for make in (planted, gaussian, modular):
        assert make(30, seed=1).fingerprint != make(30, seed=2).fingerprint


def test_tensors_have_the_type_asked_for_and_memory_of_their_own():
    data = planted(5, size=8)
    for dtype in (torch.float32, torch.float64):
        x, y = data.tensors(dtype)
        assert (x.dtype, y.dtype) == (dtype, torch.int64)
        np.testing.assert_allclose(x.numpy(), data.inputs, rtol=1e-6)
        x.zero_()
        assert np.abs(data.inputs).min() > 0
    x, y = chebyshev(5).tensors(torch.float32)
    assert y.dtype == torch.float32
    x, y = text(3).tensors(torch.float32)
    assert (x.dtype, y.dtype) == (torch.int64, torch.int64)


def test_chebyshev_is_the_cosine_of_multiples():
    data = chebyshev(20, degree=5)
    assert data.inputs.shape == data.targets.shape == (20, 1)
    np.testing.assert_allclose(np.diff(data.inputs[:, 0]), 2 / 19, rtol=1e-12)
    np.testing.assert_allclose(data.targets, np.cos(5 * np.arccos(data.inputs)), atol=1e-12)


def test_modular_addition_covers_every_pair_once():
    data = modular(121, modulus=11)
    a, b = data.inputs[:, :11], data.inputs[:, 11:]
    np.testing.assert_array_equal(a.sum(1), 1)
    np.testing.assert_array_equal((a.argmax(1) + b.argmax(1)) % 11, data.targets)
    assert len({(i, j) for i, j in zip(a.argmax(1), b.argmax(1), strict=True)}) == 121
    tokens = modular(121, modulus=11, encoding="tokens")
    np.testing.assert_array_equal(tokens.inputs[:, :2], np.stack([a.argmax(1), b.argmax(1)], 1))
    assert set(tokens.inputs[:, 2]) == {11}
    assert tokens.vocabulary == 12


@pytest.mark.parametrize("unit", ["characters", "bytes"])
def test_text_windows_spell_the_text(tmp_path, unit, monkeypatch):
    content = "zwölf: Boxkämpfer\njagen: Viktor\n" * 9
    path = tmp_path / "text" / "sample.txt"
    path.parent.mkdir()
    path.write_text(content)
    data = text(6, path=path, unit=unit, context=16)
    letters = [c.encode() for c in data.class_names] if unit == "characters" else [bytes([k]) for k in range(256)]
    spelt = b"".join(letters[t] for t in data.inputs.reshape(-1))
    assert content.encode().startswith(spelt)
    assert b"".join(letters[t] for t in data.targets.reshape(-1))[:-1] == spelt[len(letters[data.inputs[0, 0]]) :]
    assert data.n_losses == 96
    assert data.n_classes == data.vocabulary == (len(set(content)) if unit == "characters" else 256)
    monkeypatch.setenv("OPPOSING_DATA", str(tmp_path))
    assert text(6, path="sample.txt", unit=unit, context=16).fingerprint == data.fingerprint


def test_the_default_text_is_the_language_reference():
    from pydoc_data.topics import topics

    raw = language_reference()
    assert len(raw) > 300_000
    assert all(topics[name].encode() in raw for name in ("if", "lambda", "with"))
    assert text(2).inputs.shape == (2, 32)


def test_label_noise_strikes_its_share_and_spares_no_class():
    clean = planted(4000, size=2, signal=0.0, n_classes=4)
    data = with_label_noise(clean, 0.3, seed=1)
    noisy = data.truth["noisy"]
    np.testing.assert_array_equal(noisy, data.targets != clean.targets)
    assert probable(noisy.sum(), 4000, 0.3)
    shift = (data.targets - clean.targets)[noisy] % 4
    assert all(probable((shift == k).sum(), noisy.sum(), 1 / 3) for k in (1, 2, 3))
    assert "noisy" in digits(20, label_noise=0.5).truth


def test_a_class_subset_numbers_its_classes_in_the_order_given():
    whole, some = digits(1797), digits(100, classes=(8, 1))
    rows = np.flatnonzero(np.isin(whole.targets, (1, 8)))[:100]
    np.testing.assert_array_equal(some.inputs, whole.inputs[rows])
    np.testing.assert_array_equal(np.where(some.targets == 0, 8, 1), whole.targets[rows])
    assert some.class_names == ("8", "1")
    config = TrainConfig(n_examples=100, data_options=("classes=8,1",))
    np.testing.assert_array_equal(images(config, [5, 90]), images(TrainConfig(n_examples=1797), rows[[5, 90]]))
    assert load_data(config).fingerprint == some.fingerprint


def test_natural_images_fall_as_one_over_f():
    n, size = 400, 16
    x = natural_images(n, size, 2, np.random.default_rng(0))
    # the squared amplitude of one frequency is exponentially distributed: relative error 1/sqrt(n), over 2 channels
    power = (np.abs(np.fft.fft2(x, axes=(1, 2))) ** 2).mean(axis=(0, 3))
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
    times = power[f > 0] * f[f > 0] ** 2
    assert np.abs(times / times.mean() - 1).max() < 5 / np.sqrt(n)
    assert power[0, 0] < 1e-20
    np.testing.assert_allclose((x**2).mean(), 1, rtol=0.05)
    common = (x[..., 0] * x[..., 1]).mean() / (x**2).mean()
    assert abs(common - 0.9) < 0.02
    pattern = background(size, 2)
    assert np.linalg.norm(pattern) == pytest.approx(1)
    along = np.tensordot(x, pattern, 3)
    # a variance estimated from n normal numbers has relative error sqrt(2/n)
    assert abs(along.var() / natural_variance(pattern) - 1) < 4 * np.sqrt(2 / n)


@pytest.mark.parametrize("opposed_by", ["label", "sign"])
@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_planted_feature_has_its_strength_frequency_and_imbalance(opposed_by, delta):
    n, alpha, p = 3000, 50.0, 0.2
    # not seed 0: alone of the seeds 0..399 its number of positive signs lies 4.2 deviations off
    options = {"p": p, "delta": delta, "opposed_by": opposed_by, "size": 8, "n_classes": 5, "seed": 1}
    data, bare = planted(n, alpha=alpha, **options), planted(n, alpha=1e-12, **options)
    carrier, sign, q = (data.truth[k] for k in ("carrier", "sign", "pattern"))
    assert probable(carrier.sum(), n, p)
    assert probable((sign == 1).sum(), carrier.sum(), (1 + delta) / 2)
    np.testing.assert_array_equal(sign != 0, carrier)
    feature = data.inputs - bare.inputs
    along = feature @ q
    np.testing.assert_allclose(feature, np.outer(along, q), atol=1e-5)
    np.testing.assert_allclose(along, np.sqrt(alpha / p) * (carrier if opposed_by == "label" else sign), atol=1e-5)
    assert abs((along**2).mean() - alpha) < 4 * np.sqrt(p * (1 - p) / n) * alpha / p
    if opposed_by == "label":
        np.testing.assert_array_equal(data.targets[carrier], (sign[carrier] < 0).astype(int))
    else:
        assert (data.targets[carrier] == 0).all()
    rest = data.targets[~carrier]
    assert all(probable((rest == k).sum(), len(rest), 0.2) for k in range(5))


def test_planted_templates_tell_the_classes_apart():
    strong = planted(600, size=8, signal=30.0, n_classes=3, p=0.01, alpha=1e-6)
    means = np.stack([strong.inputs[strong.targets == k].mean(0) for k in range(3)])
    nearest = ((strong.inputs[:, None] - means) ** 2).sum(2).argmin(1)
    assert (nearest == strong.targets).mean() > 0.95
    none = planted(600, size=8, signal=0.0, n_classes=3, p=0.01, alpha=1e-6)
    means = np.stack([none.inputs[:300][none.targets[:300] == k].mean(0) for k in range(3)])
    nearest = ((none.inputs[300:, None] - means) ** 2).sum(2).argmin(1)
    assert (nearest == none.targets[300:]).mean() < 0.45


def test_gaussian_data_have_the_moments_of_the_model():
    n = 20000
    data = gaussian(n, d1=3, d2=4, alpha=10.0, p=0.1, gamma=0.5, beta=2.0, delta=0.4, seed=7)
    x, x_o, sign = data.inputs[:, :3], data.inputs[:, 3:], data.truth["sign"]
    assert np.abs(x.T @ x / n - np.eye(3)).max() < 5 * np.sqrt(2 / n)
    assert probable((sign != 0).sum(), n, 0.1)
    assert probable((sign == 1).sum(), (sign != 0).sum(), 0.7)
    np.testing.assert_allclose(x_o, np.outer(sign, np.full(4, np.sqrt(10 / (0.1 * 4)))))
    np.testing.assert_allclose(data.targets[:, 0], 2 * x[:, 0] + 0.5 * np.abs(x_o.sum(1)))


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_whitened_data_make_the_loss_that_of_the_model(gamma):
    """To rounding and for any weights: 1/2n sum (f - y)^2 = reduced loss + const."""
    model = TwoLayerLinear(d1=6, d2=3, beta=1.5, alpha=20.0, p=0.1, gamma=gamma)
    data = gaussian(60, d1=6, d2=3, beta=1.5, alpha=20.0, p=0.1, gamma=gamma, whitened=True)
    assert np.bincount(data.truth["sign"] + 1).tolist() == [3, 54, 3]
    rng, constants = np.random.default_rng(0), []
    for _ in range(4):
        c, b, b_o = rng.normal(), rng.normal(size=6), rng.normal(size=3)
        f = c * (data.inputs @ np.concatenate([b, b_o]))
        loss = ((f - data.targets[:, 0]) ** 2).mean() / 2
        state = ReducedState(c, b[0], float(np.linalg.norm(b[1:])), b_o.sum() / np.sqrt(3))
        constants.append(loss - float(model.loss(state)))
    np.testing.assert_allclose(constants, constants[0], rtol=0, atol=1e-12)
    assert (abs(constants[0]) > 1e-3) == (gamma > 0)


def user_classes(n, k=3):
    return np.ones((n, 2, 2), np.float32), np.arange(n) % k


def user_regression(n):
    return np.ones((n, 2)), np.ones(n)


def user_dataset(n):
    return chebyshev(n)


def user_short(n):
    return np.ones((n - 1, 2)), np.ones(n - 1)


def user_nan(n):
    return np.full((n, 2), np.nan), np.ones(n)


def user_text(n):
    return [["a"]] * n, np.ones(n)


def user_negative(n):
    return np.ones((n, 2)), np.full(n, -1)


def user_one(n):
    return np.ones((n, 2))


def test_user_data_by_import_path():
    classes = load_data(TrainConfig(data=f"{__name__}:user_classes", n_examples=8, data_options=("k=4",)))
    assert (classes.kind, classes.n_classes, classes.image_shape) == ("classes", 4, (2, 2))
    assert classes.inputs.shape == (8, 4)
    values = load_data(TrainConfig(data=f"{__name__}:user_regression", n_examples=8))
    assert (values.kind, values.targets.shape) == ("regression", (8, 1))
    assert isinstance(load_data(TrainConfig(data=f"{__name__}:user_dataset", n_examples=8)), Dataset)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: load_data(TrainConfig(data=f"{__name__}:user_short", n_examples=8)), "must return 8 examples, got 7"),
        (lambda: load_data(TrainConfig(data=f"{__name__}:user_nan", n_examples=8)), "must be finite, got NaN"),
        (lambda: load_data(TrainConfig(data=f"{__name__}:user_text", n_examples=8)), "inputs must be floats"),
        (
            lambda: load_data(TrainConfig(data=f"{__name__}:user_negative", n_examples=8)),
            "classes must be >= 0, got -1",
        ),
        (lambda: load_data(TrainConfig(data=f"{__name__}:user_one", n_examples=8)), "must return a Dataset or"),
        (lambda: load_data(TrainConfig(data=f"{__name__}:nothing", n_examples=8)), "data must name a function"),
        (lambda: load_data(TrainConfig(data="no_such:make", n_examples=8)), "no_such failed with ModuleNotFoundError"),
        (lambda: images(TrainConfig(data="chebyshev", n_examples=8), [0]), "data must be images"),
        (lambda: chebyshev(1), "n_examples must be at least 2"),
        (lambda: chebyshev(5, degree=-1), "degree must be >= 0, got -1"),
        (lambda: modular(10, modulus=3), r"n_examples must lie in 1\.\.9"),
        (lambda: modular(10, encoding="binary"), "encoding must be one of onehot, tokens"),
        (lambda: text(1, unit="words"), "unit must be one of characters, bytes"),
        (lambda: text(1, path="/nowhere/x.txt"), "data_path must lead to a text file, /nowhere/x.txt"),
        (lambda: text(10**6), "n_examples must be at most"),
        (lambda: digits(10, classes=(1,)), r"two or more different ones, got \(1,\)"),
        (lambda: digits(10, classes=(1, 10)), r"classes must lie in 0\.\.9, got 10"),
        (lambda: digits(1000, classes=(1, 2)), "n_examples must be at most 359 for these classes, got 1000"),
        (lambda: with_label_noise(chebyshev(5), 0.1), "label_noise needs classes, got data of kind regression"),
        (lambda: with_label_noise(digits(5), 1.0), r"label_noise must lie in \[0, 1\), got 1.0"),
        (lambda: planted(5, alpha=0.0), "alpha must be positive, got 0.0"),
        (lambda: planted(5, p=1.5), r"p must be in \(0, 1\], got 1.5"),
        (lambda: planted(5, delta=-2.0), "delta must be in"),
        (lambda: planted(5, opposed_by="size"), "opposed_by must be label or sign"),
        (lambda: gaussian(5, d1=0), "d1 must be an integer >= 1, got 0"),
        (lambda: gaussian(10, whitened=True), "n_examples must be at least d1 [+] 2 = 22 for whitened data, got 10"),
        (lambda: gaussian(30, p=0.001, whitened=True), r"p must give 1\.\.30 carriers among 30, got 0"),
    ],
)
def test_refusals_are_one_clear_line(make, message):
    with pytest.raises(DataError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_undecodable_text(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("zwölf Boxkämpfer".encode("latin-1") * 9)
    with pytest.raises(DataError, match=r"must be UTF-8 for unit characters.*pass unit=bytes"):
        text(2, path=path)
    assert text(2, path=path, unit="bytes").inputs.shape == (2, 32)


def test_generated_images_can_be_looked_at():
    shown = images(TrainConfig(data="planted", n_examples=6, data_options=("size=8",)), [0, 5])
    assert shown.shape == (2, 8, 8, 3)
    assert shown.dtype == np.uint8
    assert shown.std() > 10


def test_slabs_have_a_simple_and_a_complex_feature():
    n, k = 4000, 5
    data = slabs(n, slabs=k, agree=0.8, margin=0.1, seed=2)
    (x, y), (agrees, slab) = (data.inputs, data.targets), (data.truth["agrees"], data.truth["slab"])
    assert data.inputs.shape == (n, 20)
    assert probable(y.sum(), n, 0.5)
    assert probable(agrees.sum(), n, 0.8)
    np.testing.assert_array_equal((x[:, 0] > 0) == (y == 1), agrees)
    assert (np.abs(x[:, 0]) >= 0.1).all()
    place = (x[:, 1] + 1) * k / 2
    np.testing.assert_array_equal(np.floor(place), slab)
    assert np.all((place - slab >= 0.1) & (place - slab <= 0.9))
    np.testing.assert_array_equal(slab % 2 == 0, y == 1)
    for label, slabs_of in ((0, (1, 3)), (1, (0, 2, 4))):
        for j in slabs_of:
            assert probable((slab[y == label] == j).sum(), (y == label).sum(), 1 / len(slabs_of))
    # nothing but these two tells the class: means of n numbers of variance 1, and of the complex one within a class
    bound = 4.5 / np.sqrt(n / 2)
    for label in (0, 1):
        assert np.abs(x[y == label][:, 1:].mean(axis=0)).max() < bound


@pytest.mark.parametrize(
    "options", [{"slabs": 4}, {"slabs": 1}, {"noise": -1}, {"margin": 0.5}, {"margin": 0.0}, {"agree": 1.5}]
)
def test_slabs_refuse(options):
    with pytest.raises(DataError, match=f"{next(iter(options))} must be"):
        slabs(10, **options)
