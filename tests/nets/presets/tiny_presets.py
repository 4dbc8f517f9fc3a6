"""A preset that runs in a second, and how one is written to a file."""

from datetime import date
from pathlib import Path
from typing import Any

from nets.presets import Preset, load_preset

TINY = """
title = "A tiny experiment"
source = "none"
minutes = {quick_cpu = 0.1}

[options]
n_examples = 40
widths = [8]
lr = 0.1
[options.quick]
steps = 20
[options.full]
steps = 30

[runs.gd]
[runs.slow]
lr = 0.01
quick = {eig_every = 5}
[runs.tuned]
grid = {lr = [0.05, 0.1]}
[runs.leaves]
fork = "gd"
at = 10
lr = 0.05
[runs.model]
kind = "simulate"
steps = 50

[[claims]]
says = "a larger step size lowers the loss further"
value = "final_loss(gd, last=2)"
control = "final_loss(slow)"
holds = "value < control"
[[claims]]
says = "the best of the grid learns"
value = "least_final_loss(tuned)"
holds = "value < 1"
forms = ["quick"]
[[claims]]
says = "a smaller step size after the fork does not help"
value = "final_loss(leaves)"
control = "final_loss(gd)"
holds = "value < control"
fails = "the smaller step size is the slower one"
"""


def write(folder: Path, text: str = TINY, name: str = "tiny") -> Path:
    """The file of a preset."""
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def tiny(folder: Path, *replaced: tuple[str, str]) -> Preset:
    """The preset above with some of its text replaced."""
    text = TINY
    for old, new in replaced:
        assert old in text, f"not in the preset: {old}"
        text = text.replace(old, new, 1)
    return load_preset(write(folder, text))


def toml(value: Any) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, date):
        return value.isoformat()
    return str(value).lower() if isinstance(value, bool) else str(value)
