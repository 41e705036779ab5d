# Two commands for a newcomer: make demo, make test. Everything runs in .venv, which any target makes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-long test-cluster clients programs openwebui coverage serve check format docs train evaluate clean

demo: .venv/.installed
	$(BIN)/darkroom demo

test: .venv/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 2

# What takes about ten seconds or more each, and rarely breaks by itself.
test-long: .venv/.installed
	$(BIN)/python -m pytest -m long

# How much of server/ and pipelines/ the tests run: half as long again.
coverage: .venv/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 2 --cov --cov-report=
	$(BIN)/coverage report --skip-covered

# Real Ray, in an environment of its own: two replicas, then three nodes and scaling. Minutes, and both cores.
test-cluster: .venv-ray/.installed
	.venv-ray/bin/python -m pytest tests/faults/test_ray_cluster.py tests/unit/worker/ray tests/unit/test_deploy.py
	.venv-ray/bin/python -m tests.cluster.scale

# Programs that speak AUTOMATIC1111's API, in an environment of their own: make test runs them where it is there.
clients: .venv-clients/.installed

PROGRAMS := openai-0.28 openai-1 litellm image-generation-mcp
# Large programs that people use with such a server: make test draws through those that are there.
programs: .programs/sillytavern/.installed $(addprefix .programs/,$(PROGRAMS:=/.installed))

# Ten minutes and gigabytes: so not among them.
openwebui: .programs/open-webui/.installed

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

# From nothing to build/darkroom-mini in MINUTES minutes; run again, it goes on where it stopped. training/README.md says
# what it needs, what it makes and what else it takes (ARGS).
MINUTES ?= 480
CHECKPOINT := checkpoints/darkroom-mini
train: .venv/.installed build/art.zip
	$(BIN)/python -m training.train --art build/art.zip --output $(CHECKPOINT) --minutes $(MINUTES) $(ARGS)
	HF_HUB_OFFLINE=1 $(BIN)/python -m training.export --checkpoint $(CHECKPOINT) --art build/art.zip

evaluate: .venv/.installed .art/node_modules
	HF_HUB_OFFLINE=1 $(BIN)/python -m training.evaluate $(ARGS)

# The art, its names and the captions' pieces, in one file that travels.
build/art.zip: .venv/.installed .art/node_modules
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement training/requirements.txt
	HF_HUB_OFFLINE=1 $(BIN)/python -m training.pack --output $@

.art/node_modules: training/package.json
	mkdir -p .art && cp training/package.json .art/
	npm install --prefix .art --no-fund --no-audit

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv out

.venv-ray/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,ray]'
	touch $@

.venv-clients/.installed: tests/clients/sdapi/requirements.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

.programs/sillytavern/.installed: tests/programs/sillytavern.json
	mkdir -p .programs/sillytavern && cp $< .programs/sillytavern/package.json
	npm install --prefix .programs/sillytavern --ignore-scripts --no-fund --no-audit
	touch $@

.programs/%/.installed: tests/programs/%.txt
	$(PYTHON) -m venv .programs/$*
	.programs/$*/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@
