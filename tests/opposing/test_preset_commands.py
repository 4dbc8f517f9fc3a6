"""``opposing presets`` and ``opposing run`` as a user calls them: what is printed, exit codes, folders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nets.presets import MEASURES, preset_names
from nets.presets.declaration import LIBRARY
from nets.run import Run
from opposing.cli import main
from opposing.commands import run as command

ROOT = Path(__file__).resolve().parents[2]

MINE = """
title = "Smaller steps [red] learn less [/b]"
source = "mine"
[options]
n_examples = 40
widths = [8]
steps = 12
lr = 0.1
[runs.gd]
[runs.slow]
lr = 0.01
[[claims]]
says = "the loss [0, 1] falls"
value = "final_loss(gd)"
control = "final_loss(slow)"
holds = "value < control"
"""


def call(*args):
    """Exit code, as the shell would see it."""
    try:
        return main([str(a) for a in args])
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_printed_to_the_byte(name, capfdbinary):
    assert call("presets", name) == 0
    assert capfdbinary.readouterr().out == (LIBRARY / f"{name}.toml").read_bytes()


def test_a_file_of_mine_is_printed_to_the_byte(mine, capfdbinary):
    content = MINE.replace("mine", "mïne").replace("\n", "\r\n").encode()
    mine.write_bytes(content)
    assert call("presets", mine) == 0
    assert capfdbinary.readouterr().out == content


def test_the_list_and_the_measures(capsys):
    assert call("presets") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in preset_names())
    assert call("presets", "measures") == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == sorted(MEASURES)


def test_a_preset_of_mine_runs_as_expected(mine, tmp_path, capsys):
    assert call("run", mine, "--quick", "--seed", 0, 1, "--seed", 2, "--set", "steps=10", "--set", "slow.lr=0.02") == 0
    captured = capsys.readouterr()
    out = " ".join(captured.out.split())
    assert "Smaller steps [red] learn less [/b]" in " ".join(captured.err.split())
    assert "the loss [0, 1] falls" in out
    assert "mine, quick, seeds 0 1 2" in out
    assert "holds" in out
    assert "seeds that a verdict takes" not in out
    assert "written to presets/mine-quick/results.json" in out
    found = json.loads((tmp_path / "presets" / "mine-quick" / "results.json").read_text())
    assert (found["seeds"], found["changes"], found["complete"]) == ([0, 1, 2], ["steps=10", "slow.lr=0.02"], True)
    run = Run.open(tmp_path / "presets" / "mine-quick" / "seed_2" / "slow")
    assert (run.config.steps, run.config.lr) == (10, 0.02)


def test_few_seeds_are_said_and_the_full_form_has_its_own_folder(mine, tmp_path, capsys):
    assert call("run", "mine.toml", "--seed", 4) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "with 1 of the 3 seeds that a verdict takes" in " ".join(out.split())
    assert (tmp_path / "presets" / "mine" / "seed_4").is_dir()


@pytest.mark.parametrize(
    ("condition", "code", "said"),
    [
        ('holds = "value > control"', 1, "fails"),
        ('holds = "value > control"\nfails = "small steps are slow [x]"', 0, "as known: small steps are slow [x]"),
        ('holds = "value < control"\nfails = "small steps are slow"', 1, "though known to fail"),
    ],
)
def test_the_exit_code_says_whether_it_came_out_as_declared(mine, tmp_path, capsys, condition, code, said):
    mine.write_text(MINE.replace('holds = "value < control"', condition))
    assert call("run", mine, "--seed", 0, "--out", tmp_path / "out") == code
    shown = capsys.readouterr().out
    assert all(word in shown for word in said.split())
    assert json.loads((tmp_path / "out" / "results.json").read_text())["as_declared"] is (code == 0)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "nothing"], "preset must be one of"),
        (["run", "none.toml"], "none.toml must be a readable TOML file"),
        (["run", "mine.toml", "--seed", "1", "1"], "seeds must be whole numbers >= 0, once each, got [1, 1]"),
        (["run", "mine.toml", "--seed", "1", "--seed", "1"], "seeds must be whole numbers >= 0, once each, got [1, 1]"),
        (["run", "mine.toml", "--set", "lr"], "a change must be key=value"),
        (["run", "mine.toml", "--set", "fast.lr=3"], "with a run among gd, slow, got 'fast.lr=3'"),
        (["run", "mine.toml", "--set", "lr=-1"], "lr must be positive and finite, got -1"),
        (["run", "mine.toml", "--jobs", "0"], "jobs must be a whole number >= 1, got 0"),
        (["run", "mine.toml", "--set", "device=cuda:77"], "got cuda:77"),
        (["run", "all", "--set", "no_such=1"], "a change must be of an option among"),
        (["presets", "nothing"], "preset must be one of"),
        (["presets", "none.toml"], "none.toml must be a readable TOML file"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(mine, tmp_path, capsys, monkeypatch, args, message):
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "one.toml").write_text(MINE)
    monkeypatch.setattr("nets.presets.declaration.LIBRARY", folder)
    assert call(*args) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("opposing ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["library", "mine.toml"]


def test_a_measure_that_does_not_fit_keeps_the_runs(mine, tmp_path, capsys):
    """The record of the groups is asked for, which the run does not have."""
    mine.write_text(MINE.replace("final_loss(gd)", "series_at_end(gd)"))
    from nets.presets.measure import Measure

    def series_at_end(run):
        return run.series("group_loss")[-1].mean()

    MEASURES["series_at_end"] = Measure(series_at_end, False)
    try:
        assert call("run", mine, "--seed", 0, "--out", tmp_path / "out") == 2
    finally:
        del MEASURES["series_at_end"]
    error = capsys.readouterr().err.splitlines()[-1]
    claim = f"opposing run: {mine}: claim 'the loss [0, 1] falls': "
    assert error.startswith(f"{claim}this measure needs group_loss in the record")
    assert error.endswith(f"the runs are kept in {tmp_path / 'out'}")
    assert Run.open(tmp_path / "out" / "seed_0" / "slow").status.status == "finished"


def test_all_runs_every_preset_that_can_be_run(mine, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "library"
    folder.mkdir()
    monkeypatch.setattr("nets.presets.declaration.LIBRARY", folder)
    (folder / "one.toml").write_text(MINE)
    (folder / "two.toml").write_text(MINE.replace("falls", "rises").replace("value <", "value >"))
    (folder / "larger.toml").write_text(MINE.replace('"value < control"', '"value < control"\nforms = ["full"]'))
    assert call("run", "all", "--quick", "--seed", 0, "--out", "claims") == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "one: the loss [0, 1] falls" in out
    assert "two: the loss [0, 1] rises" in out
    assert out.count("condition") == 1  # one table
    assert sorted(path.name for path in (tmp_path / "claims").iterdir()) == ["one-quick", "two-quick"]
    (folder / "two.toml").write_text(MINE.replace("n_examples = 40", "n_examples = 4000"))
    (folder / "larger.toml").write_text(MINE)
    assert call("run", "all", "--quick", "--seed", 0, "--out", "again") == 2
    captured = capsys.readouterr()
    assert "opposing run: two was not run: n_examples must be" in captured.err
    assert "larger: the loss" in " ".join(captured.out.split())
    (folder / "two.toml").unlink()
    assert call("run", "all", "--quick", "--seed", 0, "--out", "again") == 0


def test_an_interruption_is_exit_130(mine, tmp_path, capsys, monkeypatch):
    def stop(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "advance", stop)
    assert call("run", mine, "--seed", 0, "--out", tmp_path / "out") == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not json.loads((tmp_path / "out" / "results.json").read_text())["complete"]
    monkeypatch.undo()
    assert call("run", mine, "--seed", 0, "--out", tmp_path / "out") == 0


def test_repeated_options_are_joined():
    parsed = command.parse(["eos", "--seed", "3", "4", "--quick", "--set", "a=1", "--seed=5", "--set", "b=2", "c=3"])
    assert (parsed.seed, parsed.changes, parsed.quick) == ((3, 4, 5), ("a=1", "b=2", "c=3"), True)
    parsed = command.parse(["--set=a=1", "--set=b=[1, 2]", "--quick", "eos"])
    assert (parsed.changes, parsed.preset, parsed.seed) == (("a=1", "b=[1, 2]"), "eos", (0, 1, 2))


@pytest.mark.slow
def test_two_jobs_through_the_command(mine, tmp_path):
    """From a process of its own, as the workers start from the command's main module."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    args = [sys.executable, "-m", "opposing", "run", "mine.toml", "--seed", "0", "1", "--jobs", "2", "--out", "out"]
    done = subprocess.run(args, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "with 2 of the 3 seeds" in " ".join(done.stdout.split())
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["complete"]
    assert call("run", mine, "--seed", 0, 1, "--out", tmp_path / "again") == 0
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert [again[key] for key in ("claims", "runs")] == [found[key] for key in ("claims", "runs")]
