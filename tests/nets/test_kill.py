"""A run killed at twenty random moments ends in the same bits as one left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

from small_runs import assert_same_run

HARNESS = Path(__file__).with_name("kill_harness.py")
ROOT = HARNESS.parents[2]


def test_twenty_kills_leave_no_trace(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [sys.executable, str(HARNESS), str(tmp_path), "700", "20", "0"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert out.returncode == 0, out.stderr
    report = json.loads(out.stdout.splitlines()[-1])
    assert report["kills"] == 20, report
    assert 0 < report["rows"] < 700, report  # the kills did not all hit a run at its beginning or its end
    assert min(report["start"], report["step"], report["rename"]) >= 4, report
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
