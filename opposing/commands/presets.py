"""``opposing presets``: the experiments there are, what each shows, and what it takes."""

import sys
from dataclasses import dataclass

import tyro

from opposing.parsing import parser

__all__ = ["PresetsCommand", "parse", "run"]


@dataclass(frozen=True)
class PresetsCommand:
    """List the presets, or print one: a small TOML file to copy and change.

    Attributes:
        name: A preset, a .toml file of yours, "list", or "measures": what a claim can be about.
    """

    name: tyro.conf.Positional[str] = "list"


parse = parser(PresetsCommand, "presets", "opposing presets edge-of-stability > mine.toml")


def run(command: PresetsCommand) -> int:
    """Print the list or the file."""
    from nets.presets import MEASURES, load_preset, preset_names

    if command.name == "measures":
        width = max(map(len, MEASURES))
        for name, entry in sorted(MEASURES.items()):
            print(f"{name:<{width}}  {entry.says}")
        return 0
    if command.name != "list":
        sys.stdout.buffer.write(load_preset(command.name).text)
        return 0
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from opposing.progress import stdout

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("preset", "shows", "source", "quick, CPU", "full, GPU"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "preset")
    for name in preset_names():
        preset = load_preset(name)
        times = [_time(preset.minutes.get(key, 0.0)) for key in ("quick_cpu", "full_gpu")]
        table.add_row(name, escape(preset.title), escape(preset.source), *times)
    Console(width=max(stdout.width, 110)).print(table)
    print("Times are of one seed, measured; – where not measured yet.")
    return 0


def _time(minutes: float) -> str:
    if not minutes:
        return "–"
    return f"{60 * minutes:.0f} s" if minutes < 2 else f"{minutes:.0f} min"
