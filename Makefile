# make demo    synthetic digits with a privacy statement, from a fresh clone, in a few minutes
# make test    the whole test suite
# `make` alone lists the rest. Another Python than python3: make demo PYTHON=python3.12

PYTHON ?= python3
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
# --no-compile: Python compiles what is imported; all of it at once takes a minute, and most is never read.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-compile -c constraints.txt
DEMO := runs/digits

.DEFAULT_GOAL := help
.PHONY: help install dev demo test lint format results clean

help:
	@echo 'make demo     train on digits, sample, evaluate, report: $(DEMO)'
	@echo 'make test     the whole test suite'
	@echo 'make lint     formatting, lint, types and import rules'
	@echo 'make format   formats the code'
	@echo 'make results  writes the tables of docs/ anew from docs/results/*.jsonl; measures nothing'
	@echo 'make install  only creates $(VENV) with dpdm in it'
	@echo 'make dev      the same, with what development needs'
	@echo 'make clean    removes $(VENV) and caches; runs/ stays'

install: $(VENV)/.installed

dev: $(VENV)/.installed-dev

# Both depend on what is installed, so that a second call installs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing dpdm and what it needs into $(VENV) (torch is large: minutes, the first time)'
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo 'Installing what development needs into $(VENV)'
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
		echo 'error: $(PYTHON): not found; install Python 3.11 or newer, or name one: make PYTHON=python3.12' >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); dpdm needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; \
		exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		rm -rf $(VENV); \
		echo 'error: $(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv' >&2; \
		exit 1; }

demo: $(VENV)/.installed
	@if [ -f $(DEMO)/release/report.html ] && [ -f $(DEMO)/private/report.html ]; then \
		echo 'The demo has run. Its reports:'; \
		echo '  $(DEMO)/private/report.html   with the evaluation on real images; stays here'; \
		echo '  $(DEMO)/release/report.html   covered by the guarantee; may leave the building'; \
		echo 'Once more: $(BIN)/dpdm run digits --out runs/another'; \
	elif [ -f $(DEMO)/private/config.yaml ]; then \
		$(BIN)/dpdm run digits --out $(DEMO) --resume; \
	else \
		$(BIN)/dpdm run digits --out $(DEMO); \
	fi

# One thread a process: JOBS processes share the cores.
test: $(VENV)/.installed-dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/digits.py --document
	$(BIN)/python benchmarks/baselines.py --document
	$(BIN)/python benchmarks/recipes.py --document
	$(BIN)/python benchmarks/colour.py --document
	$(BIN)/python benchmarks/grey.py --document
	$(BIN)/python benchmarks/sweeps.py
	$(BIN)/python benchmarks/reproduce.py --document
	$(BIN)/python benchmarks/trials.py
	$(BIN)/python benchmarks/accountants.py --document
	$(BIN)/python benchmarks/audit.py --document
	$(BIN)/python benchmarks/protocol.py --document
	$(BIN)/python benchmarks/sizes.py --document
	$(BIN)/python benchmarks/corners.py --document
	$(BIN)/python benchmarks/document.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
