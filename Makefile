# Two commands for a newcomer: make demo, make test. Everything runs in .venv, which any target makes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test serve check clean

demo: .venv/.installed
	$(BIN)/darkroom demo

test: .venv/.installed
	$(BIN)/python -m pytest

serve: .venv/.installed
	$(BIN)/darkroom serve $(ARGS)

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/unit/test_docs.py

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv out
