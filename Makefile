# The README's commands. Each makes the environment it needs; nothing else has to be installed
# than Python 3.11 or later with pip and venv.
PYTHON ?= python3
SHELL := /bin/bash

VENV := .venv
ORACLE := .venv-oracle
NEW := .venv-newest
PIP = $(VENV)/bin/python -m pip install -q --disable-pip-version-check -c $(VENV)/constraints.txt
DATA ?= ../shared/data
SEED ?= 1
JOBS ?= 2

.PHONY: demo test test-slow test-newest test-oracle fuzz kill lint bench bench-accelerator docs clean help

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/installed ## encode, score and picture the embedded data (writes demo/)
	$(VENV)/bin/python -m experiments.demo

# Tests compile a thousand tiny programs: LLVM's optimiser would take most of the time, and XLA's
# fusion emitters most of the rest. An XLA that does not know the second option stops at once.
define pytest
	fast="--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"; \
	XLA_FLAGS="$$fast" $(1)/bin/python -c "import jax; jax.devices()" 2>/dev/null || fast="$${fast% *}"; \
	XLA_FLAGS="$$fast" $(1)/bin/python -m pytest -n 2 -m
endef

test: $(VENV)/installed-test ## the tests, but for those that are slow or need torch
	$(call pytest,$(VENV)) "not oracle and not slow"

test-slow: $(VENV)/installed-test ## the slow ones: notebooks, wheels, kills, hostile input, several processes
	$(call pytest,$(VENV)) "slow and not oracle"

# The other end: the newest Python at hand, which NEWEST=/path/to/python chooses, and the newest
# versions that our requirements allow. The first that runs is taken; pyenv's need not be on the PATH.
NEWEST ?= $(shell for minor in 14 13 12; do \
	for python in python3.$$minor $(HOME)/.pyenv/versions/3.$$minor.*/bin/python; do \
	$$python -c "import venv" 2>/dev/null && echo $$python && exit; done; done)

test-newest: ## the fast tests with the newest Python at hand (NEWEST=python3.13)
	@if test -z "$(NEWEST)"; then echo "test-newest: no Python newer than 3.11 is at hand; nothing is tested"; \
	else $(MAKE) --no-print-directory $(NEW)/installed NEWEST=$(NEWEST) && \
	echo "test-newest: $(NEWEST)" && $(NEW)/bin/python --version && \
	$(NEW)/bin/python -m pip list --disable-pip-version-check | grep -E "^(jax|jaxlib|flax|numpy) " && \
	$(MAKE) --no-print-directory test-fast; fi

test-fast: $(NEW)/installed
	$(call pytest,$(NEW)) "not oracle and not slow"

test-oracle: $(ORACLE)/installed ## compare live with torch and sentence-transformers
	$(ORACLE)/bin/python -m pytest -m oracle tests/oracle

# Short runs of both are part of the tests; see docs/reliability.md.
fuzz: $(VENV)/installed-test ## 10,000 cases of hostile input (SEED=1 JOBS=2)
	$(VENV)/bin/python -m tests.campaign.fuzz --cases 10000 --seed $(SEED) --jobs $(JOBS) \
		--output experiments/results/reliability_fuzz_$(SEED).json

kill: $(VENV)/installed-test ## 1,000 kills at any moment (SEED=1 JOBS=2)
	$(VENV)/bin/python -m tests.campaign.kill --kills 1000 --seed $(SEED) --jobs $(JOBS) \
		--output experiments/results/reliability_kill_$(SEED).json

lint: $(VENV)/installed-test ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(ORACLE)/installed ## speed beside PyTorch (writes experiments/results/)
	$(ORACLE)/bin/python -m experiments.bench.cold_start
	$(ORACLE)/bin/python -m experiments.bench.encode --data $(DATA)/senteval
	$(ORACLE)/bin/python -m experiments.bench.growth --data $(DATA)/senteval
	$(ORACLE)/bin/python -m experiments.bench.train --train-file $(DATA)/wikipedia/wiki1m_head.txt
	$(ORACLE)/bin/python -m experiments.bench.info_nce --sizes 1024 2048 4096 8192 16384 32768 --repeats 3
	$(ORACLE)/bin/python -m experiments.bench.bfloat16 --data $(DATA)/senteval --train-file $(DATA)/wikipedia/wiki1m_head.txt

bench-accelerator: $(ORACLE)/installed ## what a GPU does, beside PyTorch (on a CPU in small)
	$(ORACLE)/bin/python -m experiments.bench.accelerator --train-file $(DATA)/wikipedia/wiki1m_head.txt

docs: $(VENV)/installed-docs ## the documentation site (writes docs/_build/html)
	$(VENV)/bin/python -m sphinx -W --keep-going -b html docs docs/_build/html

clean: ## remove the environments and what the demo wrote
	rm -rf $(VENV) $(ORACLE) $(NEW) demo docs/_build docs/api docs/notebooks tests/.xla_cache

# A file marks a finished installation, so that one that was cut short is begun again. Python 3.11,
# the oldest, gets the oldest versions too: there the tests run with the lower bounds, each exactly.
$(VENV)/installed: requirements.txt requirements-embedded.txt setup.cfg
	$(PYTHON) -c 'import sys; sys.exit("simcse_jax needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	if $(VENV)/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; \
	then sed -E '/^#/d; s/,.*//; s/>=/==/' requirements.txt; fi > $(VENV)/constraints.txt
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -r requirements-embedded.txt
	$(PIP) --no-deps -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed requirements-test.txt
	$(PIP) -r requirements-test.txt
	touch $@

$(VENV)/installed-docs: $(VENV)/installed requirements-docs.txt
	$(PIP) -r requirements-docs.txt
	touch $@

$(ORACLE)/installed: requirements.txt requirements-embedded.txt requirements-test.txt requirements-oracle.txt setup.cfg
	test -x $(ORACLE)/bin/python || $(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/python -m pip install -q --disable-pip-version-check -r requirements-oracle.txt
	$(ORACLE)/bin/python -m pip install -q --disable-pip-version-check -r requirements.txt -r requirements-test.txt
	$(ORACLE)/bin/python -m pip install -q --disable-pip-version-check --no-deps -r requirements-embedded.txt
	$(ORACLE)/bin/python -m pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

$(NEW)/installed: requirements.txt requirements-embedded.txt requirements-test.txt setup.cfg
	$(NEWEST) -m venv --clear $(NEW)
	$(NEW)/bin/python -m pip install -q --disable-pip-version-check -r requirements.txt -r requirements-test.txt
	$(NEW)/bin/python -m pip install -q --disable-pip-version-check --no-deps -r requirements-embedded.txt
	$(NEW)/bin/python -m pip install -q --disable-pip-version-check --no-deps -e .
	touch $@
