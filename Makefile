# Each target makes its own environment in .venv first; nothing has to be installed by hand but Python >= 3.11.
# PYTHON=/path/to/python chooses the interpreter; PYTEST="-k placement -x" is passed to pytest, which runs the files of
# tests on JOBS processes.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PYTHON ?=
PYTEST ?=
SEEDS ?= 5000
JOBS ?= 2

.PHONY: help demo test traces prove bench figures lint settings reference clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP) ## Start 5 nodes, write, kill a primary under load, read everything back
	@$(PY) launch/demo.py

test: lint ## Run ruff, mypy and all tests (about 5 minutes)
	@$(PY) -m pytest --numprocesses $(JOBS) --dist loadfile $(PYTEST) tests

traces: $(STAMP) ## Print the four traces: each command and what came back
	@$(PY) launch/traces.py

prove: $(STAMP) ## Run the slow tests, and simulate many more seeds than the tests do (SEEDS=5000 JOBS=2)
	@ZKVTEST_FULL=1 $(PY) -m pytest -m slow tests
	@$(PY) -m zkv.sim --first-seed 100000 --seeds $(SEEDS) --jobs $(JOBS)
	@$(PY) -m zkv.sim --dumps --first-seed 100000 --seeds $$(($(SEEDS) / 10)) --jobs $(JOBS)

bench: $(STAMP) ## Run every experiment, write results/ (about an hour; has a use for redis-server)
	@$(PY) -m pip install -qq --disable-pip-version-check --editable '.[experiments]'
	@$(PY) experiments/throughput.py
	@$(PY) experiments/throughput.py --part rounds
	@$(PY) experiments/failover.py
	@$(PY) experiments/false_alarm.py
	@$(PY) experiments/recovery.py
	@$(PY) experiments/respawn.py
	@$(PY) experiments/elasticity.py
	@$(PY) experiments/planning.py
	@$(PY) experiments/large.py
	@$(PY) experiments/sessions.py
	@$(PY) experiments/threads.py
	@$(PY) experiments/slow_replica.py
	@$(PY) experiments/redis_py.py
	@$(PY) experiments/expiry.py
	@$(PY) experiments/memory.py
	@$(PY) experiments/scans.py
	@$(PY) experiments/balance.py
	@$(PY) experiments/stress.py
	@$(PY) experiments/stress.py --get-qps 600 --set-qps 200 --ttl 0.5s --num-keys 1000 --churn
	@$(PY) experiments/soak.py
	@$(PY) experiments/figures.py
	@$(PY) experiments/run_notebooks.py

figures: $(STAMP) ## Draw results/figures/ from results/ and run the notebooks (no experiment is run)
	@$(PY) -m pip install -qq --disable-pip-version-check --editable '.[experiments]'
	@$(PY) experiments/figures.py
	@$(PY) experiments/run_notebooks.py

lint: $(STAMP) ## Run ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m mypy

settings: $(STAMP) ## Write docs/SETTINGS.md from the settings' definitions
	@$(PY) -m zkv.core.settings > docs/SETTINGS.md

reference: $(STAMP) ## Write docs/REFERENCE.md from the docstrings
	@$(PY) docs/reference.py > docs/REFERENCE.md

clean: ## Remove the environment and what the tools left behind
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made anew whenever what the package needs has changed.
$(STAMP): setup.cfg pyproject.toml
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
	    for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	        if command -v "$$name" > /dev/null \
	            && "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	            python="$$name"; break; \
	        fi; \
	    done; \
	fi; \
	if [ -z "$$python" ]; then \
	    echo "zkv needs Python 3.11 or newer, and there is none on the PATH; make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; \
	    exit 1; \
	fi; \
	if ! $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv --clear $(VENV) || { \
	        echo "could not make $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	fi
	@echo "installing zkv and its tools into $(VENV)"
	@$(PY) -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@touch $@
