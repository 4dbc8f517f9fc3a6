"""Experiments as declarations: what is run, what must be seen, and whether it was."""

from .declaration import Claim, Preset, PresetError, RunPlan, load_preset, preset_names
from .experiment import Experiment
from .measure import MEASURES, measure
from .outcomes import Outcome
from .series import run_preset, run_presets
from .verdicts import Verdict, judge

__all__ = [
    "MEASURES",
    "Claim",
    "Experiment",
    "Outcome",
    "Preset",
    "PresetError",
    "RunPlan",
    "Verdict",
    "judge",
    "load_preset",
    "measure",
    "preset_names",
    "run_preset",
    "run_presets",
]
