"""Several processes compute what one does, end together, and lose nothing that was recorded."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import assert_same_run, contents, small

from nets.config import TrainConfig
from nets.ranks import Ranks
from nets.run import Run, create_run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
QUANTITIES = ("loss", "example_loss", "sharpness", "grad_norm", "accuracy", "eigenvalues", "group_loss")
# noticed by the connection, or told by the launcher, whichever comes first
LOST = (
    r"(another process of this run ended or did not answer within [\d.]+ s"
    r"|told to stop \(SIGTERM\), by torchrun where another process ended); what was recorded is kept: resume the run"
)


@pytest.fixture(scope="module")
def launch():
    """A function (size, *arguments, env, die) that runs the command in so many processes."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "rank_harness.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as harness:
        assert harness.stdin is not None
        assert harness.stdout is not None

        def call(size, *arguments, **more):
            request = {"size": size, "args": [str(a) for a in arguments], **more}
            harness.stdin.write(json.dumps(request) + "\n")
            harness.stdin.flush()
            return json.loads(harness.stdout.readline())

        yield call
        harness.stdin.close()


def train(launch, size, directory, config: TrainConfig, *arguments, **more):
    """Create the run if there is none, and advance it in ``size`` processes."""
    if not directory.exists():
        create_run(directory, config)
    return launch(size, "train", "--resume", directory, *arguments, **more)


def differences(a: Path, b: Path) -> dict[str, float]:
    """Largest difference of each quantity and of the parameters, relative to its largest value."""
    first, second = Run.open(a), Run.open(b)
    x, y = first.history(), second.history()
    names = [name for name in QUANTITIES if name in x]
    pairs = {name: (x[name].values.astype(float), y[name].values.astype(float)) for name in names}
    theta = [torch.nn.utils.parameters_to_vector(r.parameters().parameters()).detach() for r in (first, second)]
    pairs["parameters"] = tuple(t.double().numpy() for t in theta)
    assert all((np.isnan(p) == np.isnan(q)).all() for p, q in pairs.values())
    kept = {name: pair for name, pair in pairs.items() if not np.isnan(pair[1]).all()}
    return {name: float(np.nanmax(np.abs(p - q)) / np.nanmax(np.abs(q))) for name, (p, q) in kept.items()}


def lines(text: str) -> list[str]:
    """What the command line itself says of a failure."""
    return [line for line in text.splitlines() if re.match("opposing( train)?: ", line)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_equal_one_within_rounding_after_50_steps(tmp_path, launch, size, dtype):
    """The default run. Bound: one rounding a step, each of relative size eps, added up over 50 steps.

    The shares are summed in another order than the rows of one process, which changes gradients by about eps;
    below the edge gradient descent does not amplify it.
    """
    config = TrainConfig(steps=50, threads=1, dtype=dtype)
    for name, processes in (("one", 1), ("more", size)):
        result = train(launch, processes, tmp_path / name, config)
        assert result["codes"] == [0] * processes, result["text"]
    bound = 50 * float(torch.finfo(getattr(torch, dtype)).eps)
    apart = differences(tmp_path / "more", tmp_path / "one")
    assert max(apart.values()) < bound, apart
    assert apart["parameters"] > 0  # they are not one computation


KINDS = {
    "adam, batches in chunks": {
        "optimizer": "adam",
        "batch_size": 13,
        "chunk_size": 3,
        "lr": 0.003,
        "model_options": ("norm=layer",),
    },
    "sam, full batch": {"optimizer": "sam", "optimizer_options": ("rho=0.1",), "chunk_size": 6},
    "gpt": {
        "model": "gpt",
        "model_options": ("width=8", "depth=1", "heads=2"),
        "widths": (64, 64),
        "data": "text",
        "data_options": ("context=6",),
        "n_examples": 10,
        "loss": "cross_entropy",
    },
    "regression": {"data": "chebyshev", "n_examples": 20, "lr": 0.05},
    "observers": {"eig_every": 2, "observers": ("eigenvalues every=2 k=2", "groups every=3"), "chunk_size": 6},
    "batches smaller than the processes": {"optimizer": "sgd", "batch_size": 2},
}
QUICK = ("adam, batches in chunks", "observers")


@pytest.mark.parametrize("kind", [*QUICK, *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k not in QUICK)])
def test_unequal_shares_of_optimizers_batches_tokens_and_chunks(tmp_path, launch, kind):
    """Three processes, whose shares are unequal, against one; float64."""
    config = small(**{"dtype": "float64", "steps": 5, **KINDS[kind]})
    for name, processes in (("one", 1), ("three", 3)):
        result = train(launch, processes, tmp_path / name, config)
        assert result["codes"] == [0] * processes, result["text"]
    apart = differences(tmp_path / "three", tmp_path / "one")
    assert ("accuracy" in apart) == (kind != "regression")
    assert len(apart) >= 5
    assert max(apart.values()) < 1e-10, apart


def test_batchnorm_normalises_the_rows_of_each_process(tmp_path, launch):
    """Two processes compute the loss of one with two chunks, which is not that of one with one."""
    ghosts = {"model_options": ("norm=batch",), "dtype": "float64", "steps": 4}
    for name, processes, chunk in (("two", 2, 0), ("chunks", 1, 20), ("one", 1, 0)):
        assert train(launch, processes, tmp_path / name, small(**ghosts, chunk_size=chunk))["codes"] == [0] * processes
    apart = differences(tmp_path / "two", tmp_path / "chunks")
    assert max(apart.values()) < 1e-10, apart
    assert differences(tmp_path / "two", tmp_path / "one")["loss"] > 1e-3


def test_resume_keeps_the_bits_with_as_many_processes_and_the_values_with_others(tmp_path, launch):
    config = small(optimizer="heavy_ball", steps=9)
    train(launch, 2, tmp_path / "same", config, "--until", "3")
    shutil.copytree(tmp_path / "same", tmp_path / "other")
    for name, size in (("whole", 2), ("same", 2), ("other", 3)):
        result = train(launch, size, tmp_path / name, config)
        assert result["codes"] == [0] * size, result["text"]
    assert_same_run(tmp_path / "same", tmp_path / "whole")
    assert contents(tmp_path / "other") != contents(tmp_path / "whole")
    apart = differences(tmp_path / "other", tmp_path / "whole")
    assert max(apart.values()) < 9 * float(torch.finfo(torch.float32).eps), apart
    about = json.loads((tmp_path / "other" / "provenance.json").read_text())
    assert about["processes"] == [{"from_step": 0, "processes": 2}, {"from_step": 3, "processes": 3}]


def kill_and_resume(launch, directory, size, config, kills, env=None):
    """Kill process ``rank`` at its k-th command, for every pair; each time one line, at once, and nothing lost."""
    rows = 0
    for rank, command in kills:
        before = contents(directory) if directory.exists() else {}
        result = train(launch, size, directory, config, die=[rank, command, signal.SIGKILL], env=env or {})
        assert result["codes"][rank] == -signal.SIGKILL, result
        assert [c for k, c in enumerate(result["codes"]) if k != rank] == [1] * (size - 1), result
        assert len(lines(result["text"])) == 1, result["text"]
        assert re.search(LOST, lines(result["text"])[0])
        assert result["seconds"] < 20
        kept = contents(directory)
        assert set(before) <= set(kept)
        run = Run.open(directory)
        assert run.rows >= rows
        assert np.isfinite(run.history().loss).all()
        status = json.loads((directory / "status.json").read_text())
        assert status["status"] == ("stopped" if rank else "running")  # a killed process 0 cannot say it any more
        rows = run.rows
    return rows


def test_a_killed_process_ends_the_run_with_one_line_and_it_resumes(tmp_path, launch):
    config = small(optimizer="adam", batch_size=16, lr=0.003, steps=30)
    train(launch, 2, tmp_path / "whole", config)
    rows = kill_and_resume(launch, tmp_path / "run", 2, config, [(1, 60), (0, 80)])
    assert 0 < rows < 30
    assert train(launch, 2, tmp_path / "run", config)["codes"] == [0, 0]
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_many_kills_of_four_processes(tmp_path, launch):
    config = small(steps=200, checkpoint_every=7)
    train(launch, 4, tmp_path / "whole", config)
    rng = np.random.default_rng(0)
    kills = [(k % 4, int(rng.integers(3, 110))) for k in range(12)]
    assert 0 < kill_and_resume(launch, tmp_path / "run", 4, config, kills) < 200
    assert train(launch, 4, tmp_path / "run", config)["codes"] == [0] * 4
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_hangs_ends_the_run_after_the_time_limit(tmp_path, launch, rank):
    config = small(steps=30)
    stopped = [rank, 60, signal.SIGSTOP]
    result = train(launch, 2, tmp_path / "run", config, die=stopped, env={"OPPOSING_TIMEOUT": "1"})
    assert result["codes"][1 - rank] == 1
    assert result["codes"][rank] == -signal.SIGKILL  # by the launcher, some seconds after SIGTERM
    assert len(lines(result["text"])) == 1
    assert "did not answer within 1 s" in lines(result["text"])[0]
    assert result["seconds"] < 20
    assert train(launch, 1, tmp_path / "run", config)["codes"] == [0]


@pytest.mark.parametrize(
    ("sent", "code", "message"),
    [
        (signal.SIGINT, 130, "opposing: interrupted; what was recorded is kept, the same command goes on"),
        pytest.param(
            signal.SIGTERM,
            1,
            "told to stop (SIGTERM), by torchrun where another process ended; what was recorded is kept",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_process_0_told_to_stop_says_so_and_the_others_end(tmp_path, launch, sent, code, message):
    config = small(steps=30)
    result = train(launch, 2, tmp_path / "run", config, die=[0, 60, sent])
    assert result["codes"] == [code, 1]
    assert len(lines(result["text"])) == 1
    assert message in lines(result["text"])[0]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "stopped"
    assert train(launch, 2, tmp_path / "run", config)["codes"] == [0, 0]


def test_an_error_in_one_process_is_said_by_it(tmp_path, launch):
    env = {"FAIL_RANK": "1", "FAIL_AT": "5", "FAIL_HOW": "error"}
    options = ("--model", "rank_modules:failing", "--n-examples", "40", "--steps", "20", "--threads", "1")
    result = launch(2, "train", "--out", tmp_path / "run", *options, env=env)
    assert result["codes"] == [1, 1]
    consequence, cause = sorted(lines(result["text"]))
    assert re.search(LOST, consequence)
    assert "RankError: process 1 of 2: MemoryError: no memory left for this batch" in cause


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        (["--n-examples", "2"], {}, "n_examples must be at least the number of processes, 3, got 2; start fewer"),
        (["--data", "rank_modules:unlike", "--n-examples", "9"], {}, "process 1 of 3: data must be those of process 0"),
        ([], {"OPPOSING_TIMEOUT": "soon"}, "OPPOSING_TIMEOUT must be a positive number of seconds, got 'soon'; pass"),
        ([], {"OPPOSING_TIMEOUT": "-1"}, "OPPOSING_TIMEOUT must be a positive number of seconds, got '-1'; pass"),
        (["--device", "cuda:0"], {}, "device must be cpu or cuda with several processes, got cuda:0; each takes a GPU"),
        (["--lr", "-1"], {}, "lr must be positive and finite, got -1.0"),
    ],
)
def test_refusals_are_one_line_of_process_0(tmp_path, launch, arguments, env, message):
    result = launch(3, "train", "--out", tmp_path / "run", "--threads", "1", *arguments, env=env)
    assert result["codes"][0] == 2, result["text"]
    assert len(lines(result["text"])) == 1, result["text"]
    assert message in lines(result["text"])[0]
    if "process 1" not in message:  # otherwise known only when the others are set up; the run can be resumed
        assert list(tmp_path.iterdir()) == []


def test_help_ends_all(launch):
    result = launch(2, "train", "--help")
    assert result["codes"] == [0, 0]
    assert "opposing train --out" in result["text"]


@pytest.mark.parametrize(("n", "size"), [(10, 3), (5, 5), (1797, 4), (7, 1)])
def test_shares_are_contiguous_equal_within_one_and_whole(n, size):
    shares = []
    for rank in range(size):
        ranks = object.__new__(Ranks)
        ranks.rank, ranks.size = rank, size
        shares.append(np.arange(n)[ranks.rows(n)])
    assert np.concatenate(shares).tolist() == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def torchrun(folder: Path, arguments: list[str], env=None, **options):
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}", "OMP_NUM_THREADS": "1", **(env or {})},
        timeout=240,
        **options,
    )


def readme_command() -> list[str]:
    found = re.findall(r"^torchrun (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(found) == 1
    return shlex.split(found[0])


@pytest.mark.slow
def test_the_command_of_the_readme(tmp_path):
    command = readme_command()
    out = torchrun(tmp_path, [*command, "--steps", "4", "--threads", "1"])
    assert out.returncode == 0, out.stderr
    directory = tmp_path / command[command.index("--out") + 1]
    assert Run.open(directory).status.status == "finished"
    assert json.loads((directory / "provenance.json").read_text())["processes"][0]["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_killed_under_torchrun(tmp_path, rank):
    """The real launcher: its exit code is 1, our line is one, and the run resumes to the bytes of a whole one."""
    options = shlex.split("--model rank_modules:failing --n-examples 40 --steps 40 --checkpoint-every 5 --threads 1")
    start = ["--standalone", "--nproc-per-node", "2", "-m", "opposing", "train"]
    out = torchrun(tmp_path, [*start, "--out", "run", *options], env={"FAIL_RANK": str(rank), "FAIL_AT": "32"})
    assert out.returncode == 1
    said = lines(out.stderr)
    assert len(said) == 1, out.stderr
    assert re.search(LOST, said[0])
    assert 20 <= Run.open(tmp_path / "run").rows < 40
    assert torchrun(tmp_path, [*start, "--resume", "run"]).returncode == 0
    assert torchrun(tmp_path, [*start, "--out", "whole", *options]).returncode == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    ("device", "size"),
    [
        pytest.param("cpu", 3, marks=pytest.mark.slow),
        pytest.param("cuda", torch.cuda.device_count(), marks=pytest.mark.gpu),
    ],
)
def test_the_shared_loss_on_a_device(tmp_path, device, size):
    """One process a GPU, vectors carried by nccl; the same script on the CPU, by gloo."""
    out = torchrun(tmp_path, ["--standalone", "--nproc-per-node", str(size), str(HERE / "rank_device.py"), device])
    assert out.returncode == 0, out.stderr
    assert f"equal on {device} with {size} processes" in out.stdout
