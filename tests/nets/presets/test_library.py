"""Every preset of the package, in its quick form, at one seed that no verdict of it is over."""

import json

import pytest

from nets.presets import load_preset, preset_names, run_preset

SEED = 3


@pytest.mark.slow
@pytest.mark.parametrize("name", preset_names())
def test_a_quick_preset_ends_with_verdicts(name, tmp_path):
    preset = load_preset(name)
    if not preset.claims_of("quick"):
        pytest.skip(f"{name} has no quick form")
    verdicts = run_preset(preset, tmp_path / "out", "quick", (SEED,))
    assert [v.claim for v in verdicts] == list(preset.claims_of("quick"))
    for verdict in verdicts:
        assert verdict.verdict in ("holds", "fails")
        if not verdict.claim.fails:  # seen, whether or not it holds at this seed
            numbers = (*verdict.values, *verdict.controls)
            assert all(number == number for number in numbers), (verdict.claim.says, numbers)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["complete"]
