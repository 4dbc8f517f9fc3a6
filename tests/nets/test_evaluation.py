"""The full batch in chunks: against one graph of everything, and how much memory it holds."""

import gc
import weakref

import numpy as np
import pytest
import torch
from small_runs import assert_same_run, small

from nets.config import ConfigError, TrainConfig
from nets.data import load_data
from nets.descent import Problem
from nets.run import Run, create_run

TOKENS = {"data": "text", "data_options": ("context=6",), "model_options": ("width=8", "depth=1", "heads=2")}
KINDS = {
    "mlp": {"widths": (8,)},
    "smoothed": {"widths": (8,), "loss": "cross_entropy", "label_smoothing": 0.1, "model_options": ("norm=layer",)},
    "regression": {"data": "chebyshev", "widths": (8,)},
    "gpt": {**TOKENS, "widths": (64, 64), "model": "gpt", "loss": "cross_entropy"},
    "vit": {"widths": (64, 64), "model": "vit", "model_options": ("width=8", "depth=1", "heads=2")},
    "resnet": {"widths": (64, 64), "model": "resnet18", "model_options": ("width=0.03125", "norm=group")},
}
GHOSTS = {"model_options": ("norm=batch",), "widths": (8,)}


def problem(n=23, **changes) -> Problem:
    config = small(n_examples=n, **changes)
    return Problem(config, load_data(config))


def plain(p: Problem, theta, vector, parts=None):
    """Losses, gradient and Hv of all rows in one graph, by parameters as leaves; parts: rows normalised together."""
    torch.nn.utils.vector_to_parameters(theta.clone(), p.module.parameters())
    params = list(p.module.parameters())
    parts = [slice(None)] if parts is None else parts
    losses = torch.cat([p.loss(p.module(p.inputs[rows]), p.targets[rows]) for rows in parts])
    grads = torch.autograd.grad(losses.mean(), params, create_graph=True)
    gradient = torch.cat([g.reshape(-1) for g in grads])
    product = torch.autograd.grad(gradient, params, vector, materialize_grads=True)
    return losses.detach(), gradient.detach(), torch.cat([g.reshape(-1) for g in product])


def point(p: Problem):
    generator = torch.Generator().manual_seed(1)
    theta = p.initial_state().parameters
    shift, vector = (torch.randn(theta.shape, generator=generator, dtype=theta.dtype) for _ in range(2))
    return theta + 0.1 * shift, vector


@pytest.mark.parametrize("kind", KINDS)
def test_one_chunk_has_the_bits_of_the_plain_graph(kind):
    p = problem(**KINDS[kind])
    theta, vector = point(p)
    here = p.full_batch.evaluate(theta)
    product = here.product(vector)
    losses, gradient, expected = plain(p, theta, vector)
    assert torch.equal(here.losses, losses)
    assert torch.equal(here.gradient, gradient)
    assert torch.equal(product, expected)
    assert torch.equal(p.full_batch.gradient(theta), gradient)
    assert here.loss == float(losses.mean())


@pytest.mark.parametrize("chunk", [1, 4, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_unequal_length_give_the_mean_over_all(kind, chunk):
    """11 rows: chunks 11 × 1, 4 + 4 + 3, 10 + 1; float64, the sum of 11 or fewer terms."""
    p = problem(11, **KINDS[kind], dtype="float64", chunk_size=chunk)
    theta, vector = point(p)
    here = p.full_batch.evaluate(theta)
    product = here.product(vector)
    expected = plain(p, theta, vector)
    for got, want in zip((here.losses, here.gradient, product), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-13 * float(want.abs().max()))
    rows = torch.tensor([3, 10, 0, 9, 5])
    cut = problem(11, **KINDS[kind], dtype="float64")
    cut.inputs, cut.targets = cut.inputs[rows], cut.targets[rows]
    torch.testing.assert_close(
        p.full_batch.gradient(theta, rows),
        plain(cut, theta, vector)[1],
        rtol=0,
        atol=1e-13 * float(expected[1].abs().max()),
    )


def test_without_products_no_graph_is_kept_and_a_product_can_still_be_had():
    p = problem(**KINDS["mlp"], chunk_size=100)  # more than there are rows: one chunk
    theta, vector = point(p)
    here = p.full_batch.evaluate(theta, products=False)
    losses, gradient, expected = plain(p, theta, vector)
    assert torch.equal(here.losses, losses)
    assert torch.equal(here.gradient, gradient)
    torch.testing.assert_close(here.product(vector), expected)
    assert held_bytes(0)[0] > 0
    assert held_bytes(0, products=False)[0] == 0


def test_accuracy_counts_every_example_once():
    p = problem(chunk_size=7)
    theta, _ = point(p)
    here = p.full_batch.evaluate(theta)
    outputs = p.module_at(theta)(p.inputs)
    assert here.accuracy == int((outputs.argmax(1) == p.targets).sum()) / 23


def test_batchnorm_in_chunks_is_the_loss_of_ghost_batches():
    """Gradient and products are those of the loss whose statistics are each chunk's; it is another loss."""
    p = problem(**GHOSTS, dtype="float64", chunk_size=9)
    theta, vector = point(p)
    here = p.full_batch.evaluate(theta)
    product = here.product(vector)
    expected = plain(p, theta, vector, [slice(0, 9), slice(9, 18), slice(18, 23)])
    for got, want in zip((here.losses, here.gradient, product), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-13 * float(want.abs().max()))
    together = plain(p, theta, vector)[0]
    assert float((here.losses - together).abs().max()) > 1e-3


class Held:
    """Bytes that graphs hold, now and at most, by hooks on every tensor saved for backward."""

    def __init__(self):
        self.now = self.most = 0
        self.alive = {}

    def pack(self, tensor):
        key = tensor.untyped_storage().data_ptr()
        box = [tensor]
        size = tensor.untyped_storage().nbytes()
        count = self.alive[key] = self.alive.get(key, 0) + 1
        if count == 1:
            self.now += size
            self.most = max(self.most, self.now)
        saved = _Box(box)
        weakref.finalize(saved, self.free, key, size)
        return saved

    def free(self, key, size):
        self.alive[key] -= 1
        if not self.alive[key]:
            del self.alive[key]
            self.now -= size


class _Box:
    def __init__(self, content):
        self.content = content


def held_bytes(chunk_size, products=True):
    """Bytes held by graphs after losses and gradient, and most while they and two products are computed."""
    p = problem(n=1600, widths=(16, 16), chunk_size=chunk_size)
    theta, vector = point(p)
    held = Held()
    gc.collect()
    with torch.autograd.graph.saved_tensors_hooks(held.pack, lambda box: box.content[0]):
        here = p.full_batch.evaluate(theta, products)
        kept = held.now
        for _ in range(2 if products else 0):
            here.product(vector)
    return kept, held.most


def test_memory_is_that_of_one_chunk():
    """A tenth of the rows at a time: a tenth of what all rows hold, and what the parameters themselves take."""
    kept, whole = held_bytes(0)
    kept_of_chunks, tenth = held_bytes(160)
    rows = 1600 * 64 * 4  # the inputs lie in one storage, which every chunk holds a view of
    parameters = 4 * (64 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10)
    assert tenth - rows < (whole - rows) / 10 + 4 * parameters
    assert whole - rows > 20 * parameters  # else the bar would say nothing
    assert kept_of_chunks == 0 < kept


def test_a_run_in_chunks_resumes_to_the_same_bytes_and_equals_the_run_without(tmp_path):
    for optimizer in ({}, {"optimizer": "sam", "batch_size": 16}):
        changes = {**optimizer, "steps": 9, "dtype": "float64"}
        folder = tmp_path / optimizer.get("optimizer", "gd")
        for name, chunk in (("whole", 7), ("run", 7), ("one", 0)):
            create_run(folder / name, small(**changes, chunk_size=chunk))
        for name in ("whole", "one"):
            Run.open(folder / name).advance()
        Run.open(folder / "run").advance(until=4)
        Run.open(folder / "run").advance()
        assert_same_run(folder / "run", folder / "whole")
        a, b = (Run.open(folder / name).history() for name in ("whole", "one"))
        for name in ("loss", "example_loss", "sharpness", "accuracy", "grad_norm"):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-12, err_msg=name)


def test_chunk_size_is_an_option_that_leaves_old_hashes():
    assert TrainConfig(chunk_size=0).config_hash == TrainConfig().config_hash
    assert TrainConfig(chunk_size=10).config_hash != TrainConfig().config_hash
    with pytest.raises(ConfigError, match="chunk_size must be an integer >= 0, got -1; pass"):
        TrainConfig(chunk_size=-1)


@pytest.mark.gpu
def test_chunks_on_a_gpu_equal_those_on_the_cpu():
    p = problem(**KINDS["resnet"], dtype="float64", chunk_size=7)
    theta, vector = point(p)
    expected = plain(p, theta, vector)
    p.module.cuda()
    from nets.evaluation import ChunkedLoss

    there = ChunkedLoss(p.module, p.loss, p.inputs.cuda(), p.targets.cuda(), 7)
    here = there.evaluate(theta.cuda())
    for got, want in zip((here.losses, here.gradient, here.product(vector.cuda())), expected, strict=True):
        torch.testing.assert_close(got.cpu(), want, rtol=0, atol=1e-11 * float(want.abs().max()))
