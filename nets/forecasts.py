"""Registering forecasts: what was predicted, and that it was written before the run went on.

A forecast is a JSON file with at least ``made_at_step`` and ``state_hash``. Registering it notes its
SHA-256 while the run still stands at that very state; later the row proves that the file is unchanged.
The row is a promise kept by honest use, not a defence against someone who edits the registry.
"""

import hashlib
from pathlib import Path
from typing import Any

from .files import RunError, read_json, write_json

__all__ = ["ForecastError", "add_forecast", "forecast_registration", "forecast_rows"]


class ForecastError(RunError):
    """A forecast that was not, or cannot be, registered before the fact."""


def registry_path(directory: Path | str) -> Path:
    """The registry of a run directory."""
    return Path(directory) / "forecasts" / "registry.json"


def forecast_rows(directory: Path | str) -> list[dict[str, Any]]:
    """All rows {file, sha256, at_step, state_hash} of a run, oldest first; empty if there is none."""
    path = registry_path(directory)
    return read_json(path) if path.exists() else []


def add_forecast(directory: Path, path: Path | str, *, step: int, rows: int, state_hash: str) -> dict[str, Any]:
    """Add a forecast to the registry; called by `Run.register_forecast` with the run locked.

    Args:
        directory: Run directory.
        path: The forecast's JSON file.
        step: Step the run stands at.
        rows: Rows of the record on disk.
        state_hash: Hash of the state the run stands at.
    Raises:
        ForecastError: If the run is beyond the forecast's step, or the forecast was made from another state.
    """
    path = Path(path)
    forecast = read_json(path)
    if not isinstance(forecast, dict) or not {"made_at_step", "state_hash"} <= set(forecast):
        raise ForecastError(f"{path} must hold made_at_step and state_hash; write it from the run's state")
    made = forecast["made_at_step"]
    if isinstance(made, bool) or not isinstance(made, int):
        raise ForecastError(f"made_at_step must be an integer, got {made!r} in {path}; write the run's step")
    if step > made or rows > made + 1:
        raise ForecastError(
            f"{path.name} must be registered before the run goes beyond step {made}, the run has "
            f"{max(rows, step)} steps recorded: made after the fact; forecast from the current state instead"
        )
    if step < made or forecast["state_hash"] != state_hash:
        raise ForecastError(
            f"{path.name} must be made from the state of this run at step {step}, its step is {made} and its "
            f"state_hash {str(forecast['state_hash'])[:12]} is not {state_hash[:12]}; forecast from this run"
        )
    row = {"file": path.name, "sha256": _sha256(path), "at_step": made, "state_hash": state_hash}
    known = forecast_rows(directory)
    same_name = [r for r in known if r["file"] == path.name]
    if same_name and same_name[0] != row:
        raise ForecastError(f"{path.name} is registered with other content; give the new forecast a new name")
    if not same_name:
        registry_path(directory).parent.mkdir(exist_ok=True)
        write_json(registry_path(directory), [*known, row])
    return row


def forecast_registration(directory: Path | str, path: Path | str) -> dict[str, Any]:
    """The registry's row {file, sha256, at_step, state_hash} of a forecast file.

    Raises:
        ForecastError: If the file was never registered, or changed since.
    """
    path = Path(path)
    if not path.is_file():
        raise ForecastError(f"{path} must be a forecast file, found none; pass its path")
    rows = [r for r in forecast_rows(directory) if r["file"] == path.name]
    if not rows:
        raise ForecastError(
            f"{path.name} must be registered while the run stands at its step, it never was: "
            "made after the fact; register a forecast before going on"
        )
    if rows[0]["sha256"] != _sha256(path):
        raise ForecastError(f"{path.name} must be unchanged since registration, it was edited; restore it")
    return rows[0]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
