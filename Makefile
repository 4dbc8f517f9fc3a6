# Every target sets up what it needs in .venv; the same commands are printed in README.md.
PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin

.PHONY: setup reproduce test test-slow claims lint types check bench clean
setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	touch $@

reproduce: setup
	$(BIN)/opposing reproduce

test: setup
	$(BIN)/pytest

test-slow: setup
	$(BIN)/pytest -m slow

# every preset in its quick form; fails where a verdict is not the declared one; goes on where it was interrupted,
# with the same code
claims: setup
	$(BIN)/opposing run all --quick --jobs 2 --out claims/$$(git describe --always --dirty 2>/dev/null || echo here)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright

check: lint types test

bench: setup
	for b in causality claims detection kills onset phase toy_forecast toy_limits toy_speed tracking training; do $(BIN)/python benchmarks/$$b.py || exit 1; done
	$(BIN)/python benchmarks/curvature.py --scale 0.1 --steps 30 --every 3 --cases A
	$(BIN)/python benchmarks/curvature_memory.py --scale 0.5 --cases AB
	$(BIN)/python benchmarks/flows.py
	$(BIN)/python benchmarks/signals.py --work runs/signals

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
