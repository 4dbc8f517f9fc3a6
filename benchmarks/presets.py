"""The results of ``make claims`` as rows, and as the page docs/presets.md.

make claims
python benchmarks/presets.py claims/REVISION
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rows import row, write

PAGE = Path(__file__).parents[1] / "docs" / "presets.md"
HEAD = """# Presets: what was claimed and what was measured

Written by `benchmarks/presets.py` from `make claims` ({form} form, seeds {seeds}). A claim holds where its condition is
met at every seed; "fails, as known" is one that its preset says does not hold, and why. `opposing presets measures`
says what each measure is. A dash: the runs do not show it.
"""


def main() -> None:
    """Print a line a preset; write the rows and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the experiments lie")
    args = parser.parse_args()
    found = [json.loads(path.read_text()) for path in sorted(args.folder.glob("*/results.json"))]
    if not found or not all(result["complete"] for result in found):
        raise SystemExit(f"{args.folder} must hold complete experiments; run `make claims` to its end")
    rows: list[dict[str, Any]] = []
    page = [HEAD.format(form=found[0]["form"], seeds=", ".join(map(str, found[0]["seeds"])))]
    for result in found:
        held = sum(claim["verdict"] == "holds" for claim in result["claims"])
        print(f"{result['preset']:<24}{held} of {len(result['claims'])} hold")
        page.append(f"## {result['preset']}\n\n{result['title']}. Source: {result['source']}.\n")
        page.append("| claim | measured | control | condition | verdict |\n| --- | --- | --- | --- | --- |")
        for claim in result["claims"]:
            case = f"{result['preset']}, {result['form']}: {claim['claim']}"
            about: dict[str, Any] = {"baseline": claim["control"] or "", "baseline_value": mean(claim["controls"])}
            about["packages"] = ("torch", "numpy")
            rows.append(row("presets", case, claim["value"], mean(claim["values"]), "1", **about))
            rows.append(row("presets", case, f"holds: {claim['condition']}", int(claim["verdict"] == "holds"), "1"))
            verdict = f"fails, as known: {claim['known_to_fail']}" if claim["known_to_fail"] else claim["verdict"]
            numbers = [shown(claim["values"]), shown(claim["controls"])]
            page.append(f"| {claim['claim']} | {' | '.join(numbers)} | `{claim['condition']}` | {verdict} |")
        page.append("")
    claims = [claim["verdict"] == "holds" for result in found for claim in result["claims"]]
    print(f"{sum(claims)} of {len(claims)} claims of {len(found)} presets hold")
    rows.append(
        row("presets", "all", "claims that hold", sum(claims), "1", baseline="claims", baseline_value=len(claims))
    )
    write("presets", rows)
    PAGE.write_text("\n".join(page))


def mean(values: list[float | None]) -> float | None:
    """Mean over the seeds; None where one does not show it."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there and len(there) == len(values) else None


def shown(values: Iterable[float | None]) -> str:
    """Numbers of the seeds, in order."""
    return ", ".join("–" if value is None else f"{value:.3g}" for value in values) or "none"


if __name__ == "__main__":
    main()
