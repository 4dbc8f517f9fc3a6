"""``opposing forecast``: what will oscillate and when it spikes, written before the run goes on."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from opposing.parsing import parser

__all__ = ["ForecastCommand", "parse", "run"]


@dataclass(frozen=True)
class ForecastCommand:
    """Forecast the oscillation of a run that stands at a recorded step.

    Attributes:
        run: Run directory, stopped by ``opposing train --until approach`` or ``--until onset``.
    """

    run: tyro.conf.Positional[Path]


parse = parser(ForecastCommand, "forecast", "opposing forecast runs/digits")


def run(command: ForecastCommand) -> int:
    """Make, write and register the forecast; print it."""
    from nets.forecasting import forecast_run
    from nets.run import Run
    from opposing.tables import print_forecast

    path, forecast = forecast_run(Run.open(command.run))
    print_forecast(forecast)
    print(f"written to {path}, registered with the run; continue with `opposing train --resume {command.run}`")
    return 0
