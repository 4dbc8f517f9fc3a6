"""``opposing signals``: the opposing signals of a recorded run, when each appears and when it ends."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from opposing.parsing import parser

__all__ = ["SignalsCommand", "parse", "run"]

SHOWN = 5  # examples of a group named in the table


@dataclass(frozen=True)
class SignalsCommand:
    """List the opposing signals of a run, found in its record of per-example losses.

    Attributes:
        run: Run directory.
        window: Steps of a window; a multiple of 5.
        hop: Steps from one window to the next; a multiple of 5.
        level: Family-wise level of the pairs in one window.
        outliers: Leave out what oscillates without outliers.
        format: text or json.
        out: A new file for the JSON.
    """

    run: tyro.conf.Positional[Path]
    window: int = 40
    hop: int = 20
    level: float = 0.01
    outliers: bool = False
    format: str = "text"
    out: Path | None = None


parse = parser(SignalsCommand, "signals", "opposing signals runs/digits --format json")


def run(command: SignalsCommand) -> int:
    """Go through the record; print the table."""
    import json

    import numpy as np

    from analysis.files import write_atomic
    from analysis.timeline import find_signals
    from nets.recorded_losses import known_losses
    from nets.run import Run

    if command.format not in ("text", "json"):
        raise ValueError(f"format must be text or json, got {command.format!r}; choose one of them")
    if command.out is not None and command.out.exists():
        raise ValueError(f"out must be new, but {command.out} exists; choose another name")
    record = Run.open(command.run)
    history = record.history()
    first = record.first_step
    timeline = find_signals(
        known_losses(record.config, history, first),
        first,
        window=command.window,
        hop=command.hop,
        level=command.level,
        outliers=command.outliers,
    )
    critical = record.config.critical_sharpness
    sharpness = np.asarray(history["sharpness"].values, dtype=np.float64)

    def ratio(step: int) -> float | None:
        value = sharpness[step] / critical if critical else np.nan
        return float(value) if np.isfinite(value) else None

    kept = record.config.record_k if record.config.record_losses == "top_k" else None
    content = timeline.to_dict() | {"record_k": kept, "n_examples": history["target"].shape[0]}
    for row in content["signals"]:
        row["sharpness_over_critical_at_begin"] = ratio(row["begin"])
        row["sharpness_over_critical_at_peak"] = ratio(row["peak"])
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    if command.out is not None:
        command.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(command.out, text.encode())
    if command.format == "json":
        print(text, end="")
    else:
        print_signals(content)
        every = record.config.eig_every
        if every != 1:
            print(f"The sharpness was measured {f'every {every} steps' if every else 'never'}: – where it was not.")
    return 0


def print_signals(content: dict) -> None:
    """The signals as a table, and what was looked at."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from opposing.progress import stdout
    from opposing.tables import number

    table = Table(title="Opposing signals", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    headings = (
        "#",
        "steps",
        "peak",
        "S/critical",
        "first group",
        "second group",
        "opposition",
        "amplitude",
        "growth",
        "tail",
        "p (alternates)",
        "p (outliers)",
    )
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for k, row in enumerate(content["signals"]):
        pair = row["pair"]
        groups = [
            [str(i) for i, s in zip(pair["members"], pair["signs"], strict=True) if s == sign] for sign in (1, -1)
        ]
        first, second = (
            f"{len(g)}: {', '.join(g[:SHOWN])}{', ...' if len(g) > SHOWN else ''}" if g else "–" for g in groups
        )
        table.add_row(
            str(k),
            f"{row['begin']}–{'' if row['open'] else row['end']}",
            str(row["peak"]),
            number(row["sharpness_over_critical_at_peak"]),
            first,
            second,
            f"{pair['opposition']:.2f}",
            number(pair["amplitude"]),
            number(pair["growth_rate"]),
            number(pair["tail_index"]),
            f"{pair['p_signs']:.2g}",
            f"{pair['p_outliers']:.2g}",
        )
    Console(width=max(stdout.width, 120)).print(table)
    expected = content["level"] * content["windows"]
    print(
        f"{len(content['signals'])} signals in {content['windows']} windows of {content['window']} steps, steps "
        f"{content['first_step']}–{content['last_step']}; by chance at most {expected:.2g} windows would show one. "
        "An open end means that the record ends first. A record holds no curvature per "
        "example, hence no share of the sharpness."
    )
    if content["record_k"]:
        print(
            f"The record keeps the {content['record_k']} largest moves of {content['n_examples']} losses at each step; "
            f"{content['examples']:g} examples (median) could be followed through a window. A signal among the others "
            "is not seen, and p (outliers) speaks of those followed."
        )
