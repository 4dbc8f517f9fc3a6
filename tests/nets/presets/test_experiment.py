"""Experiments: what the runs are, what happens without an onset, with a divergence, after an interruption or a kill."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_runs import contents, plain_losses
from tiny_presets import TINY, tiny, write

from nets.files import RunError
from nets.presets import MEASURES, Experiment, PresetError, load_preset, run_preset, run_presets
from nets.presets.experiment import carry_out
from nets.presets.measure import Measure
from nets.run import Run

HARNESS = Path(__file__).with_name("experiment_kill_harness.py")
ROOT = HARNESS.parents[3]


def results(folder):
    return json.loads((folder / "results.json").read_text())


def numbers(folder):
    """What must be the same however it was come by."""
    return {key: results(folder)[key] for key in ("claims", "runs", "complete", "seeds", "as_declared")}


def assert_same_runs(one, other):
    """Those of every seed that the second has, to the byte."""
    runs = [path.relative_to(other) for path in other.glob("seed_*/[!.]*")]
    assert len(runs) >= 4
    assert all(contents(one / path) == contents(other / path) != {} for path in runs)


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    """The tiny preset carried out with two seeds: its folder, preset and verdicts."""
    place = tmp_path_factory.mktemp("experiment")
    preset = tiny(place)
    return place / "out", preset, run_preset(preset, place / "out", "quick", (0, 3))


def test_values_are_those_of_a_plain_loop(carried):
    """Against PyTorch loops that know nothing of runs: the mean of the last losses, and those after a fork."""
    _, preset, verdicts = carried
    falls, best, fork = verdicts
    assert falls.seeds == (0, 3)
    for i, seed in enumerate(falls.seeds):
        plans = {plan.folder: plan.config for plan in preset.plans("quick", seed)}
        losses = {name: plain_losses(config, 20) for name, config in plans.items() if config}
        tuned = [losses[f"tuned,lr={lr}"][-1] for lr in (0.05, 0.1)]
        leaves = plain_losses(plans["gd"], 20, switch=(10, 0.05))
        measured = [falls.values[i], falls.controls[i], best.values[i], fork.values[i], fork.controls[i]]
        expected = [np.mean(losses["gd"][-2:]), losses["slow"][-1], min(tuned), leaves[-1], losses["gd"][-1]]
        np.testing.assert_allclose(measured, expected, rtol=2e-5)  # float32, 20 steps
    assert falls.values[0] != falls.values[1]  # the seed is that of the repetition
    assert [v.verdict for v in verdicts] == ["holds", "holds", "fails"]
    assert [v.expected for v in verdicts] == [True, True, True]


def test_what_is_written(carried):
    folder, preset, _ = carried
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["about.json", "preset.toml", "results.json", "seed_0", "seed_3"]
    )
    assert (folder / "preset.toml").read_bytes() == preset.path.read_bytes()
    found = results(folder)
    assert (found["complete"], found["as_declared"], found["seeds"], found["form"]) == (True, True, [0, 3], "quick")
    assert [len(found[key]) for key in ("claims", "runs", "seconds")] == [3, 2, 2]
    assert found["runs"]["3"] == {
        **{name: {"status": "finished", "steps": 20} for name in ("gd", "slow", "tuned,lr=0.05", "tuned,lr=0.1")},
        "leaves": {"status": "finished", "steps": 20},
        "model": {"status": "simulated", "steps": 50},
    }
    assert all(seconds > 0 for seconds in found["seconds"].values())
    assert found["provenance"]["versions"]["torch"]
    assert Run.open(folder / "seed_0" / "leaves").first_step == 10
    assert np.isfinite(Run.open(folder / "seed_0" / "slow").history()["sharpness"][::5]).all()


def test_again_reads_the_runs_and_adds_a_seed(carried, monkeypatch):
    folder, preset, _ = carried
    before, kept = numbers(folder), contents(folder / "seed_0")
    with monkeypatch.context() as patched:
        patched.setattr(Run, "advance", lambda *_: pytest.fail("a finished run was advanced"))
        run_preset(preset, folder, "quick", (0, 3))
    assert numbers(folder) == before
    assert set(results(folder)["seconds"].values()) == {None}  # what it took was not measured now
    verdicts = run_preset(preset, folder, "quick", (3, 4))
    assert verdicts[0].seeds == (3, 4)
    assert results(folder)["claims"][0]["values"][0] == before["claims"][0]["values"][1]
    assert contents(folder / "seed_0") == kept
    run_preset(preset, folder, "quick", (0, 3))
    assert numbers(folder) == before


def test_a_folder_of_something_else_is_refused_and_untouched(carried, tmp_path):
    folder, preset, _ = carried
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    other = tiny(tmp_path, ("says = ", "says = 'now: ' #"))
    attempts = [(preset, "full", ()), (preset, "quick", ("lr=0.2",)), (other, "quick", ())]
    for what, form, changes in attempts:
        with pytest.raises(PresetError, match="must be of the same preset, form and changes, it is of others; choose"):
            run_preset(what, folder, form, (0,), changes)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for place in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex"):
        with pytest.raises((PresetError, OSError)):
            run_preset(preset, place, "quick", (0,))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_run_that_was_changed_is_refused(carried, tmp_path):
    import shutil

    folder, preset, _ = carried
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "seed_0" / "gd")
    shutil.copytree(copy / "seed_0" / "slow", copy / "seed_0" / "gd")
    with pytest.raises(RunError, match="must hold this run, it has other options; choose another folder"):
        run_preset(preset, copy, "quick", (0,))
    assert results(copy)["complete"] is False


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"form": "small"}, "form must be one of quick, full, got 'small'"),
        ({"seeds": ()}, "seeds must be whole numbers >= 0, once each, got []"),
        ({"seeds": (1, 1)}, "got [1, 1]; pass e.g. 0 1 2"),
        ({"seeds": (-1,)}, "got [-1]"),
        ({"seeds": (True,)}, "got [True]"),
        ({"jobs": 0}, "jobs must be a whole number >= 1, got 0"),
        ({"changes": ("lr=0",)}, "run gd: lr must be positive and finite, got 0"),
        ({"changes": ("device=cuda:77",)}, "device must be one that this machine has, got cuda:77"),
        ({"changes": ("data=cifar10", "data_path=/nowhere")}, "/nowhere"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, asked, said):
    preset = tiny(tmp_path)
    with pytest.raises(ValueError, match="must") as caught:
        run_preset(preset, tmp_path / "out", **({"form": "quick", "seeds": (0,)} | asked))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_form_without_claims_is_refused(tmp_path):
    text = TINY.replace('holds = "value < control"', 'holds = "value < control"\nforms = ["quick"]')
    with pytest.raises(PresetError, match="must be one that a claim is about, got full"):
        run_preset(load_preset(write(tmp_path, text)), tmp_path / "out", "full", (0,))
    assert not (tmp_path / "out").exists()


# --- onsets and forks ----------------------------------------------------------------------------------------

LR = 0.8
ONSET = f"""
title = "Forks at the onset"
source = "none"
[options]
n_examples = 40
widths = [8]
steps = 60
lr = {LR}
[runs.gd]
[runs.slow]
lr = 0.001
[runs.forked]
fork = "gd"
at = "onset + 3"
lr = 0.05
[runs.before]
fork = "gd"
at = "onset - 500"
[runs.late]
fork = "gd"
at = "onset + 50"
steps = 61
[runs.never]
fork = "slow"
at = "onset + 3"
[runs.branches]
fork = "never"
at = 30
grid = {{lr = [0.1, 0.2]}}
[[claims]]
says = "there is an onset"
value = "onset(gd)"
holds = "value > 0"
[[claims]]
says = "the fork learns"
value = "final_loss(forked)"
holds = "value < 10"
[[claims]]
says = "none where its moment lies outside"
value = "final_loss(before)"
control = "final_loss(late)"
holds = "value < 10 and control < 10"
[[claims]]
says = "none without an onset"
value = "final_loss(never)"
holds = "value < 10"
[[claims]]
says = "nor a fork of that fork, in a grid"
value = "least_final_loss(branches)"
control = "onset(slow)"
holds = "value < 10 and control < 10"
"""


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    place = tmp_path_factory.mktemp("forks")
    return place / "out", run_preset(load_preset(write(place, ONSET)), place / "out", "quick", (0,))


def test_forks_at_the_onset(forked):
    folder, verdicts = forked
    gd = Run.open(folder / "seed_0" / "gd")
    sharpness, critical = gd.history()["sharpness"].values, 2 / LR
    (crossing,) = np.flatnonzero((sharpness[:-1] < critical) & (sharpness[1:] >= critical))[:1] + 1
    assert verdicts[0].values == (crossing,)
    fork = Run.open(folder / "seed_0" / "forked")
    assert fork.first_step == crossing + 3
    losses = plain_losses(gd.config, 60, switch=(crossing + 3, 0.05))
    assert verdicts[1].values[0] == pytest.approx(losses[-1], rel=1e-4)
    assert [v.verdict for v in verdicts[:2]] == ["holds", "holds"]


def test_a_fork_without_its_moment_is_a_value(forked):
    folder, verdicts = forked
    for verdict in verdicts[2:]:
        assert math.isnan(verdict.values[0])
        assert math.isnan(verdict.controls[0]) if verdict.controls else True
        assert (verdict.met, verdict.verdict) == ((False,), "fails")
    found = results(folder)
    assert [claim["values"] for claim in found["claims"][2:]] == [[None]] * 3
    missing = ["before", "late", "never", "branches,lr=0.1", "branches,lr=0.2"]
    assert all(found["runs"]["0"][name] == {"status": "not run", "steps": 0} for name in missing)
    assert not any((folder / "seed_0" / name).exists() for name in missing)


def test_divergence_is_a_value(tmp_path):
    """A step size of 50: the loss stops being finite; the fork after that does not come about."""
    text = TINY.replace("[runs.gd]", "[runs.gd]\nlr = 50.0\nactivation = 'relu'").replace("at = 10", "at = 150")
    text = text.replace("steps = 20", "steps = 200").replace("steps = 30", "steps = 200")
    text = text.replace("final_loss(gd, last=2)", "edge_ratio(gd)")
    verdicts = run_preset(load_preset(write(tmp_path, text)), tmp_path / "out", "quick", (0,))
    assert results(tmp_path / "out")["runs"]["0"]["gd"]["status"] == "diverged"
    assert results(tmp_path / "out")["runs"]["0"]["leaves"]["status"] == "not run"
    edge, _, fork = verdicts
    assert edge.verdict == "fails"
    assert fork.controls == (math.inf,)
    assert math.isnan(fork.values[0])
    assert fork.verdict == "fails"


# --- what is measured ----------------------------------------------------------------------------------------


def test_outcomes_are_read_when_asked_for(carried, monkeypatch):
    folder, preset, _ = carried
    asked = []
    real = Run.history
    monkeypatch.setattr(Run, "history", lambda run, arrays=(): asked.append(arrays) or real(run, arrays))
    outcomes = carry_out(preset, folder, "quick", 0)
    assert asked == []
    (gd,) = outcomes["gd"]
    assert gd.loss.shape == (20,)
    assert gd.losses.shape == (20, 40)
    np.testing.assert_allclose(gd.losses.mean(axis=1), gd.loss, rtol=1e-6)
    assert asked == [["loss"], ["example_loss"]]
    assert set(gd.history) >= {"loss", "example_loss", "sharpness"}
    assert asked[2:] == [()]
    again = gd.closed()
    assert "loss" not in vars(again)
    np.testing.assert_array_equal(again.loss, gd.loss)
    (model,) = outcomes["model"]
    assert model.loss.shape == (51,)
    assert (model.diverged, model.run, model.first_step) == (False, None, 0)
    for wrong in ("config", "trained", "critical"):
        with pytest.raises(ValueError, match="this measure is of trained runs, model is simulated"):
            getattr(model, wrong)
    with pytest.raises(ValueError, match="this measure needs density in the record, gd has none"):
        gd.series("density")


def test_nothing_of_one_claim_is_held_for_the_next(carried, monkeypatch):
    folder, preset, _ = carried
    seen = []

    def probe(run, last=1):
        assert "loss" not in vars(run)  # nobody has read it before
        seen.append(run)
        return run.loss[-1]

    monkeypatch.setitem(MEASURES, "final_loss", Measure(probe, False))
    Experiment(preset, folder, "quick", (0, 3)).repeat(0)
    assert [run.name for run in seen] == ["gd", "slow", "leaves", "gd"]
    assert len({id(run) for run in seen}) == 4


@pytest.mark.parametrize("error", [ValueError("no such thing"), KeyError("x")])
def test_a_measure_that_fails_keeps_the_runs(tmp_path, monkeypatch, error):
    preset = tiny(tmp_path)

    def probe(run, last=1):
        raise error

    with monkeypatch.context() as patched:
        patched.setitem(MEASURES, "final_loss", Measure(probe, False))
        with pytest.raises(PresetError if isinstance(error, ValueError) else KeyError) as caught:
            run_preset(preset, tmp_path / "out", "quick", (0, 1))
    if isinstance(error, ValueError):
        assert "lowers the loss further': no such thing; the runs are kept" in str(caught.value)
    assert Run.open(tmp_path / "out" / "seed_0" / "leaves").status.status == "finished"
    assert not (tmp_path / "out" / "seed_1").exists()
    found = results(tmp_path / "out")
    assert (found["complete"], found["as_declared"]) == (False, None)
    assert {claim["verdict"] for claim in found["claims"]} == {"not run"}
    with monkeypatch.context() as patched:
        patched.setattr(Run, "advance", lambda *_: pytest.fail("a finished run was advanced"))
        run_preset(preset, tmp_path / "out", "quick", (0,))
    assert results(tmp_path / "out")["complete"]


# --- interruptions, kills, processes -------------------------------------------------------------------------


def test_an_interrupted_experiment_says_so_and_goes_on(carried, tmp_path):
    folder, preset, _ = carried
    run_preset(preset, folder, "quick", (0, 3))

    def advance(run, until, label):
        if label == "out seed_3 slow":
            run.advance(until=7)
            raise KeyboardInterrupt
        run.advance(until)

    with pytest.raises(KeyboardInterrupt):
        run_preset(preset, tmp_path / "out", "quick", (0, 3), advance=advance)
    found = results(tmp_path / "out")
    assert (found["complete"], found["as_declared"], found["seeds"]) == (False, None, [0, 3])
    assert [claim["seeds"] for claim in found["claims"]] == [[0]] * 3
    assert {claim["verdict"] for claim in found["claims"]} == {"not run"}
    assert list(found["runs"]) == ["0"]
    run_preset(preset, tmp_path / "out", "quick", (0, 3))
    assert numbers(tmp_path / "out") == numbers(folder)
    assert results(tmp_path / "out")["seconds"]["3"] is None
    assert_same_runs(folder, tmp_path / "out")


def test_an_interruption_before_the_first_run_leaves_nothing(tmp_path, monkeypatch):
    preset = tiny(tmp_path)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nets.presets.experiment.create_run", stop)
    with pytest.raises(KeyboardInterrupt):
        run_preset(preset, tmp_path / "out", "quick", (0,))
    assert not (tmp_path / "out").exists()


def test_progress_is_told_of_every_run_and_of_recomputed_steps(tmp_path):
    told = []

    def advance(run, until, label):
        told.append((label, until))
        return run.advance(until)

    preset = tiny(tmp_path)
    run_preset(preset, tmp_path / "out", "quick", (2,), advance=advance)
    names = ["gd", "slow", "tuned,lr=0.05", "tuned,lr=0.1", "leaves, to 10", "leaves"]
    assert told == [(f"out seed_2 {name}", 10 if name == "leaves, to 10" else None) for name in names]


#: a run and its fork
SMALL = TINY[: TINY.index("[runs.slow]")] + TINY[TINY.index("[runs.leaves]") : TINY.index("[runs.model]")]
SMALL += TINY[TINY.rindex("[[claims]]") :]


def test_kills_leave_no_trace(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HARNESS.parents[1])])
    command = [sys.executable, str(HARNESS), str(tmp_path), str(write(tmp_path, SMALL)), "6", "0"]
    out = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert out.returncode == 0, out.stderr
    report = json.loads(out.stdout.splitlines()[-1])
    assert report["kills"] >= 4, report
    assert report["incomplete"] >= report["kills"] - 2, report  # the first may fall before there is a folder
    assert len(set(report["runs"])) > 2, report  # they did not all fall on the same place
    assert report["same"] == [True] * 5
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_processes_give_the_same_and_one_that_fails_stops_no_other(carried, tmp_path):
    folder, preset, _ = carried
    run_preset(preset, folder, "quick", (0, 3))
    broken = load_preset(write(tmp_path, TINY.replace("n_examples = 40", "n_examples = 4000"), "broken"))
    counted = []
    experiments = [
        Experiment(preset, tmp_path / "out", "quick", (0, 3)),
        Experiment(broken, tmp_path / "broken", "quick", (0,)),  # the digits are 1797
        Experiment(preset, folder, "full", (0,)),
    ]
    verdicts, wrong, other = run_presets(experiments, jobs=2, finished=lambda: counted.append(1))
    assert numbers(tmp_path / "out") == numbers(folder)
    assert [v.seeds for v in verdicts] == [(0, 3)] * 3
    assert isinstance(wrong, ValueError)
    assert "n_examples" in str(wrong)
    assert not (tmp_path / "broken").exists()
    assert isinstance(other, PresetError)
    assert len(counted) == 3
    assert_same_runs(folder, tmp_path / "out")


SLOW = """
import sys
from nets.presets import load_preset, run_preset
if __name__ == "__main__":
    run_preset(load_preset(sys.argv[1]), sys.argv[2], "quick", (0, 1, 2), jobs=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_no_process_outlives_the_command(tmp_path, how):
    """Ctrl-C, or a kill, of the parent alone ends its processes; a later call goes on."""
    (tmp_path / "script.py").write_text(SLOW)
    preset = write(tmp_path, TINY.replace("steps = 20", "steps = 1000000"))
    command = [sys.executable, str(tmp_path / "script.py"), str(preset), str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True) as parent:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("out/seed_*/gd/config.json"))) < 2:
            assert parent.poll() is None, parent.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        parent.send_signal(signal.SIGINT if how == "interrupted" else signal.SIGKILL)
        parent.communicate(timeout=30)
    while processes_of(parent.pid):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.05)
    assert results(tmp_path / "out")["complete"] is False
    assert not (tmp_path / "out" / "seed_2").exists()
    for seed in (0, 1):
        assert Run.open(tmp_path / "out" / f"seed_{seed}" / "gd").advance(max_steps=1).status == "stopped"  # not locked


def processes_of(session):
    """Processes of a session that are not dead, from /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(path.parent.name)
    return found
