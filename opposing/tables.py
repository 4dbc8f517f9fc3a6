"""Tables printed by the commands."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.scoring import Score

if TYPE_CHECKING:
    from nets.presets import Verdict

__all__ = ["number", "print_forecast", "print_scores", "print_verdicts"]

SHOWN = 8  # examples named in a printed forecast


def number(value: Any) -> str:
    """A value as a table shows it: four digits for a float, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return "–" if value != value else f"{value:.4g}"
    return str(value)


def print_scores(scores: Sequence[Score], title: str) -> None:
    """Claims with forecast, outcome, score, bar, baseline's score and verdict."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for heading in ("claim", "forecast", "outcome", "score", "bar", "baseline", "verdict"):
        table.add_column(heading, overflow="fold")
    for s in scores:
        bar = f"{'≥' if s.better == 'higher' else '≤'} {number(s.bar)}"
        base = f"{number(s.baseline_score)} ({s.baseline})" if s.baseline else "–"
        style = {"holds": "green", "fails": "red"}.get(s.verdict, "yellow")
        verdict = f"[{style}]{s.verdict}[/{style}]"
        table.add_row(s.claim, number(s.forecast), number(s.outcome), number(s.score), bar, base, verdict)
    console = Console()
    Console(width=max(console.width, 110)).print(table)


def print_verdicts(found: Mapping[str, Sequence["Verdict"]], title: str) -> None:
    """Claims of presets, by name, with what was measured at every seed, the control, the condition and the verdict."""
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for heading in ("claim", "value", "control", "condition", "verdict"):
        table.add_column(heading, overflow="fold")
    for name, verdicts in found.items():
        for i, v in enumerate(verdicts):
            style = {"holds": "green", "fails": "red"}.get(v.verdict, "yellow") if v.enough_seeds else "yellow"
            verdict = f"[{style}]{v.verdict}[/{style}]{v.caution}"
            if v.claim.fails:
                verdict += f", as known: {escape(v.claim.fails)}" if v.expected else ", though known to fail"
            shown = ["  ".join(map(number, numbers)) or "–" for numbers in (v.values, v.controls)]
            says = f"{name}: {v.claim.says}" if len(found) > 1 and i == 0 else v.claim.says
            table.add_row(escape(says), *shown, escape(v.claim.holds.text), verdict)
    console = Console()
    Console(width=max(console.width, 110)).print(table)


def print_forecast(forecast: dict[str, Any]) -> None:
    """A forecast in words."""
    print(
        f"forecast at {forecast['kind']}, step {forecast['made_at_step']}: sharpness {forecast['sharpness']:.4g} "
        f"of {forecast['threshold']:.4g}"
    )
    factor = forecast["oscillation"]["factor_now"]
    print(f"  an oscillation now changes by the factor {factor:.3g} a step ({'grows' if factor > 1 else 'decays'})")
    groups = forecast["examples"]["groups"]
    if groups is not None:
        for name in ("first", "second"):
            print(f"  {name} group, strongest first: {', '.join(map(str, groups[name][:SHOWN]))}, ...")
        print(
            f"  opposition {groups['opposition']:.2f} (random groups: {groups['opposition_of_random_groups']:.2f}), "
            f"alignment with the top eigenvector {groups['alignment'][0]:.2f} and {groups['alignment'][1]:.2f}"
        )
    spike = forecast.get("spike")
    if spike is not None:
        print(f"  first spike: step {number(spike['peak_step'])}, |x| = {number(spike.get('peak_amplitude'))}")
        if spike["growth"] is not None:
            g = spike["growth"]
            print(f"  growth of log|x|: {g['rate']:.3f} a step over steps {g['start']}-{g['stop']}")
