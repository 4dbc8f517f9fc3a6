"""Rows of benchmark results in their one schema, and the file they are kept in."""

import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "row", "write"]

RESULTS = Path(__file__).parent / "results"
CPU = f"cpu, {platform.machine()}, {os.cpu_count()} cores"


def row(
    bench: str,
    case: str,
    metric: str,
    value: Any,
    unit: str,
    *,
    baseline: str = "",
    baseline_value: float | None = None,
    ratio: float | None = None,
    device: str = CPU,
    packages: Iterable[str] = ("numpy", "numba", "scipy"),
) -> dict[str, Any]:
    """One measured number with where and how; ``ratio`` defaults to value over baseline."""
    if ratio is None and baseline_value and value is not None:
        ratio = value / baseline_value
    return {
        "bench": bench,
        "case": case,
        "metric": metric,
        "value": value,
        "unit": unit,
        "baseline": baseline,
        "baseline_value": baseline_value,
        "ratio": ratio,
        "device": device,
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in packages},
        "command": _command(),
        "date": datetime.date.today().isoformat(),
    }


def write(name: str, rows: list[dict[str, Any]], part: str | None = None) -> None:
    """Keep the rows in ``results/<name>.json``; given a ``part``, rows whose case does not begin with it stay there."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    old = json.loads(path.read_text()) if part is not None and path.exists() else []
    rows = [r for r in old if not r["case"].startswith(part or "")] + rows
    path.write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n")


def _command() -> str:
    data = ["OPPOSING_DATA=..."] if os.environ.get("OPPOSING_DATA") else []
    return " ".join([*data, "python", shlex.join(["benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]])])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
