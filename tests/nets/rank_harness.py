"""A small torchrun for tests: every process is a fork, so that torch is imported once for all of them.

Reads one request a line on stdin, {"size": 2, "args": ["train", ...], "env": {...}, "die": [rank, command, signal]},
runs `opposing ARGS` in that many processes as torchrun does (its variables, its store, SIGTERM to all when one has
failed), and writes one line {"codes": [...], "err": "...", "seconds": ...}. With "die", a process sends itself the
signal at its k-th command.
"""

import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import sklearn.datasets
import torch
import torch.distributed as dist

from nets.ranks import Ranks
from opposing.cli import main

# what a process would otherwise import by itself, some of it late, at its first product
MODULES = (
    "nets.run",
    "nets.serving",
    "opposing.commands.train",
    "opposing.progress",
    "torch.fx.experimental.symbolic_shapes",
    "typeguard",
)
GRACE = 2.0  # seconds from SIGTERM to SIGKILL; torchrun's are 30


def fork(task) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = task()
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise AssertionError


def host_store(pipe: int) -> int:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.write(pipe, str(store.port).encode())
    signal.pause()
    return 0


def die_at(number: int, sent: int) -> None:
    """Make this process signal itself at the k-th command that it sends or receives."""
    count = 0

    def counted(real):
        def command(self, *args):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), sent)
            return real(self, *args)

        return command

    Ranks.command, Ranks.receive = counted(Ranks.command), counted(Ranks.receive)


def process(rank: int, request: dict, port: str, log: Path) -> int:
    size = str(request["size"])
    about = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    about |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    if request["size"] > 1:
        os.environ |= {**about, "TORCHELASTIC_RUN_ID": "harness"}
    os.environ |= request.get("env", {})
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    who, number, sent = request.get("die") or (None, 0, 0)
    # a job of a shell in the background inherits an ignored SIGINT, which Python then leaves ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if rank == who:
        die_at(number, sent)
    return main(request["args"])


def launch(request: dict) -> dict:
    began = time.monotonic()
    read, write = os.pipe()
    store = fork(lambda: host_store(write))
    port = os.read(read, 20).decode()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        ranks = [fork(lambda rank=rank: process(rank, request, port, log)) for rank in range(request["size"])]
        codes, failed = {}, 0.0
        while len(codes) < len(ranks):
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid in ranks:
                codes[pid] = os.waitstatus_to_exitcode(status)
            left = [other for other in ranks if other not in codes]
            if any(codes.values()) and not failed:
                failed = time.monotonic()
                for other in left:
                    os.kill(other, signal.SIGTERM)
            if failed and time.monotonic() > failed + GRACE:
                for other in left:
                    os.kill(other, signal.SIGKILL)
            time.sleep(0.005)
        text = log.read_text()
    os.kill(store, signal.SIGKILL)
    os.waitpid(store, 0)
    os.close(read)
    os.close(write)
    return {"codes": [codes[pid] for pid in ranks], "text": text, "seconds": time.monotonic() - began}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for module in MODULES:
        importlib.import_module(module)
    sklearn.datasets.load_digits()
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(launch(json.loads(line))), flush=True)
