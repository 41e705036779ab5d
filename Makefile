# Two commands for a newcomer: make demo, make test. Everything runs in .venv, which any target makes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test serve check format docs train evaluate clean

demo: .venv/.installed
	$(BIN)/darkroom demo

test: .venv/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 2

serve: .venv/.installed
	$(BIN)/darkroom serve $(ARGS)

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/unit/test_docs.py

# What `make check` asks for and a program can do.
format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.installed
	$(BIN)/python docs/generate.py

# Hours; it goes on where it stopped. training/README.md says what it needs and what it makes.
train: .venv/.installed .art/node_modules
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement training/requirements.txt
	HF_HUB_OFFLINE=1 $(BIN)/python -m training.train

evaluate: .venv/.installed .art/node_modules
	HF_HUB_OFFLINE=1 $(BIN)/python -m training.evaluate

.art/node_modules: training/package.json
	mkdir -p .art && cp training/package.json .art/
	npm install --prefix .art --no-fund --no-audit

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv out
