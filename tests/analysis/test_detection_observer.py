"""The observer in training loops: equal to the record, without a trace in the training, in bounded memory."""

import importlib.util

import numpy as np
import pytest
import torch
from planted_nets import half_square, planted_net
from torch import nn
from torch.nn import functional

from analysis.callbacks import lightning_callback, trainer_callback
from analysis.curvature import flatten, unflatten
from analysis.curvature.attribution import attribute
from analysis.detection import detect_in_losses, detect_in_projections
from analysis.observer import OpposingSignals, per_example
from analysis.projection import project_losses


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices this small run slower on several threads, much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def loop(net, lr, steps, signals=None):
    for _ in range(steps):
        if signals is not None:
            signals.step()
        loss = half_square(net.net(net.x), net.y).mean()
        gradients = torch.autograd.grad(loss, list(net.net.parameters()))
        with torch.no_grad():
            for p, g in zip(net.net.parameters(), gradients, strict=True):
                p -= lr * g


def test_three_lines_find_the_planted_pair_and_equal_the_record():
    net = planted_net(0)
    signals = OpposingSignals(net.net, half_square, (net.x, net.y), keep_record=True)
    loop(net, net.lr, 140, signals)
    found = signals.detect()
    np.testing.assert_allclose(signals.record, planted_net(140).losses, rtol=1e-12)
    offline = detect_in_losses(signals.record[100:], first_step=100)
    assert (found.first_step, found.last_step) == (offline.first_step, offline.last_step) == (100, 138)
    assert len(found.pairs) == len(offline.pairs)
    for a, b in zip(found.pairs, offline.pairs, strict=True):
        np.testing.assert_array_equal(a.weights, b.weights)
        assert a.to_dict() == b.to_dict()
    members = list(found.significant()[0].members)
    assert net.carrier[members].mean() >= 0.95
    assert net.carrier[members].sum() >= 0.95 * net.carrier.sum()


def test_projections_of_the_observer_are_those_of_the_functions():
    net = planted_net(20)
    signals = OpposingSignals(net.net, half_square, (net.x, net.y), batch_size=150)
    vectors = signals.eigenvectors(2, tol=1e-6)
    losses, params = net.functions()
    expected = detect_in_projections(
        torch.stack([project_losses(losses, params, v) for v in vectors], 1).numpy(),
        curvature=torch.stack([attribute(losses, params, v).curvatures for v in vectors], 1).numpy(),
    )
    found = signals.project(vectors)
    for a, b in zip(found.pairs, expected.pairs, strict=True):
        np.testing.assert_allclose(a.weights, b.weights, rtol=1e-10, atol=1e-13)
        assert a.sharpness_share == pytest.approx(b.sharpness_share, rel=1e-9)
    assert net.carrier[list(found.pairs[0].members)].mean() >= 0.95


def test_eigenvectors_are_those_of_the_dense_hessian():
    net = planted_net(20, n=100, d=5, width=4)
    losses, params = net.functions()
    vectors = OpposingSignals(net.net, half_square, (net.x, net.y)).eigenvectors(2, tol=1e-7)
    dense = torch.autograd.functional.hessian(lambda f: losses(unflatten(f, params)).mean(), flatten(params))
    top = torch.linalg.eigh(dense)[1][:, [-1, -2]].T
    np.testing.assert_allclose((vectors * top).sum(1).abs(), 1.0, atol=1e-6)


def test_gradients_and_share_come_with_a_detection():
    net = planted_net(0)
    signals = OpposingSignals(net.net, half_square, (net.x, net.y))
    loop(net, net.lr, 120, signals)
    pair = signals.detect(gradients=True, vectors=signals.eigenvectors()).pairs[0]
    assert pair.opposition_from == "gradients"
    assert pair.opposition > 0.9
    assert pair.sharpness_share is not None
    assert pair.sharpness_share > 0.9


def test_training_is_the_same_to_the_bit_and_modes_are_restored():
    def train(watch):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
        net[3].eval()  # a mode of its own
        x, y = torch.randn(30, 4), torch.randint(0, 3, (30,))
        signals = OpposingSignals(net, functional.cross_entropy, (x, y)) if watch else None
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(12):
            if signals is not None:
                signals.step()
            optimizer.zero_grad()
            functional.cross_entropy(net(x + 0.1 * torch.randn(30, 4)), y).backward()
            optimizer.step()
        assert [m.training for m in net] == [True, True, True, False, True]
        return net.state_dict()

    for a, b in zip(train(True).values(), train(False).values(), strict=True):
        assert torch.equal(a, b)


def test_memory_does_not_grow_with_the_steps():
    net = nn.Linear(2, 1)
    signals = OpposingSignals(net, nn.MSELoss(), (torch.randn(50, 2), torch.randn(50, 1)), blocks=4)
    sizes = []
    for _ in range(300):
        signals.step()
        sizes.append(signals.nbytes)
    assert max(sizes[100:]) == sizes[100] == (4 + 4) * 50 * 8
    with pytest.raises(ValueError, match="record was not kept; make the observer with keep_record=True"):
        _ = signals.record


class Bigram(nn.Module):
    """Scores of the next token from the current one alone."""

    def __init__(self, vocabulary):
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocabulary, vocabulary))

    def forward(self, tokens):
        return self.table[tokens]


def test_tokens_are_examples_with_their_context():
    torch.manual_seed(0)
    tokens = torch.randint(0, 7, (3, 6))
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[1, 2] = -100
    net = Bigram(7)
    signals = OpposingSignals(net, nn.CrossEntropyLoss(), (inputs, targets), batch_size=2, keep_record=True)
    assert signals.task == "next_token"
    signals.step()
    log_p = torch.log_softmax(net.table, 1)
    places = [(r, c) for r in range(3) for c in range(5) if (r, c) != (1, 2)]
    expected = [-log_p[inputs[r, c], targets[r, c]].item() for r, c in places]
    np.testing.assert_allclose(signals.record[0], expected, rtol=1e-6)
    for k, (r, c) in enumerate(places):
        example = signals.token(k)
        assert (example.row, example.position, example.target) == (r, c, int(targets[r, c]))
        assert example.context == tuple(inputs[r, : c + 1].tolist())
    assert signals.token(4, length=2).context == tuple(inputs[0, 3:5].tolist())
    with pytest.raises(ValueError, match=r"example must be in 0\.\.13, got 14"):
        signals.token(14)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.CrossEntropyLoss(label_smoothing=0.1), torch.tensor([0, 2, 1, 1])),
        (functional.cross_entropy, torch.tensor([0, 2, 1, 1])),
        (nn.MSELoss(), torch.ones(4, 3)),
        (functional.smooth_l1_loss, torch.ones(4, 3)),
    ],
)
def test_the_mean_of_the_losses_is_the_training_loss(loss, targets):
    torch.manual_seed(0)
    net, x = nn.Linear(5, 3), torch.randn(4, 5)
    signals = OpposingSignals(net, loss, (x, targets), keep_record=True)
    signals.step()
    assert signals.record.shape == (1, 4)
    assert signals.record.mean() == pytest.approx(loss(net(x), targets).item(), rel=1e-6)
    if isinstance(loss, nn.Module):
        assert loss.reduction == "mean"  # the user's own is left alone
        assert per_example(loss).reduction == "none"


def test_losses_at_hand_are_taken_without_a_pass():
    class Broken(nn.Module):
        def forward(self, x):
            raise AssertionError("no pass is needed")

    signals = OpposingSignals(Broken(), functional.mse_loss, (torch.zeros(5, 1), torch.zeros(5, 1)))
    for step in range(20):
        signals.step(step, losses=torch.full((5,), float(step)))
    assert signals.detect().pairs == ()


def test_bad_input_is_named():
    net, x, y = nn.Linear(2, 1), torch.zeros(4, 2), torch.zeros(4, 1)
    with pytest.raises(ValueError, match="data must hold as many inputs as targets, got 4 and 3"):
        OpposingSignals(net, functional.mse_loss, (x, y[:3]))
    with pytest.raises(ValueError, match=r"task must be one of auto, .*, got 'ranking'"):
        OpposingSignals(net, functional.mse_loss, (x, y), task="ranking")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        OpposingSignals(net, functional.mse_loss, (x, y), batch_size=0)
    with pytest.raises(ValueError, match=r"loss_fn must give one value per example, got shape \(\) for 4"):
        OpposingSignals(net, lambda o, t: (o - t).square().mean(), (x, y)).step()
    with pytest.raises(ValueError, match="token needs the task next_token, got regression"):
        OpposingSignals(net, functional.mse_loss, (x, y)).token(0)
    with pytest.raises(ValueError, match="outputs must have shape"):
        OpposingSignals(net, functional.cross_entropy, (x, torch.zeros(4, 3, dtype=torch.long))).step()
    with pytest.raises(ValueError, match="a detection needs 3 blocks"):
        OpposingSignals(net, functional.mse_loss, (x, y)).detect()


def missing(*names):
    return all(importlib.util.find_spec(name) is None for name in names)


def test_callbacks_say_what_to_install():
    signals = OpposingSignals(nn.Linear(1, 1), functional.mse_loss, (torch.zeros(4, 1), torch.zeros(4, 1)))
    if missing("lightning", "pytorch_lightning"):
        with pytest.raises(ImportError, match="none is installed; pip install lightning"):
            lightning_callback(signals)
    if missing("transformers"):
        with pytest.raises(ImportError, match="none is installed; pip install transformers accelerate"):
            trainer_callback(signals)


def linear_run():
    torch.manual_seed(0)
    net, x, y = nn.Linear(3, 1), torch.randn(16, 3), torch.randn(16, 1)
    return net, x, y, OpposingSignals(net, functional.mse_loss, (x, y), keep_record=True)


@pytest.mark.skipif(missing("lightning", "pytorch_lightning"), reason="LIGHTNING IS NOT INSTALLED: callback not run")
def test_lightning_takes_every_step(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch" if not missing("lightning") else "pytorch_lightning")
    net, x, y, signals = linear_run()

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def training_step(self, batch, _):
            return functional.mse_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16)
    trainer = lightning.Trainer(
        max_epochs=7,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[lightning_callback(signals)],
    )
    trainer.fit(Module(), loader)
    assert signals.record.shape == (8, 16)
    assert (np.diff(signals.record.mean(axis=1)) < 0).all()


@pytest.mark.skipif(missing("transformers"), reason="TRANSFORMERS IS NOT INSTALLED: callback not run")
def test_trainer_takes_every_step():
    """The Trainer's calls in their order, on its own callback handler."""
    transformers = pytest.importorskip("transformers")
    _, _, _, signals = linear_run()
    callback = trainer_callback(signals)
    assert isinstance(callback, transformers.TrainerCallback)
    state = transformers.TrainerState()
    callback.on_train_begin(None, state, None)
    for state.global_step in range(1, 4):
        callback.on_step_end(None, state, None)
    assert signals.record.shape == (4, 16)
