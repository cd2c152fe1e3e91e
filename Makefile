# What a developer runs and what CI runs are the same lines. Needs make and Python 3.10 or newer.
#   make demo    train a 3-bit network on real digits, in float and three ways, and compare
#   make test    the test suite without the tests marked `slow`
#   make test-all   the whole test suite, with test-stacks
#   make test-targets   tests with the runtimes that quiesce exports to, which requirements/targets.txt lists
#   make test-stacks   tests with other quantization toolkits, which requirements/stacks.txt lists
#   make coverage   the whole test suite, with a report of the lines it runs
#   make check   lint, format, types, and the documentation site
#   make docs    the documentation site, in site/
#   make dist    build the sdist and the wheel in dist/, and check what they hold
#   make try-wheel   install that wheel in a new environment and use it; minutes
#   make soak    long and wide: 20,000 steps, 2,000 layers, 200 million weights; a quarter of an hour
#   make fuzz    ten thousand damaged and hostile files; an hour
#   make bench   the benchmarks: results as JSON, a table of targets; twenty minutes
#   make bench-inference   speed and size of exported networks in ONNX Runtime; minutes
# Everything goes into one virtual environment, made on first use and again when pyproject.toml changes:
#   make VENV=elsewhere PYTHON=python3.12 test

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: docs help demo test test-all test-stacks test-targets coverage check dist try-wheel soak fuzz bench bench-inference

help:
	@sed -n 's/^#   make/make/p' Makefile

demo: $(VENV)/.installed-all
	$(BIN)/quiesce demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses auto -m 'not slow'

test-all: $(VENV)/.installed-dev test-stacks
	$(BIN)/python -m pytest --numprocesses auto

test-stacks: $(VENV)-stacks/.installed
	NNCF_EXTENSION_LOAD_TIMEOUT=600 $(VENV)-stacks/bin/python -m pytest tests/contracts/test_stacks.py tests/stacks

test-targets: $(VENV)-targets/.installed
	$(VENV)-targets/bin/python -m pytest tests/contracts/test_targets.py

coverage: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses auto --cov

check: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python src
	$(BIN)/python docs/site/build.py site

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/site/build.py site

dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python .ci/check_wheel.py dist/*.whl

try-wheel: dist
	.ci/try-wheel dist/*.whl

soak: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/soak.py
	$(BIN)/python benchmarks/wide.py

fuzz: $(VENV)/.installed-dev
	QUIESCE_FUZZ=50 $(BIN)/python -m pytest -q tests/fuzz

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/first_step.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/table.py

bench-inference: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python experiments/tables.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo 'quiesce needs Python 3.10 or newer; name one: make PYTHON=python3.12 ...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The package is installed editable: sources need no second install, only new dependencies do.
$(VENV)/.installed-all: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[all]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed-all

$(VENV)/.installed-bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@ $(VENV)/.installed-all

# Packages that do not fit into the development environment get one of their own, which sees its packages too.
$(VENV)-%/.installed: requirements/%.txt $(VENV)/.installed-dev
	$(BIN)/python -m venv $(VENV)-$*
	dev=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	own=$$($(VENV)-$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	echo "import site; site.addsitedir('$$dev')" > "$$own/development.pth"
	$(VENV)-$*/bin/python -m pip install --quiet --no-deps --requirement $<
	touch $@
