# One word a chore, the same for people and for CI; each makes what it needs. PYTHON=python3.12 picks an interpreter.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
SEEDS  ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench verify docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## a population learns without a server while its hub-based twin dies; ends with a report
	@$(BIN)/hubless demo

test: $(READY)  ## all tests, in parallel; a warning is an error
	@$(BIN)/pytest

lint: $(READY)  ## style, types, and whether the generated docs are fresh
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/hubless docs --check

format: $(READY)  ## put the code in shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY)  ## time and memory of engine, codecs, backends and network, beside what one would use instead
	@$(BIN)/python benchmarks/learning.py
	@$(BIN)/python benchmarks/robust.py
	@$(BIN)/python benchmarks/codecs.py
	@$(BIN)/python benchmarks/backends.py
	@$(BIN)/python benchmarks/simulator.py
	@$(BIN)/python benchmarks/network.py
	@$(BIN)/python benchmarks/crdt.py

verify: $(READY)  ## run every recipe's claims (SEEDS=3) and refresh the results table
	@$(BIN)/hubless verify --all --seeds $(SEEDS) --update-docs

docs: $(READY)  ## write the generated pages of docs/
	@$(BIN)/hubless docs

clean:  ## remove the virtual environment and caches; runs stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "hubless needs Python 3.11 or later, and '$(PYTHON)' is not that: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "installing into $(VENV): a few minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
