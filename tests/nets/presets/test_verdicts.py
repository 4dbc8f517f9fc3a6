"""Verdicts: the condition at every seed, and the numbers that are written."""

import json
import math

import pytest
from tiny_presets import tiny

from nets.presets import judge
from nets.presets.verdicts import conclude

NAN = math.nan


@pytest.fixture
def claim(tmp_path):
    return tiny(tmp_path).claims[0]  # value < control


@pytest.fixture
def failing(tmp_path):
    return tiny(tmp_path).claims[2]  # the same, known to fail


def found(values, controls):
    return {seed: {"value": v, "control": c} for seed, (v, c) in enumerate(zip(values, controls, strict=True))}


@pytest.mark.parametrize(
    ("values", "met", "verdict"),
    [
        ((1.0, 2.0, 3.0), (True, True, True), "holds"),
        ((1.0, 9.0, 3.0), (True, False, True), "fails"),
        ((1.0, NAN, 3.0), (True, False, True), "fails"),
        ((math.inf, 2.0, 3.0), (False, True, True), "fails"),
        ((), (), "not run"),
    ],
)
def test_every_seed_counts(claim, failing, values, met, verdict):
    for each in (claim, failing):
        result = conclude(each, found(values, [5.0] * len(values)))
        assert (result.met, result.verdict) == (met, verdict)
        assert result.expected == (verdict == ("fails" if each.fails else "holds"))


def test_part_of_the_seeds_gives_no_verdict(claim, failing):
    for each in (claim, failing):
        result = conclude(each, found([1.0, 2.0, 3.0], [5.0] * 3), complete=False)
        assert (result.verdict, result.expected) == ("not run", False)
        written = result.to_dict()
        assert (written["verdict"], written["as_declared"], written["values"]) == ("not run", None, [1.0, 2.0, 3.0])


def test_few_seeds_are_said(claim):
    assert conclude(claim, found([1.0, 2.0], [5.0, 5.0])).caution == " with 2 of the 3 seeds that a verdict takes"
    assert not conclude(claim, found([1.0, 2.0], [5.0, 5.0])).to_dict()["enough_seeds"]
    enough = conclude(claim, found([1.0, 2.0, 3.0], [5.0] * 3))
    assert (enough.caution, enough.to_dict()["enough_seeds"]) == ("", True)


def test_means_with_the_interval_of_student(claim):
    """t(0.975; 2) = 4.30265 from a table; deviations of 1, 2, 3 and of their differences -1, -2, -6 by hand."""
    written = conclude(claim, found([1.0, 2.0, 3.0], [2.0, 4.0, 9.0])).to_dict()
    half = 4.302653 * 1.0 / math.sqrt(3)
    assert written["value_mean"] == pytest.approx({"mean": 2.0, "low": 2.0 - half, "high": 2.0 + half}, rel=1e-6)
    half = 4.302653 * math.sqrt(7.0) / math.sqrt(3)
    assert written["difference_mean"] == pytest.approx({"mean": -3.0, "low": -3 - half, "high": -3 + half}, rel=1e-6)


def test_what_is_not_finite_is_null_in_the_file(claim):
    for value, control in [(NAN, 1.0), (1.0, math.inf)]:
        written = conclude(claim, found([value, 1.0], [control, 1.0])).to_dict()
        text = json.dumps(written, allow_nan=False)
        assert written["difference_mean"] is None
        assert "null" in text
    one = conclude(claim, found([1.0], [2.0])).to_dict()
    assert (one["value_mean"], one["difference_mean"]) == (None, None)  # one seed has no deviation


def test_judge_measures_and_concludes(claim, monkeypatch):
    from nets.presets import MEASURES
    from nets.presets.measure import Measure

    monkeypatch.setitem(MEASURES, "final_loss", Measure(lambda run, last=1: run + last, False))
    runs = {0: {"gd": [1.0], "slow": [5.0]}, 4: {"gd": [3.0], "slow": [3.5]}, 5: {"gd": [], "slow": [1.0]}}
    result = judge(claim, runs)
    assert (result.seeds, result.controls, result.met) == ((0, 4, 5), (6.0, 4.5, 2.0), (True, False, False))
    assert result.values[:2] == (3.0, 5.0)
    assert math.isnan(result.values[2])
