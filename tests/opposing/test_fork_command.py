"""``opposing fork`` and the options of ``opposing train`` that came with it, through the command line."""

import numpy as np
import pytest

from nets.run import Run
from opposing.cli import main

RUN = ["--n-examples", "40", "--widths", "8", "--lr", "0.1", "--steps", "45", "--threads", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "parent"
    watched = [
        "--snapshot-every",
        "10",
        "--observers",
        "groups every=5",
        "density every=20 steps=8",
        "--eig-every",
        "2",
    ]
    assert main(["train", "--out", str(out), *RUN, *watched]) == 0
    return out


def test_fork_then_train(trained, tmp_path, capsys):
    into = tmp_path / "fork"
    assert main(["fork", str(trained), "--at", "13", "--lr", "0.05", "--into", str(into)]) == 0
    out = capsys.readouterr().out
    assert f"{into}: forked at step 13 of {trained} (recomputed from step 10); lr 0.1 -> 0.05 changed" in out
    assert f"go on with `opposing train --resume {into}`" in out
    assert main(["train", "--resume", str(into)]) == 0
    run = Run.open(into)
    assert (run.status.status, run.first_step, run.config.lr) == ("finished", 13, 0.05)
    assert run.config.observers == ("groups every=5", "density every=20 steps=8")
    assert np.isfinite(run.history().group_loss[15::5]).all()
    assert main(["signals", str(into), "--window", "30"]) == 0
    out = capsys.readouterr().out
    assert "steps 15–" in out
    assert "The sharpness is measured every 2 steps" in out


def test_fork_to_other_examples_says_so(trained, tmp_path, capsys):
    options = ["--n-examples", "20", "--optimizer", "sgd", "--batch-size", "5", "--observers", "groups"]
    assert main(["fork", str(trained), "--at", "20", "--into", str(tmp_path / "fork"), *options]) == 0
    out = capsys.readouterr().out
    assert "(snapshot)" in out
    assert "it has other examples: its record begins here" in out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["fork", "RUN", "--at", "99", "--into", "NEW"], "at must be a step of the run, 0..45, got 99"),
        (["fork", "RUN", "--into", "RUN"], "must be new or empty"),
        (["fork", "RUN", "--at", "3", "--lr", "0", "--into", "NEW"], "lr must be positive"),
        (["fork", "NEW", "--into", "NEW"], "must be a run directory"),
        (["train", "--out", "NEW", *RUN, "--device", "cuda:77"], "got cuda:77 with"),
        (["train", "--out", "NEW", *RUN, "--precision", "tf32"], "got tf32; choose device cuda"),
        (["train", "--out", "NEW", *RUN, "--observers", "groups by=x"], "by must be one of target, got 'x'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(trained, tmp_path, capsys, command, message):
    places = {"RUN": str(trained), "NEW": str(tmp_path / "new")}
    try:
        code = main([places.get(word, word) for word in command])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
