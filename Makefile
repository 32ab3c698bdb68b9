# SPDX-License-Identifier: Apache-2.0
# `make` lists the targets. A fresh Debian or Ubuntu needs: apt-get install python3-venv make g++ perl git

PYTHON ?= python3
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo test test-slow test-rtl test-random formal mutation lint bench figures docs-tables lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.package $(VENV)/.rtl $(VENV)/.dev ## Make .venv with everything a developer needs
	@:

demo: $(VENV)/.package ## Compile and run the demo model (no torch needed)
	@$(BIN)/python tools/demo.py

test: setup ## Run the tests that are not marked slow
	@$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: setup ## Run the tests marked slow
	@$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-rtl: setup ## Run the tests of the hardware and of everything that simulates it, slow ones too
	@$(BIN)/python -m pytest tests/hw tests/cocotb tests/sim/test_rtl_*.py tests/runtime/test_device_rtl.py tests/cli/test_rtl.py \
		tests/programs/test_rtl_models.py tests/programs/test_random_programs.py tests/programs/test_*_cases.py $(PYTEST_ARGS)

test-random: setup ## Compare random programs on the simulated hardware with the simulator (SEED= COUNT= CONFIG= ONLY=)
	@$(BIN)/python -m tools.random_programs $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT)) \
		$(if $(CONFIG),--config $(CONFIG)) $(if $(ONLY),--only $(ONLY)) $(if $(RECORD),--record)

formal: setup ## Prove what is proved of the hardware, and rewrite the table in docs/formal.md
	@$(BIN)/python -m tools.formal

mutation: setup ## Try the tests of the hardware with faults in it (docs/mutation.md); hours
	@$(BIN)/python -m tools.mutation

lint: setup ## Check style, types, the import contract and the numerics rules
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/python tools/lint_numerics.py sim runtime

bench: setup ## Run the benchmarks; each appends its figures to build/bench.jsonl
	@for file in benchmarks/bench_*.py; do \
		echo "$$file"; $(BIN)/python -m "benchmarks.$$(basename "$$file" .py)" || exit 1; \
	done

figures: setup ## Merge build/bench.jsonl into docs/figures.jsonl and rewrite the tables
	@$(BIN)/python -m tools.figures merge
	@$(BIN)/python -m tools.figures tables

docs-tables: setup ## Rewrite the tables of figures in README.md and docs/
	@$(BIN)/python -m tools.figures tables

lock: ## Resolve requirements/*.in again into requirements/*.lock
	@$(PYTHON) tools/lock.py

clean: ## Remove everything that the other targets made
	rm -rf $(VENV) build dist src/catenary.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# Stamp files: a target runs again only when the file that it was made from has changed.
$(VENV)/.core: requirements/core.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python must be 3.11 or later, not " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing requirements/core.lock"
	@$(PIP) -r requirements/core.lock
	@touch $@

$(VENV)/.package: pyproject.toml $(VENV)/.core
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.rtl: requirements/rtl.lock $(VENV)/.core
	@echo "installing requirements/rtl.lock"
	@$(PIP) -r requirements/rtl.lock
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.core
	@echo "installing requirements/dev.lock"
	@$(PIP) -r requirements/dev.lock
	@touch $@
