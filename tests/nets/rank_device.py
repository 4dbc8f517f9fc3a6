"""Under torchrun: the shared loss on a device against one process on the CPU: `rank_device.py cuda|cpu`."""

import sys

import torch
import torch.distributed as dist
from small_runs import small

from nets.data import load_data
from nets.descent import Problem
from nets.evaluation import ChunkedLoss
from nets.ranks import STOP, Ranks
from nets.shared_loss import SharedLoss


def main(device: str) -> None:
    torch.set_num_threads(1)
    config = small(dtype="float64", chunk_size=7)
    ranks = Ranks()
    p, alone = (Problem(config, load_data(config)) for _ in range(2))
    rows = ranks.rows(len(p.inputs))
    inputs, targets = p.inputs[rows].to(device), p.targets[rows].to(device)
    shared = SharedLoss(ranks, ChunkedLoss(p.module.to(device), p.loss, inputs, targets, 7, len(p.inputs)))
    ranks.served = shared
    if ranks.rank:
        command, number = ranks.receive()
        while command != STOP:
            shared.follow(command, number)
            command, number = ranks.receive()
    else:
        theta = alone.initial_state().parameters
        vector = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=theta.dtype)
        batch = torch.tensor([30, 2, 5, 39])
        here, expected = shared.evaluate(theta.to(device)), alone.full_batch.evaluate(theta)
        pairs = {
            "losses": (here.losses, expected.losses),
            "correct": (here.correct, expected.correct),
            "gradient": (here.gradient, expected.gradient),
            "product": (here.product(vector.to(device)), expected.product(vector)),
            "batch": (shared.gradient(theta.to(device), batch), alone.full_batch.gradient(theta, batch)),
        }
        for name, (got, want) in pairs.items():
            assert got.device.type == device, name
            torch.testing.assert_close(got.cpu(), want, rtol=0, atol=1e-11 * float(want.abs().max()), msg=name)
        ranks.command(STOP)
        print(f"equal on {device} with {ranks.size} processes")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
