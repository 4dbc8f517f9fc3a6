"""The commands as a user calls them: help, bad input, and the whole path from training to a verdict."""

import json
import subprocess
import sys

import pytest

from opposing.cli import COMMANDS, main

TINY = [
    "--n-examples",
    "300",
    "--widths",
    "32",
    "--steps",
    "240",
    "--lr",
    "0.48",
    "--threads",
    "1",
    "--checkpoint-every",
    "20",
]


def call(*args):
    """Exit code, as the shell would see it."""
    try:
        return main([str(a) for a in args])
    except SystemExit as stop:
        return stop.code


def test_help_lists_every_command_without_heavy_imports():
    code = (
        "import sys; from opposing.cli import main; main(['--help']); "
        "print('HEAVY', [m for m in ('torch', 'sympy', 'numba', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(name in out for name in COMMANDS)
    assert "HEAVY []" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_an_example_and_no_heavy_imports(name):
    code = (
        f"import sys\nfrom opposing.cli import main\ntry:\n    main(['{name}', '--help'])\nexcept SystemExit as s:\n"
        "    print('CODE', s.code, [m for m in ('torch', 'sympy', 'numba', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"example: opposing {name}" in " ".join(out.split())
    assert "CODE 0 []" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing"], "command must be one of"),
        (["train"], "one of --out and --resume must be given, got neither"),
        (["train", "--out", "{tmp}/x", "--lr", "0"], "lr must be positive and finite, got 0.0; pass lr > 0"),
        (["train", "--out", "{tmp}/x", "--lr", "nan"], "lr must be positive and finite, got nan"),
        (["train", "--out", "{tmp}/x", "--n-examples", "0"], "n_examples must be an integer >= 1, got 0"),
        (["train", "--out", "{tmp}/x", "--data", "cifar10", "--data-path", "{tmp}/none"], "none"),
        (["train", "--out", "{tmp}/x", "--until", "later"], "until must be one of"),
        (["train", "--resume", "{tmp}/none"], "must be a run directory"),
        (["train", "--out", "{tmp}/x", "--optimizer", "lion"], "optimizer must be one of gd, sgd"),
        (["train", "--out", "{tmp}/x", "--data", "mnist"], "data must be one of digits, cifar10"),
        (["train", "--out", "{tmp}/x", "--model", "no_such:net"], "no_such failed with ModuleNotFoundError"),
        (["train", "--out", "{tmp}/x", "--model-options", "norm=group"], "norm must be one of none, layer, batch"),
        (["train", "--out", "{tmp}/x", "--label-smoothing", "1"], "label_smoothing must lie in [0, 1), got 1"),
        (["train", "--out", "{tmp}/x", "--batch-size", "9"], "batch_size must be 0 for optimizer gd, got 9"),
        (["forecast", "{tmp}/none"], "must be a run directory"),
        (["verify", "{tmp}/none"], "must be a run directory"),
        (["derive", "nothing"], "derivation must be one of"),
        (["simulate", "--lr", "-1"], "lr must be positive, got -1"),
        (["figures", "nothing"], "figure must be one of"),
        (["figures", "experiment"], "needs a run with forecasts, got none; pass --run DIR"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(args, message, tmp_path, capsys):
    assert call(*(a.format(tmp=tmp_path) for a in args)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_truncated_parquet_leaves_nothing_behind(tmp_path, capsys):
    broken = tmp_path / "train-00000-of-00001.parquet"
    broken.write_bytes(b"PAR1" + b"\0" * 200)
    assert call("train", "--out", tmp_path / "run", "--data", "cifar10", "--data-path", broken) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_failed_job_is_one_line_and_exit_1(monkeypatch, capsys):
    import toymodels.derivations

    def broken():
        raise RuntimeError("no\nregistry")

    monkeypatch.setattr(toymodels.derivations, "registry", broken)
    assert call("derive") == 1
    assert capsys.readouterr().err == "opposing derive: failed: RuntimeError: no registry (--debug shows where)\n"
    with pytest.raises(RuntimeError):
        main(["derive", "--debug"])


def test_derive_prints_and_proves(capsys):
    assert call("derive", "invariant", "--check") == 0
    assert "1 of 1 derivations re-proved in" in capsys.readouterr().out
    assert call("derive", "onset", "--format", "document") == 0
    assert "\\end{document}" in capsys.readouterr().out


def test_simulate_writes_a_record_and_never_overwrites(tmp_path, capsys):
    import xarray as xr

    out = tmp_path / "toy.zarr"
    assert call("simulate", "--lr", "0.0025", "--steps", "2500", "--out", out) == 0
    assert "2068 / 2068" in capsys.readouterr().out
    with xr.open_zarr(out, consolidated=False) as data:
        assert int(data.peak_step[0]) == 2081
        # the spike is not over at step 2500
        assert data.status.attrs["flag_meanings"].split()[int(data.status[0])] == "running"
    assert call("simulate", "--lr", "0.0025", "--out", out) == 2


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m opposing.cli derive | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1


def test_simulate_takes_every_optimizer_with_its_hyperparameters(capsys):
    from toymodels.optimizers import OPTIMIZERS

    for name in (*OPTIMIZERS, "flow"):
        assert call("simulate", "--optimizer", name, "--lr", "0.001", "--steps", "20") == 0
        out = capsys.readouterr().out
        assert f"{name} on the two-layer model" in out
        assert ("forecast" in out) == (name == "gd")
    assert call("simulate", "--optimizer", "heavy_ball", "--hyper", "momentum", "0.5", "--steps", "20") == 0
    capsys.readouterr()
    assert call("simulate", "--optimizer", "sam", "--hyper", "momentum", "0.5") == 2
    assert "hyper of sam must be of rho; got 'momentum'" in capsys.readouterr().err


def test_train_another_model_on_other_data_with_another_optimizer(tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--data", "planted", "--data-options", "size=4", "alpha=10", "--model", "resnet18"]
    options += ["--model-options", "width=0.03125", "norm=group", "--loss", "cross_entropy", "--label-smoothing", "0.1"]
    options += [
        "--optimizer",
        "split_sgd",
        "--optimizer-options",
        "threshold=0.05",
        "--batch-size",
        "16",
        "--lr",
        "0.01",
    ]
    options += ["--n-examples", "40", "--steps", "6", "--threads", "1"]
    assert call("train", "--out", run, "--until", "4", *options) == 0
    assert "stopped at step 4" in " ".join(capsys.readouterr().out.split())
    assert call("train", "--resume", run) == 0
    assert "finished at step 6" in " ".join(capsys.readouterr().out.split())
    assert call("forecast", run) == 2
    assert "must be a run of full-batch gradient descent" in capsys.readouterr().err
    config = json.loads((run / "config.json").read_text())
    assert config["model_options"] == ["norm=group", "width=0.03125"]


def test_train_forecast_verify_and_draw(tmp_path, capsys):
    run = tmp_path / "run"
    assert call("train", "--out", run, "--until", "approach", *TINY) == 0
    assert "stopped" in capsys.readouterr().out
    assert call("verify", run) == 2
    assert "must hold a registered forecast" in capsys.readouterr().err
    assert call("forecast", run) == 0
    assert "forecast at approach" in capsys.readouterr().out
    assert call("train", "--resume", run, "--until", "onset") == 0
    assert call("forecast", run) == 0
    assert "forecast at onset" in capsys.readouterr().out
    assert call("train", "--resume", run) == 0
    assert call("verify", run) == 0
    scores = json.loads((run / "scores.json").read_text())
    assert len(scores) == 6
    assert {s["verdict"] for s in scores} <= {"holds", "fails", "not run"}
    assert call("figures", "experiment", "groups", "--run", run, "--out", tmp_path / "figures") == 0
    assert sorted(p.suffix for p in (tmp_path / "figures").iterdir()) == [".pdf", ".pdf", ".png", ".png"]
    # a run that has ended cannot be forecast, and an edited forecast is refused
    assert call("forecast", run) == 2
    assert "must be stopped at a recorded step" in capsys.readouterr().err
    path = next((run / "forecasts").glob("step_*.json"))
    path.write_text(path.read_text().replace('"kind"', '"kind" '))
    assert call("verify", run) == 2
    assert "edited" in capsys.readouterr().err
    assert call("train", "--out", run, *TINY) == 2
    assert "must be new or empty" in capsys.readouterr().err
