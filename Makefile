# Everything on a fresh machine with Python 3.11 to 3.13 and pip:  make demo
# A CPU-only torch on Linux, a tenth of the download:  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format venv clean
SHELL := /bin/bash

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
STUDY ?= jobs/studies/quickstart.yaml
ARGS  ?=
# One more worker than cores: a test that waits for Ray, for ranks or for a disk leaves its core to another.
WORKERS ?= $(shell $(BIN)/python -c 'import os; print(min(5, 1 + (os.cpu_count() or 1)))')

# The first Python that really starts, is in range and can make a virtual environment (Debian ships venv apart).
FITS   := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c '$(FITS)' >/dev/null 2>&1 && echo $$p && break; done)

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: venv ## run the quickstart study: trials, claims, report
	$(BIN)/mtlfleet launch $(STUDY) $(ARGS)

test: lint ## lint, then every test that is not slow, a file to a worker
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: venv ## the long tests only
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: venv ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv ## rewrite what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

venv: $(STAMP) ## install into .venv, pinned by constraints.txt

# torch first: it is the largest download, and a failure in it should say so alone.
$(STAMP): pyproject.toml constraints.txt
ifeq ($(strip $(PYTHON)),)
	@echo "mtlfleet needs Python 3.11, 3.12 or 3.13 with the venv module; none of python3.11, python3.12, python3.13, python3 fits." >&2
	@echo "  Debian, Ubuntu:  apt-get install python3.11 python3.11-venv" >&2
	@echo "  one elsewhere:   make $(or $(MAKECMDGOALS),venv) PYTHON=/path/to/python3.11" >&2
	@exit 1
else
	@$(PYTHON) -c '$(FITS)' || { echo "$(PYTHON) is not Python 3.11 to 3.13 with the venv module" >&2; exit 1; }
	@echo 'installing into $(VENV): some minutes, torch is large'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,lint]'
	@touch $(STAMP)
endif

clean: ## remove the environment and the tools' caches; results stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
