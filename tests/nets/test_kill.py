"""A run killed at random moments ends in the same bits as one left alone, whatever its optimizer and its network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import assert_same_run

HARNESS = Path(__file__).with_name("kill_harness.py")
ROOT = HARNESS.parents[2]


@pytest.mark.parametrize(
    ("run", "steps", "kills"),
    [
        ("gd-mlp", 700, 20),
        ("split_sgd-vit", 250, 10),
        pytest.param("adam-mlp", 400, 10, marks=pytest.mark.slow),
        pytest.param("heavy_ball-vit", 250, 10, marks=pytest.mark.slow),
    ],
)
def test_kills_leave_no_trace(tmp_path, run, steps, kills):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [sys.executable, str(HARNESS), str(tmp_path), str(steps), str(kills), "0", run],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert out.returncode == 0, out.stderr
    report = json.loads(out.stdout.splitlines()[-1])
    assert report["kills"] == kills, report
    assert 0 < report["rows"] < steps, report  # the kills did not all hit a run at its beginning or its end
    assert min(report["start"], report["step"], report["rename"]) >= kills // 5, report
    assert report["differ"] == []
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
