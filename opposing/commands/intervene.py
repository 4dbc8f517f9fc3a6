"""``opposing intervene``: a run without a pair, or with it changed, beside the same done to other examples."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import tyro

from opposing.parsing import parser

__all__ = ["InterveneCommand", "parse", "run"]


@dataclass(frozen=True)
class InterveneCommand:
    """Intervene on a pair of a run; the effect is forecast, written, and only then trained.

    Attributes:
        run: Run directory; it is read, not changed.
        into: Folder of the control, the arms and the forecast; an interrupted job there goes on.
        group: Numbers of the pairs in ``opposing signals RUN``; with --by projections 0.
        by: "losses": the pairs of the recorded losses. "projections": the pair on the top eigenvector at the step of
            the forecast, before anything oscillates.
        action: drop, downweight, rebalance, relabel, robust, blur, background or feature.
        options: Of the action as name=value: weight (downweight), total (rebalance: gradient or members), label
            (relabel), bound (robust), sigma (blur), rim (background), everywhere (feature).
        share: Most members, as a share of the examples; the strongest are taken.
        at: Step whose parameters the arms start from; by default they start at step 0, and the forecast is made where
            the sharpness is at 0.75 of its critical value.
        controls: Do the same to random examples and to those of the highest loss.
        steps: Length of the runs; by default that of RUN.
        seed: Of the random examples.
    """

    run: tyro.conf.Positional[Path]
    into: Path
    group: tuple[int, ...] = (0,)
    by: str = "losses"
    action: str = "drop"
    options: tuple[str, ...] = ()
    share: float = 0.05
    at: int | None = None
    controls: bool = False
    steps: int | None = None
    seed: int = 0


parse = parser(InterveneCommand, "intervene", "opposing intervene runs/digits --into runs/without --controls")


def run(command: InterveneCommand) -> int:
    """Forecast, train the control and the arms, print the table."""
    from nets.causality import Question, answer, create_arms, prepare
    from nets.run import Run
    from opposing.progress import advance_with_progress

    question = Question(**{field.name: getattr(command, field.name) for field in fields(Question)})
    forecast = prepare(Run.open(command.run), question, command.into, advance_with_progress)
    said = ", ".join(f"{name.replace('_', ' ')} × {arm['ratio']:.2f}" for name, arm in forecast["arms"].items())
    print(f"forecast at step {forecast['made_at_step']}, before any arm is trained: sharpness of the control, {said}")
    runs = create_arms(forecast, command.into)
    for name, arm in runs.items():
        advance_with_progress(arm, None, name)
    print_effects(answer(forecast, runs, command.into), forecast)
    print(f"written to {command.into / 'effects.json'}; `opposing figures causality --run {command.into}` draws it")
    return 0


def print_effects(result: dict[str, Any], forecast: dict[str, Any]) -> None:
    """The runs as a table, each number beside its forecast."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from opposing.progress import stdout
    from opposing.tables import number

    def short(value: float | None) -> str:
        return "–" if value is None else f"{value:.3g}"

    question = result["question"]
    title = f"{question['action'].capitalize()}: sharpness compared at step {result['compared_at_step']}"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for heading in (
        "run",
        "taken",
        "of S",
        "S",
        "S/control",
        "onset",
        "spike",
        "loss",
        "accuracy",
        "held out",
    ):
        table.add_column(heading, no_wrap=True)
    for name, row in result["runs"].items():
        arm, out = forecast["arms"].get(name), row["outcome"]
        onset = row["forecast"]["onset"]
        table.add_row(
            name.replace("_", " "),
            "" if arm is None else f"{len(arm['first'])}+{len(arm['second'])}",
            "" if arm is None else f"{arm['sharpness_share']:.2f}",
            short(out["sharpness"]),
            f"{'–' if row['ratio'] is None else format(row['ratio'], '.2f')} ({row['forecast']['ratio']:.2f})",
            f"{number(out['onset'])} ({number(None if onset is None else round(onset))})",
            *(short(out[key]) for key in ("spike", "final_loss", "accuracy", "held_out_accuracy")),
        )
    Console(width=max(stdout.width, 110)).print(table)
    print(
        "in brackets: as forecast; taken: examples of the two sides; of S: their share of the sharpness at the step of "
        "the forecast; "
        "onset: first step at the critical sharpness, – where the run ends before; spike: largest rise of the loss; "
        "accuracy: on the untouched training examples; held out: on those that follow them in the data set."
    )
