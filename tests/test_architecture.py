"""The rooms and the direction of imports, read from the source and checked."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ["toymodels", "analysis", "nets", "paper_figures", "opposing"]  # each may import those to its left
FORBIDDEN = {
    "toymodels": {"torch", "matplotlib"},
    "analysis": {"matplotlib"},
    "nets": {"matplotlib"},
    "paper_figures": set(),
    "opposing": {"matplotlib"},
}
MAX_LINES = 400


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or node.module is not None, f"{path}: name the module of a relative import"
            if node.level == 0 and node.module:
                found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        later = set(ROOMS[ROOMS.index(room) + 1 :])
        # nets takes nothing from analysis' consumers, and analysis never looks into nets
        wrong = imported_modules(path) & (later | FORBIDDEN[room])
        assert not wrong, f"{path.relative_to(ROOT)} must not import {sorted(wrong)}"


@pytest.mark.parametrize("room", ROOMS)
def test_one_concept_per_file(room):
    for path in sorted((ROOT / room).rglob("*.py")):
        lines = len(path.read_text().splitlines())
        assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines; split it"


@pytest.mark.parametrize("module", ["toymodels", "opposing.cli"])
def test_fast_imports_pull_in_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'sympy', 'matplotlib', 'numba') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
